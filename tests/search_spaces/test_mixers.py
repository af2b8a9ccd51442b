"""The spaces whose token mixers are chosen: exact sizes of named networks, kinds, rules, distribution."""

from __future__ import annotations

import itertools
from math import prod

import numpy as np
import pytest

from search_spaces import OpGraph, get_space, population_cost
from search_spaces.mixers import PARITIES, MixersSpace
from search_spaces.mixers_blocks import MIXERS, FeedForward, Mixer, low_heads

# parameters and MACs of the deployed networks, computed with the references or with prototypes of them
NAMED = {
    "pvt-v2-b0": (3_666_760, 566_065_664),
    "pvt-v2-b1": (14_009_000, 2_108_355_584),
    "pvt-v2-b2": (25_362_856, 4_026_734_592),
    "swin-t": (28_288_354, 4_490_566_656),
    "lit-v2-s-plain": (27_822_472, 3_719_411_712),
    "l2-vit-t": (28_596_781, 4_688_209_920),
}
HOMOGENEOUS = {
    "none": (128_917, 4_241_936),
    "pool": (129_757, 4_241_936),
    "conv": (173_285, 5_907_472),
    "window": (204_248, 7_305_744),
    "shift": (204_248, 7_305_744),
    "sra": (230_541, 7_029_264),
    "pooled": (208_077, 6_669_840),
    "hilo": (200_997, 6_580_752),
    "linear": (218_248, 7_825_424),
    "full": (202_533, 10_844_688),
}
# of a mixer with 256 channels, heads of 32, on a map of 14 x 14: MACs, parameters, both without norm and convolutions
MIXER_COSTS = {
    "conv": (28.15, 144_384),
    "window": (56.30, 264_520),
    "sra": (49.87, 526_080),
    "pooled": (40.24, 329_472),
    "hilo": (36.06, 248_832),
    "linear": (54.64, 263_176),
    "full": (71.05, 263_168),
}


def mixers(name: str, classes: int | None = None) -> MixersSpace:
    space = get_space(name, classes)
    assert isinstance(space, MixersSpace)
    return space


@pytest.mark.parametrize("name", NAMED)
def test_published_sizes(name: str) -> None:
    space = mixers("mixers")
    graph = space.lower(space.find(name))
    assert (graph.params, graph.macs) == NAMED[name]


@pytest.mark.parametrize("kind", HOMOGENEOUS)
def test_sizes_of_the_small_networks_of_one_kind(kind: str) -> None:
    space = mixers("mixers-mini", 45)
    graph = space.lower(space.homogeneous[kind])
    assert (graph.params, graph.macs) == HOMOGENEOUS[kind]


@pytest.mark.parametrize("kind", MIXER_COSTS)
def test_costs_of_a_mixer(kind: str) -> None:
    low = 32 * low_heads(8)
    block = Mixer(14, 256, 32, (kind,), 2, 7, 100, (256 - low, low) if kind == "hilo" else (0, 0))
    ops = [op for op in block.ops() if op.name != "norm1" and not op.name.startswith(("norm3", "local"))]
    assert round(sum(op.macs for op in ops) / 1e6, 2) == MIXER_COSTS[kind][0]
    assert sum(op.params for op in ops) == MIXER_COSTS[kind][1]


@pytest.mark.parametrize(("ratio", "active"), [(4, 64), (3, 48)])
def test_costs_of_a_folded_feed_forward_network(ratio: int, active: int) -> None:
    width, tokens = 64, 49
    graph = OpGraph([("ffn", FeedForward(7, width, ratio * width, active, ("repa",)).ops())], (tokens, width))
    assert graph.params == width**2 + width + 2 * active * width + active
    assert graph.macs == tokens * (width**2 + 2 * active * width)


