"""Groups of networks to measure: deterministic, spread, and graphs that describe their modules."""

from __future__ import annotations

import pytest
import torch

from nas.latency.samples import group_names, latency_samples
from search_spaces import get_space
from search_spaces.errors import UnknownNameError


def test_a_space_is_spread_between_its_ends() -> None:
    space = get_space("elastic-mini")
    samples = latency_samples("elastic-mini", 8, seed=3)
    macs = [sample.graph.macs for sample in samples]
    assert [sample.name for sample in samples] == [f"elastic-mini/{number}" for number in range(8)]
    assert macs[:2] == [space.lower(space.smallest).macs, space.lower(space.largest).macs]
    assert len(set(macs)) == 8
    assert macs == [sample.graph.macs for sample in latency_samples("elastic-mini", 8, seed=3)]
    assert macs[2:] != [sample.graph.macs for sample in latency_samples("elastic-mini", 8, seed=4)][2:]


@pytest.mark.parametrize("group", ["vit", "probes"])
def test_graphs_describe_their_modules(group: str) -> None:
    for sample in latency_samples(group, 2, seed=1):
        module = sample.build().eval()
        assert sum(parameter.numel() for parameter in module.parameters()) == sample.graph.params
        with torch.no_grad():
            assert module(torch.zeros(1, 3, sample.image_side, sample.image_side)).ndim == 2
        assert all(op.kind != "other" for op in sample.graph.ops())


def test_an_unknown_group_is_an_error() -> None:
    assert group_names()[-2:] == ["vit", "probes"]
    with pytest.raises(UnknownNameError, match="unknown group of networks: `vits`"):
        latency_samples("vits", 2, 0)
