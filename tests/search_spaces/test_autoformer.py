"""AutoFormer and PreNAS, the spaces: figures of the published networks, blocks beyond the depth, lists of networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latency_tables.counting import counted_macs
from search_spaces import ArchitectureError, find_architecture, get_space, space_names
from search_spaces.autoformer import AutoformerSpace
from supernets import build_network

PUBLISHED = {
    "autoformer-tiny/published": 5_867_944,
    "autoformer-small/published": 22_891_432,
    "autoformer-base/published": 53_691_688,
}
"""Parameters, computed with the reference implementation."""
LISTED = {"prenas-tiny/published": 5.9, "prenas-small/published": 22.9, "prenas-base/published": 54}
"""Parameters in millions, as PreNAS's authors round them."""
SPACES = [name for name in space_names() if isinstance(get_space(name), AutoformerSpace)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters(name: str) -> None:
    space, architecture = find_architecture(name)
    with torch.device("meta"):
        network = build_network(space, architecture)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert space.lower(architecture).params == counted == PUBLISHED[name]


@pytest.mark.parametrize("name", LISTED)
def test_listed_networks_have_the_published_size(name: str) -> None:
    space, architecture = find_architecture(name)
    assert space.lower(architecture).params / 1e6 == pytest.approx(LISTED[name], rel=0.02)


@pytest.mark.parametrize("name", SPACES)
def test_macs_equal_those_that_run(name: str) -> None:
    space = get_space(name)
    x_BCHW = torch.zeros(1, 3, space.image_side, space.image_side, device="meta")
    for architecture in space.decode(space.sample(5, np.random.default_rng(6))):
        with torch.device("meta"):
            network = build_network(space, architecture)
        assert counted_macs(network, x_BCHW) == space.lower(architecture).macs


def test_blocks_beyond_the_depth_are_all_one() -> None:
    space = get_space("autoformer-tiny")
    deep, shallow = space.largest, space.from_values({**dict(space.smallest.settings), "depth": 13})
    assert [name for name, _ in space.blocks(deep)][-2:] == ["blocks.13", "head"]
    assert [name for name, _ in space.blocks(shallow)][-2:] == ["blocks.12", "head"]
    with pytest.raises(ArchitectureError, match="breaks a rule"):
        space.from_values({**dict(shallow.settings), "blocks.13.heads": 4})


def test_networks_that_were_not_trained_are_moved_to_those_that_were() -> None:
    space = get_space("prenas-base")
    drawn = space.decode(np.unique(space.sample(500, np.random.default_rng(0)), axis=0))
    assert sorted(architecture["width"] for architecture in drawn) == [528, 576, 624]
    tiny = get_space("prenas-tiny")
    networks = tiny.decode(tiny.sample(500, np.random.default_rng(0)))
    assert {each["depth"] for each in networks if each["width"] == 216} == {12}
    assert {each["depth"] for each in networks if each["width"] == 240} == {12, 14}
    assert {each["blocks.1.ratio"] for each in networks if each["width"] == 240} == {35, 40}
    assert {each["blocks.0.ratio"] for each in networks} == {40}


def test_networks_are_written_in_one_line() -> None:
    space = get_space("autoformer-tiny")
    ratios = "3.5 3.5 3.0 3.5 3.0 3.0 4.0 4.0 3.5 4.0 3.5 4.0 3.5"
    text = f"192;13;{' '.join(['3'] * 10)} 4 3 3;{ratios}"
    assert space.from_text(text) == space.named["published"]
    assert space.from_text(text.replace(" ", ",")) == space.named["published"]
    for broken in (
        "192;13",
        text.replace("13;", "12;"),
        text.replace("192", "wide"),
        text + ";1",
        "nan;1;1;1",
    ):
        with pytest.raises(ArchitectureError, match="expected `width;depth;heads;ratios`"):
            space.from_text(broken)
    with pytest.raises(ArchitectureError, match="`width` is 200, expected one of 192"):
        space.from_text(text.replace("192", "200"))
