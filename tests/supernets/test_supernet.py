"""The supernet of every registered search space against the contract, and statistics that are estimated anew."""

from __future__ import annotations

import torch
from torch import nn

from nas.testing import NetworkFamilyContract
from search_spaces import SearchSpace, get_space, population_cost, space_names
from supernets import Supernet, reestimate_batch_norm

LARGEST_PARAMS = 100_000_000
"""Supernets with more are not made here: each test holds several copies of all tensors."""


def affordable_spaces() -> list[str]:
    spaces = [get_space(name) for name in space_names()]
    sizes = [population_cost(space, space.encode([space.largest])).params[0] for space in spaces]
    return [space.name for space, size in zip(spaces, sizes, strict=True) if size <= LARGEST_PARAMS]


def registered(name: str) -> type[NetworkFamilyContract]:
    class Registered(NetworkFamilyContract):
        def make_space(self) -> SearchSpace:
            return get_space(name)

    return Registered


globals().update({f"Test {name}": registered(name) for name in affordable_spaces()})


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
