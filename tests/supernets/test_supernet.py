"""Golden invariants of the supernet of every registered search space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from latency_tables.counting import counted_macs
from search_spaces import Architecture, SearchSpace, get_space, population_cost, space_names
from supernets import Supernet, SupernetError, reestimate_batch_norm

LARGEST_PARAMS = 100_000_000
"""Supernets with more are not made here: each test holds several copies of all tensors."""
LARGEST_MACS = 20_000_000_000
"""What the networks that one test runs may cost together."""


def affordable_spaces() -> list[str]:
    spaces = [get_space(name) for name in space_names()]
    sizes = [population_cost(space, space.encode([space.largest])).params[0] for space in spaces]
    return [space.name for space, size in zip(spaces, sizes, strict=True) if size <= LARGEST_PARAMS]


@pytest.fixture(scope="module", params=affordable_spaces())
def supernet(request: pytest.FixtureRequest) -> Supernet:
    """A supernet whose every parameter and statistic is away from its initial value."""
    supernet = Supernet(get_space(request.param))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in supernet.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator).abs())
    return supernet


def drawn(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """``count`` architectures, or the first of them that are affordable together."""
    genotypes = space.sample(count, np.random.default_rng(seed))
    affordable = np.cumsum(population_cost(space, genotypes).macs) <= LARGEST_MACS
    assert affordable.sum() >= min(count, 10)
    return space.decode(genotypes[affordable])


def images(space: SearchSpace, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, space.image_side, space.image_side, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_extracted_equals_active_and_counts_agree(supernet: Supernet) -> None:
    """Bit for bit: both run the same kernels on equal numbers. Parameters and MACs are counted on the module."""
    space = supernet.space
    supernet.eval()
    x_BCHW = images(space, 1)
    for architecture in drawn(space, 50, seed=0):
        extracted = supernet.extract(architecture)
        active = supernet(x_BCHW, architecture)
        assert torch.equal(active, extracted(x_BCHW))
        graph = space.lower(architecture)
        assert counted_macs(extracted, x_BCHW) == graph.macs
        assert sum(parameter.numel() for parameter in extracted.parameters()) == graph.params


@torch.no_grad()
def test_largest_subnet_is_the_shared_network(supernet: Supernet) -> None:
    supernet.eval()
    x_BCHW = images(supernet.space)
    assert torch.equal(supernet(x_BCHW, supernet.space.largest), supernet.network(x_BCHW))


def test_borrowed_gradients_equal_those_through_the_narrowing(supernet: Supernet) -> None:
    space = supernet.space
    supernet.train()
    x_BCHW = images(space)
    for architecture in [space.smallest, *space.decode(space.sample(2, np.random.default_rng(4)))]:
        supernet.zero_grad()
        supernet(x_BCHW, architecture).square().mean().backward()
        expected = {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}
        supernet.zero_grad()
        with supernet.borrow(architecture) as subnet:
            subnet(x_BCHW).square().mean().backward()
        found = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert torch.equal(found[name], gradient), name


def test_gradients_of_several_subnets_add_up(supernet: Supernet) -> None:
    space = supernet.space
    supernet.eval()
    x_BCHW = images(space)

    def gradient(*architectures: object) -> torch.Tensor:
        supernet.zero_grad()
        for architecture in architectures:
            with supernet.borrow(architecture) as subnet:  # type: ignore[arg-type]
                subnet(x_BCHW).square().mean().backward()
        return next(supernet.parameters()).grad.clone()  # type: ignore[union-attr]

    both = gradient(space.smallest, space.largest)
    assert torch.allclose(both, gradient(space.smallest) + gradient(space.largest), rtol=1e-5, atol=1e-9)


def test_an_error_inside_a_borrow_leaves_no_gradient(supernet: Supernet) -> None:
    supernet.eval()
    supernet.zero_grad()

    def step_that_fails() -> None:
        with supernet.borrow(supernet.space.smallest) as subnet:
            subnet(images(supernet.space)).square().mean().backward()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        step_that_fails()
    assert all(parameter.grad is None for parameter in supernet.parameters())


def test_running_statistics_change_in_place(supernet: Supernet) -> None:
    norms = {name: m for name, m in supernet.network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    if not norms:
        pytest.skip(f"networks of `{supernet.space.name}` have no running statistics")
    first, norm = next(iter(norms.items()))
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    supernet.train()
    with torch.no_grad():
        supernet(images(supernet.space), supernet.space.smallest)
    changed = norm.running_mean != before
    width = supernet.extract(supernet.space.smallest).get_parameter(f"{first}.weight").numel()
    assert changed[:width].all()
    assert not changed[width:].any()


@torch.no_grad()
def test_reestimated_statistics_are_those_of_the_batches() -> None:
    space = get_space("elastic-mini")
    network = Supernet(space).extract(space.smallest).eval()
    batches = [torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    reestimate_batch_norm(network, batches)
    norm = network.get_submodule("stem.conv.norm")
    convolved = [network.get_submodule("stem.conv.conv")(_resized(network, batch)) for batch in batches]
    expected = torch.stack([y.mean(dim=(0, 2, 3)) for y in convolved]).mean(dim=0)
    assert torch.allclose(norm.running_mean, expected, atol=1e-5)  # type: ignore[arg-type]
    assert not network.training
    assert norm.momentum == 0.1


def _resized(network: nn.Module, x_BCHW: torch.Tensor) -> torch.Tensor:
    from supernets.networks.elasticvit import resize_images

    return resize_images(x_BCHW, int(network.input_side))  # type: ignore[arg-type]


def test_foreign_architecture_is_refused(supernet: Supernet) -> None:
    other = next(name for name in space_names() if name != supernet.space.name)
    with pytest.raises(SupernetError, match="expected one of"):
        supernet(images(supernet.space), get_space(other).smallest)
