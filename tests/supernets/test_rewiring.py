"""Re-ordering of heads and hidden units: the largest network computes what it did, prefixes hold what matters."""

from __future__ import annotations

import pytest
import torch

from search_spaces import SearchSpace, get_space, population_cost, space_names
from supernets import Supernet, family_of
from supernets.rewiring import REWIRED, axis_importance, by_moment, permute_axis, rewire
from supernets.sampling.multi_architecture import MultiArchitecturePolicy

LARGEST_PARAMS = 30_000_000
"""Supernets with more are not made here."""


def is_affordable(space: SearchSpace) -> bool:
    family = family_of(space)
    has_free_axes = any(set(REWIRED) & family.sizes(spec).keys() for _, spec in space.shared_blocks())
    return has_free_axes and population_cost(space, space.encode([space.largest])).params[0] <= LARGEST_PARAMS


def affordable_spaces() -> list[str]:
    return [name for name in space_names() if is_affordable(get_space(name))]


def perturbed(name: str) -> Supernet:
    """A supernet whose every parameter and statistic is away from its initial value."""
    supernet = Supernet(get_space(name)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in supernet.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator).abs())
    return supernet


def images(supernet: Supernet) -> torch.Tensor:
    side = supernet.space.image_side
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize("name", affordable_spaces())
def test_the_largest_network_computes_what_it_did(name: str) -> None:
    supernet = perturbed(name)
    x_BCHW = images(supernet)
    largest, smallest = supernet(x_BCHW, supernet.space.largest), supernet(x_BCHW, supernet.space.smallest)
    rewire(supernet)
    difference = (supernet(x_BCHW, supernet.space.largest) - largest).abs().max()
    assert difference < 1e-5 * max(1, float(largest.abs().max()))
    assert (supernet(x_BCHW, supernet.space.smallest) - smallest).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", affordable_spaces())
def test_importance_descends_along_every_sorted_axis(name: str) -> None:
    supernet = perturbed(name)
    rewire(supernet)
    found = 0
    for block, spec in supernet.space.blocks(supernet.space.largest):
        axes, sizes = supernet.family.axes(spec), supernet.family.sizes(spec)
        parameters = dict(supernet.network.get_submodule(block).named_parameters())
        for axis in set(REWIRED) & sizes.keys():
            importance = axis_importance(parameters, axes, sizes, axis)
            assert (importance.diff() <= 1e-4).all(), (block, axis)
            found += 1
    assert found > 0


def test_importance_counts_rows_biases_and_columns() -> None:
    tensors = {"expand": torch.tensor([[1.0, -2.0], [3.0, 0.0], [0.0, 0.5]]), "bias": torch.tensor([-1.0, 0.0, 9.0])}
    tensors["project"] = torch.tensor([[1.0, 1.0, -1.0]])
    axes = {"expand": "hidden embed", "bias": "hidden", "project": "embed hidden"}
    with pytest.raises(ValueError, match="do not make up the dimension"):
        axis_importance(tensors, axes, {"hidden": 3, "embed": 2}, "hidden")
    axes["project"] = ". hidden"
    importance = axis_importance(tensors, axes, {"hidden": 3, "embed": 2}, "hidden")
    assert importance.tolist() == [5.0, 4.0, 10.5]


def test_a_merged_axis_is_permuted_inside_its_dimension() -> None:
    weight = torch.arange(12.0).reshape(12, 1).repeat(1, 2)  # rows: three parts of two heads of two channels
    tensors = {"qkv": weight.clone(), "table": torch.arange(8.0).reshape(2, 2, 2)}
    axes = {"qkv": "(three head channel) embed", "table": "offset:centre offset:centre head"}
    sizes = {"three": 3, "head": 2, "channel": 2, "embed": 2, "offset": 2}
    permute_axis(tensors, axes, sizes, "head", torch.tensor([1, 0]))
    assert tensors["qkv"][:, 0].tolist() == [2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9]
    assert tensors["table"].flatten().tolist() == [1, 0, 3, 2, 5, 4, 7, 6]


def test_an_axis_that_keeps_its_centre_has_no_free_order() -> None:
    with pytest.raises(ValueError, match="the order of `kernel` is not free"):
        permute_axis({"w": torch.ones(3)}, {"w": "kernel:centre"}, {"kernel": 3}, "kernel", torch.arange(3))


def trained(supernet: Supernet, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        x_BCHW = torch.randn(4, 3, supernet.space.image_side, supernet.space.image_side, generator=generator)
        supernet(x_BCHW, supernet.space.largest).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("moves", [True, False])
def test_training_goes_on_as_if_nothing_had_happened_only_where_moments_move_along(moves: bool) -> None:
    def after(rewires: bool) -> torch.Tensor:
        supernet = perturbed("asvit-mini")
        optimizer = torch.optim.AdamW(supernet.parameters(), lr=1e-3)
        trained(supernet, optimizer, 3)
        if rewires:
            moments = {name: optimizer.state[parameter] for name, parameter in supernet.named_parameters()}
            assert all({"step", "exp_avg", "exp_avg_sq"} == state.keys() for state in moments.values())
            rewire(supernet, by_moment(moments) if moves else [])
        trained(supernet, optimizer, 1)
        with torch.no_grad():
            return supernet(images(supernet), supernet.space.largest)

    difference = (after(rewires=True) - after(rewires=False)).abs().max()
    assert (difference < 1e-4) == moves


@torch.no_grad()
@pytest.mark.parametrize(("epoch", "moves"), [(0, False), (30, True), (31, False)])
def test_a_training_sorts_until_the_first_epoch_with_all_choices(epoch: int, moves: bool) -> None:
    """An average of the weights goes along in any case, running statistics included; moments only if asked."""
    supernet = perturbed("elastic-mini")
    average = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    moments = {name: {"exp_avg": p.clone(), "step": torch.ones(())} for name, p in supernet.named_parameters()}
    before = {name: tensor.clone() for name, tensor in average.items()}
    sampler = MultiArchitecturePolicy(moves_moments=moves).begin(supernet.space, 0)
    sampler.before_epoch(epoch, 120, supernet, moments, average)
    changed = [name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[name])]
    assert bool(changed) == (epoch <= 30)
    for name, tensor in supernet.state_dict().items():
        assert torch.equal(average[name], tensor), name
    for name, parameter in supernet.named_parameters():
        assert torch.equal(moments[name]["exp_avg"], parameter if moves else before[name]), name
