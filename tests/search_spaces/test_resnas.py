"""ViT-ResNAS, the spaces: figures of the published networks, missing layers, names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import (
    Architecture,
    ArchitectureError,
    SearchSpace,
    SearchSpaceError,
    SingleSpace,
    UnknownNameError,
    find_architecture,
    get_space,
)
from search_spaces.resnas import ResnasSpace
from search_spaces.resnas_blocks import TransformerLayer
from search_spaces.resnas_definitions import RESNAS, RESNAS_MINI, RESNAS_TINY
from supernets import build_network
from supernets.family import training_form

# parameters without and with the patch classifier, MACs in G; each computed with the reference implementation
PUBLISHED = {
    "resnas/res-tiny": (42_012_736, 42_781_736, 1.7944),
    "resnas/tiny": (40_793_552, 41_498_552, 1.7826),
    "resnas/small": (63_724_108, 64_605_108, 2.8455),
    "resnas/medium": (96_442_672, 97_323_672, 4.5131),
    "resnas-tiny/largest": (84_814_464, 85_839_464, 3.4976),
    "resnas-small/largest": (155_318_528, 156_599_528, 6.2603),
}
# parameters of Medium with the patch classifier, MACs in G, by image side
LARGER_IMAGES = {280: (97_389_192, 7.2191), 336: (97_469_272, 10.7391), 392: (97_563_912, 15.2009)}


def resnas(name: str) -> ResnasSpace:
    space = get_space(name)
    assert isinstance(space, ResnasSpace)
    return space


def module_params(space: SearchSpace, architecture: Architecture) -> int:
    with torch.device("meta"):
        return count(build_network(space, architecture))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# -- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters_and_macs(name: str) -> None:
    params, trained_params, macs = PUBLISHED[name]
    space, architecture = find_architecture(name)
    graph = space.lower(architecture)
    assert graph.params == module_params(space, architecture) == params
    assert round(graph.macs / 1e9, 4) == macs
    trained = training_form(space, patch_classifier=True)
    assert module_params(trained, architecture) == trained_params
    assert trained.lower(architecture).params == params


@pytest.mark.parametrize("side", LARGER_IMAGES)
def test_published_parameters_and_macs_on_larger_images(side: int) -> None:
    params, macs = LARGER_IMAGES[side]
    space, architecture = find_architecture("resnas/medium")
    larger = training_form(space, image_side=side, patch_classifier=True)
    assert module_params(larger, architecture) == params
    assert round(larger.lower(architecture).macs / 1e9, 4) == macs
    assert larger.input_shape(dict(architecture.settings)) == (3, side, side)


def test_published_parameters_and_macs_without_a_stem() -> None:
    space = ResnasSpace(replace(RESNAS, stem_width=0, patch=14))
    network = space.find("res-tiny")
    graph = space.lower(network)
    assert graph.params == module_params(space, network) == 41_888_680
    assert round(graph.macs / 1e9, 4) == 1.6273


def formula_macs(space: ResnasSpace, values: Mapping[str, int]) -> int:
    """Multiply-accumulates as the reference estimates them at 224 pixels."""
    widths = [values[f"stage{number}.width"] for number in (1, 2, 3)]
    stem = space.definition.stem_width
    macs = (3 * stem * 9 + 2 * stem**2 * 9) * 112**2 + widths[0] * stem * 49 * 256 + widths[2] * 1000
    for number, (width, tokens) in enumerate(zip(widths, (257, 65, 17), strict=True), start=1):
        stage = space.definition.stages[number - 1]
        for layer in range(len(stage.may_miss)):
            name = f"stage{number}.{layer}"
            if values.get(f"{name}.present", 1):
                inner, hidden = values[f"{name}.heads"] * stage.head_width, values[f"{name}.hidden"]
                macs += 4 * tokens * width * inner + 2 * tokens**2 * inner + 2 * tokens * width * hidden
        if number > 1:
            before = widths[number - 2]
            macs += (tokens - 1) * width * 9 * before + before * width
    return macs


@pytest.mark.parametrize("name", ["resnas", "resnas-small", "resnas-tiny"])
def test_macs_are_those_of_the_formula(name: str) -> None:
    space = resnas(name)
    for architecture in space.decode(space.sample(30, np.random.default_rng(0))):
        assert space.lower(architecture).macs == formula_macs(space, dict(architecture.settings))


def test_sizes_of_the_published_spaces() -> None:
    for name, layers, expected in (("resnas-tiny", (9, 9), 1.9e28), ("resnas-small", (12, 9), 4.2e32)):
        space = resnas(name)
        optional = sum(choice.name.endswith(".present") for choice in space.choices)
        always = sum(choice.name.endswith(".heads") for choice in space.choices) - optional
        assert (always, optional) == layers
        widths = prod(len(stage.widths) for stage in space.definition.stages)
        assert widths * 28**always * 29**optional == pytest.approx(expected, rel=0.03)


def test_the_mini_space_lies_around_its_hand_designed_network() -> None:
    space = resnas("resnas-mini")
    hand_designed = space.find("res-mini")
    least, most = dict(space.smallest.settings), dict(space.largest.settings)
    for name, spec in space.blocks(hand_designed):
        if isinstance(spec, TransformerLayer):
            for part, value in ((f"{name}.heads", spec.heads), (f"{name}.hidden", spec.hidden)):
                assert least[part] < value < most[part]
            assert spec.heads * spec.head_width == spec.width == spec.hidden / 4
    there = [hand_designed[choice.name] for choice in space.choices if choice.name.endswith(".present")]
    assert there == [1, 0] * 3
    assert [space.stage_side(number) for number in (1, 2, 3)] == [8, 4, 2]


# -- missing layers --------------------------------------------------------------------------------------------------


def test_a_layer_is_missing_half_of_the_time_and_other_choices_are_uniform() -> None:
    space = resnas("resnas-tiny")
    genotypes = space.sample(6000, np.random.default_rng(0))
    for column, choice in enumerate(space.choices):
        layer = choice.name.rpartition(".")[0]
        rows = genotypes
        if f"{layer}.present" in space.columns and not choice.name.endswith(".present"):
            rows = genotypes[genotypes[:, space.columns[f"{layer}.present"]] == 1]
        shares = np.bincount(rows[:, column], minlength=len(choice.values)) / len(rows)
        assert shares == pytest.approx(np.full(len(choice.values), 1 / len(choice.values)), abs=0.04), choice.name


def test_what_a_missing_layer_would_have_makes_no_difference() -> None:
    space = resnas("resnas-mini")
    values = dict(space.largest.settings)
    genotypes = np.repeat(space.encode([space.largest]), 2, axis=0)
    genotypes[:, space.columns["stage2.1.present"]] = 0
    genotypes[1, space.columns["stage2.1.heads"]] = 1
    first, second = space.decode(space.repair(genotypes))
    assert first == second
    assert first["stage2.1.heads"] == 2
    assert "stage2.1" not in dict(space.blocks(first))
    with pytest.raises(ArchitectureError, match="breaks a rule"):
        space.from_values({**values, "stage2.1.present": 0})


def test_a_layer_behind_a_missing_one_is_missing_too_where_it_may_be() -> None:
    stages = tuple(replace(stage, may_miss=(False, True, True, False)) for stage in RESNAS_MINI.stages)
    space = ResnasSpace(replace(RESNAS_MINI, stages=stages, named={}))
    genotypes = space.encode([space.largest] * 3)
    for row, missing in enumerate(([1], [2], [1, 2])):
        genotypes[row, [space.columns[f"stage1.{layer}.present"] for layer in missing]] = 0
    repaired = space.decode(space.repair(genotypes))
    there = [[a[f"stage1.{layer}.present"] for layer in (1, 2)] for a in repaired]
    assert there == [[0, 0], [1, 0], [0, 0]]
    assert all(a["stage1.3.heads"] == 5 for a in repaired)


# -- names -----------------------------------------------------------------------------------------------------------


def test_published_networks_have_the_published_layers() -> None:
    space, architecture = find_architecture("resnas/small")
    assert space.name == "resnas-small"
    layers = [(name, spec) for name, spec in space.blocks(architecture) if isinstance(spec, TransformerLayer)]
    third = [(spec.heads, spec.hidden) for name, spec in layers if name.startswith("stage3")]
    assert third == [(16, 3200), (12, 3200), (16, 2880), (12, 2240), (14, 2560)]
    assert {name for name, _ in layers if name.startswith("stage3")} == {f"stage3.{n}" for n in (0, 1, 2, 4, 6)}
    assert {(spec.head_width, spec.width) for _, spec in layers} == {(32, 220), (48, 440), (64, 880)}


def test_published_networks_are_found_under_the_family_and_under_their_space() -> None:
    for name, space in (("tiny", "resnas-tiny"), ("small", "resnas-small"), ("medium", "resnas-small")):
        assert find_architecture(f"resnas/{name}") == find_architecture(f"{space}/{name}")
    assert find_architecture("resnas/res-tiny")[1] == get_space("resnas").largest
    with pytest.raises(UnknownNameError) as caught:
        find_architecture("resnas/meduim")
    assert caught.value.hint == "did you mean `medium`?"


# -- forms -----------------------------------------------------------------------------------------------------------


def test_stochastic_depth_grows_over_the_layers() -> None:
    space, architecture = find_architecture("resnas/tiny")

    def rates(form: SearchSpace) -> list[float]:
        return [spec.drop_path for _, spec in form.blocks(architecture) if isinstance(spec, TransformerLayer)]

    assert rates(space) == [0.0] * 16
    alone = rates(training_form(SingleSpace(space, architecture), drop_path=0.3))
    assert alone == pytest.approx([0.02 * layer for layer in range(16)])
    shared = rates(training_form(space, drop_path=0.17))  # layers 5 and 17 of 18 are missing
    assert shared == pytest.approx([0.01 * layer for layer in range(17) if layer != 5])


def test_images_that_cannot_be_reduced_are_refused() -> None:
    for side in (225, 252):
        with pytest.raises(ArchitectureError, match=f"images of {side} pixels, expected a multiple of 56"):
            training_form(get_space("resnas-tiny"), image_side=side)
    with pytest.raises(ArchitectureError, match="expected a multiple of 16"):
        training_form(get_space("resnas-mini"), image_side=40)


def test_spaces_of_other_families_have_one_form() -> None:
    elastic = get_space("elastic-mini")
    assert training_form(elastic) is elastic
    assert training_form(elastic, image_side=32) is elastic
    with pytest.raises(SearchSpaceError, match="space `elastic-mini` has neither"):
        training_form(elastic, drop_path=0.1)


def test_a_distillation_token_is_one_more_token() -> None:
    space = ResnasSpace(replace(RESNAS_TINY, class_tokens=2))
    network = space.find("tiny")
    plain = module_params(get_space("resnas-tiny"), find_architecture("resnas/tiny")[1])
    assert space.lower(network).params == module_params(space, network) == plain + 2 * 176 + 704 * 1000 + 1000