def test_sizes_of_the_shared_tensors() -> None:
    """Of a layer in each stage, the stem and the entries, without statistics: exactly what all kinds need."""
    import torch

    from supernets import family_of

    for name, classes, layers, rest in (
        ("mixers", 1000, (817_478, 1_451_692, 2_709_272, 7_266_096), {"stem": 62_304, "S2.entry": 315_456}),
        ("mixers-mini", 45, (33_744, 75_352, 107_448), {}),
    ):
        space = mixers(name, classes)
        family = family_of(space)
        sizes = {}
        for block, spec in space.shared_blocks():
            with torch.device("meta"):
                module = family.build_block(spec)
            sizes[block] = sum(parameter.numel() for parameter in module.parameters())
        for number, expected in enumerate(layers, start=1):
            assert sizes[f"S{number}.mixer.0"] + sizes[f"S{number}.ffn.0"] == expected
        assert rest.items() <= sizes.items()
        assert sum(sizes.values()) == {"mixers": 59_159_514, "mixers-mini": 655_237}[name]


def test_number_of_networks() -> None:
    for name, expected in (("mixers", 1.066e21), ("mixers-mini", 2.177e13)):
        assert mixers(name).encodings == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("name", "median", "within"), [("mixers", 1305e6, 25e6), ("mixers-mini", 3.22e6, 0.08e6)])
def test_median_of_drawn_networks(name: str, median: float, within: float) -> None:
    space = mixers(name)
    cost = population_cost(space, space.sample(20_000, np.random.default_rng(0)))
    assert abs(np.median(cost.macs) - median) <= within


@pytest.mark.parametrize("name", ["mixers", "mixers-mini"])
def test_kinds_are_drawn_alike_and_repair_is_idempotent(name: str) -> None:
    space = mixers(name)
    drawn = space.sample(10_000, np.random.default_rng(0))
    for number, stage in enumerate(space.definition.stages, start=1):
        for parity in PARITIES:
            counts = np.bincount(drawn[:, space.columns[f"S{number}.{parity}"]], minlength=len(stage.mixers))
            kinds = len(stage.mixers)
            deviation = np.sqrt(len(drawn) * (1 - 1 / kinds) / kinds)
            for kind, count in zip(stage.mixers, counts, strict=True):
                expected = len(drawn) / kinds
                if kind not in ("hilo", "sra"):  # with one head the first is repaired to the second
                    assert abs(count - expected) <= 4 * deviation, (number, kind)
    rows = np.random.default_rng(1).integers(0, space.cardinalities, size=(100_000, len(space.choices)))
    once = space.repair(rows.astype(np.int8))
    assert (space.repair(once) == once).all()


def test_rules() -> None:
    space = mixers("mixers-mini")
    values = dict(space.homogeneous["hilo"].settings)
    values |= {"head_width": 16, "S1.width": 16, "S2.width": 64, "S3.width": 64}
    raw = np.array([[choice.values.index(values[choice.name]) for choice in space.choices]], dtype=np.int8)
    (fitting,) = space.decode(space.repair(raw))
    labels = {choice.name: choice.label(fitting[choice.name]) for choice in space.choices}
    assert (labels["head_width"], labels["S1.mixer"], labels["S1.mixer_odd"], labels["S2.mixer"]) == (
        "16",
        "sra",
        "sra",
        "hilo",
    )
    raw[0, space.columns["S2.width"]] = space.choices[space.columns["S2.width"]].values.index(48)
    raw[0, space.columns["S1.width"]] = 1  # 24 is no multiple of 16
    assert space.decode(space.repair(raw))[0]["head_width"] == 8
    raw[0, space.columns["S1.mixer"]], raw[0, space.columns["S1.position"]] = 0, 1
    (alone,) = space.decode(space.repair(raw))
    assert (alone["S1.mixer_odd"], alone["S1.position"]) == (0, 0)


def test_no_stage_without_a_mixer_has_blocks_for_it() -> None:
    space = mixers("mixers-mini")
    names = [name for name, _ in space.blocks(space.homogeneous["none"])]
    assert not [name for name in names if ".mixer." in name]
    assert len(names) == len(set(names)) == 1 + 2 + 5 + 1


def test_blocks_of_all_kinds_are_connected() -> None:
    for kind, further in itertools.product(MIXERS[1:], ((), ("cpe",))):
        block = Mixer(8, 32, 8, (kind, *further), 2, 5, 1, (8, 24) if kind == "hilo" else (0, 0))
        ops = block.ops()
        read = {name for op in ops for name in op.inputs}
        assert [op.name for op in ops if op.name not in read] == [ops[-1].name], kind
        assert prod(ops[-1].output_shape) == 64 * 32
