"""What every network family has to keep: a supernet's subnets are ordinary networks that share its tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latency_tables.counting import counted_macs
from search_spaces import Architecture, BlockSpec, SearchSpace, population_cost
from supernets import Supernet, SupernetError, family_of
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
        """Bit for bit: both run the same kernels on equal numbers. Parameters and MACs are counted on the module."""
        space = supernet.space
        x_BCHW = _images(space, 1)
        for architecture in self._drawn(space, self.samples, 0):
            extracted = supernet.extract(architecture)
            assert torch.equal(supernet(x_BCHW, architecture), extracted(x_BCHW))
            graph = space.lower(architecture)
            assert counted_macs(extracted, x_BCHW) == graph.macs
            assert sum(parameter.numel() for parameter in extracted.parameters()) == graph.params

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

        def gradient(*architectures: Architecture) -> Tensor:
            supernet.zero_grad()
            for architecture in architectures:
                _backward(supernet, architecture, x_BCHW)
            found = next(supernet.parameters()).grad
            assert found is not None
            return found.clone()

        both = gradient(space.smallest, space.largest)
        assert torch.allclose(both, gradient(space.smallest) + gradient(space.largest), rtol=1e-5, atol=1e-9)

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
        norms = {name: m for name, m in supernet.network.named_modules() if isinstance(m, nn.BatchNorm2d)}
        if not norms:
            pytest.skip(f"networks of `{supernet.space.name}` have no running statistics")
        first, norm = next(iter(norms.items()))
        assert norm.running_mean is not None
        before = norm.running_mean.clone()
        supernet.train()
        with torch.no_grad():
            supernet(_images(supernet.space), supernet.space.smallest)
        changed = norm.running_mean != before
        width = supernet.extract(supernet.space.smallest).get_parameter(f"{first}.weight").numel()
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
        for tensor in supernet.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator).abs())
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
