"""The supernet of every registered search space against the contract, and statistics that are estimated anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from nas.testing import NetworkFamilyContract
from search_spaces import SearchSpace, get_space, population_cost, space_names
from supernets import Supernet, reestimate_batch_norm

LARGEST_PARAMS = 100_000_000
"""Supernets with more are not made here: each test holds several copies of all tensors."""
QUICK_MACS = 4_000_000_000
"""MACs of the largest network of a space above which its tests are slow."""


def registered(name: str, is_slow: bool) -> type[NetworkFamilyContract]:
    class Registered(NetworkFamilyContract):
        samples = NetworkFamilyContract.samples if is_slow else 6
        macs = (4 if is_slow else 1) * NetworkFamilyContract.macs

        def make_space(self) -> SearchSpace:
            return get_space(name)

    return pytest.mark.slow(Registered) if is_slow else Registered


def affordable_spaces() -> Iterator[tuple[str, bool]]:
    """Names of the spaces whose supernets are made here, and whether that is slow."""
    for space in map(get_space, space_names()):
        cost = population_cost(space, space.encode([space.largest]))
        if cost.params[0] <= LARGEST_PARAMS:
            yield space.name, bool(cost.macs[0] > QUICK_MACS)


globals().update({f"Test {name}": registered(name, is_slow) for name, is_slow in affordable_spaces()})


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
