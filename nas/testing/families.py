"""What every network family has to keep: a supernet's subnets are ordinary networks that share its tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from latency_tables.counting import counted_macs
from search_spaces import Architecture, BlockSpec, SearchSpace, population_cost
from supernets import Supernet, SupernetError, family_of, network_config
from supernets.narrowing import make_narrowing


class NetworkFamilyContract(ABC):
    """What a space and its network family have to do together. Subclass it, give `make_space`, and run pytest.

    Attributes:
        samples: Architectures that the slowest test draws.
        macs: MACs that the networks of a test may have together; fewer are drawn where they would have more.
    """

    samples: int = 50
    macs: int = 20_000_000_000

    @abstractmethod
    def make_space(self) -> SearchSpace:
        """A space whose networks the family builds; preferably the same object each time, and a small one."""

    @pytest.fixture
    def supernet(self) -> Supernet:
        """A supernet in evaluation mode, without gradients; no tensor has its initial value."""
        supernet = _shaken(self.make_space()).eval()
        supernet.zero_grad()
        return supernet

    def test_axes_describe_every_tensor(self) -> None:
        """And narrow each tensor of the shared block to the shape that the smaller block's module has."""
        space = self.make_space()
        family, shared = family_of(space), dict(space.shared_blocks())
        specs = {pair for each in self._drawn(space, 8, 5) for pair in space.blocks(each)}
        for name, spec in specs:
            full, own = _shapes(space, shared[name]), _shapes(space, spec)
            axes = family.axes(spec)
            for tensor, shape in own.items():
                assert tensor in axes, f"no axes for `{tensor}` of {spec}"
                narrowing = make_narrowing(axes[tensor], full[tensor], family.sizes(shared[name]), family.sizes(spec))
                assert tuple(narrowing.shape) == shape, f"`{tensor}` of {spec}"

    @torch.no_grad()
    def test_extracted_equals_active_and_counts_agree(self, supernet: Supernet) -> None:
        """Bit for bit: both run the same kernels on equal numbers.

        The network as it is deployed computes the same up to rounding; parameters and MACs are counted on it.
        """
        space = supernet.space
        family, x_BCHW = family_of(space), _images(space, 1)
        for architecture in self._drawn(space, self.samples, 0):
            extracted = supernet.extract(architecture)
            expected_BK = extracted(x_BCHW)
            assert torch.equal(supernet(x_BCHW, architecture), expected_BK)
            deployed = family.deploy(extracted)
            assert (deployed(x_BCHW) - expected_BK).abs().max() <= 1e-5 * expected_BK.abs().max()
            graph = space.lower(architecture)
            assert counted_macs(deployed, x_BCHW) == graph.macs
            assert sum(parameter.numel() for parameter in deployed.parameters()) == graph.params
            with torch.device("meta"):
                described = family.build_network(family.deployed_config(network_config(space, architecture)))
            described.load_state_dict(deployed.state_dict(), assign=True)

    @torch.no_grad()
    def test_largest_subnet_is_the_shared_network(self, supernet: Supernet) -> None:
        """Unless a slot holds alternatives, whose union no network has."""
        space = supernet.space
        if list(space.shared_blocks()) != list(space.blocks(space.largest)):
            pytest.skip(f"space `{space.name}` has slots with alternatives")
        x_BCHW = _images(space)
        assert torch.equal(supernet(x_BCHW, space.largest), supernet.network(x_BCHW))

    def test_borrowed_gradients_equal_those_through_the_narrowing(self, supernet: Supernet) -> None:
        """Bit for bit, and no other tensor gets one."""
        space = supernet.train().space
        x_BCHW = _images(space)
        for architecture in [space.smallest, *space.decode(space.sample(2, np.random.default_rng(4)))]:
            supernet.zero_grad()
            supernet(x_BCHW, architecture).square().mean().backward()
            expected = {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}
            supernet.zero_grad()
            _backward(supernet, architecture, x_BCHW)
            found = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
            assert found.keys() == expected.keys()
            for name, gradient in expected.items():
                assert torch.equal(found[name], gradient), name

    def test_gradients_of_several_subnets_add_up(self, supernet: Supernet) -> None:
        """Those of one step are the sum of each subnet's own."""
        space = supernet.space
        x_BCHW = _images(space)

        def gradients(*architectures: Architecture) -> dict[str, Tensor]:
            supernet.zero_grad()
            for architecture in architectures:
                _backward(supernet, architecture, x_BCHW)
            return {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}

        first, second = gradients(space.smallest), gradients(space.largest)
        both = gradients(space.smallest, space.largest)
        assert both.keys() == first.keys() | second.keys()
        shared = next(name for name in first if name in second)
        assert torch.allclose(both[shared], first[shared] + second[shared], rtol=1e-5, atol=1e-9)

    def test_an_error_inside_a_borrow_leaves_no_gradient(self, supernet: Supernet) -> None:
        """A step that failed is as if it had never begun."""

        def step_that_fails() -> None:
            with supernet.borrow(supernet.space.smallest) as subnet:
                subnet(_images(supernet.space)).square().mean().backward()  # type: ignore[no-untyped-call]
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            step_that_fails()
        assert all(parameter.grad is None for parameter in supernet.parameters())

    def test_running_statistics_change_in_place(self, supernet: Supernet) -> None:
        """Those of the channels that ran, and no others."""
        space = supernet.train().space
        for architecture in [space.smallest, *self._drawn(space, 8, 6)]:
            norms = {name: m for name, m in supernet.extract(architecture).named_modules() if isinstance(m, _BatchNorm)}
            if norms:
                break
        else:
            pytest.skip(f"networks of `{space.name}` have no running statistics")
        first, own = next(iter(norms.items()))
        shared = supernet.network.get_submodule(first).running_mean
        assert isinstance(shared, Tensor)
        before, width = shared.clone(), own.num_features
        with torch.no_grad():
            supernet(_images(space), architecture)
        changed = shared != before
        assert changed[:width].all()
        assert not changed[width:].any()

    def test_foreign_architectures_are_refused(self, supernet: Supernet) -> None:
        """An architecture of another space has other tensors."""
        smallest = supernet.space.smallest
        with pytest.raises(SupernetError, match="expected one of"):
            supernet(_images(supernet.space), Architecture("foreign", smallest.version, smallest.settings))

    def _drawn(self, space: SearchSpace, count: int, seed: int) -> list[Architecture]:
        genotypes = space.sample(count, np.random.default_rng(seed))
        affordable = np.cumsum(population_cost(space, genotypes).macs) <= self.macs
        assert affordable.sum() >= min(count, 5), f"networks of `{space.name}` are too large for `macs`"
        return space.decode(genotypes[affordable])


@lru_cache(maxsize=1)
def _shaken(space: SearchSpace) -> Supernet:
    supernet = Supernet(space)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.02 * torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return supernet


def _images(space: SearchSpace, count: int = 2) -> Tensor:
    return torch.randn(count, 3, space.image_side, space.image_side, generator=torch.Generator().manual_seed(2))


def _backward(supernet: Supernet, architecture: Architecture, x_BCHW: Tensor) -> None:
    with supernet.borrow(architecture) as subnet:
        subnet(x_BCHW).square().mean().backward()  # type: ignore[no-untyped-call]


def _shapes(space: SearchSpace, spec: BlockSpec) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = family_of(space).build_block(spec)
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict(keep_vars=True).items()}
