"""Labelled alternatives in a slot: labels, the shared tensors of all alternatives, gradients of those that ran."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from nas.objectives.bounds import one_choice_changes
from nas.predictors.encoding import SpaceEncoder
from nas.testing import NetworkFamilyContract, SearchSpaceContract
from search_spaces import (
    Architecture,
    ArchitectureError,
    Choice,
    SearchSpace,
    SingleSpace,
)
from supernets import Supernet
from tests.support.mixing_space import CODES, KINDS, MixingSpace

SPACE = MixingSpace()
BASE: dict[str, int | str] = {"width": 16, "depth": 3, "ratio": 2, "even": "conv", "odd": "gate"}


def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_labels_stand_for_codes_and_survive_json() -> None:
    mixed = SPACE.from_values(BASE)
    assert (mixed["even"], mixed["odd"]) == (3, 7)
    assert SPACE.parse(json.loads(mixed.to_json())) == mixed == Architecture.from_json(mixed.to_json())
    assert SPACE.choices[3].label(7) == "gate"
    with pytest.raises(ArchitectureError, match="`even` is `attention`, expected one of: pool, conv, gate"):
        SPACE.from_values({**BASE, "even": "attention"})
    with pytest.raises(ArchitectureError, match="`width` is `wide`, expected one of: a whole number"):
        SPACE.from_values({**BASE, "width": "wide"})
    with pytest.raises(ValueError, match="3 values need as many labels"):
        Choice("even", CODES, KINDS[:2])


class TestSpace(SearchSpaceContract):
    def make_space(self) -> SearchSpace:
        return SPACE


class TestFamily(NetworkFamilyContract):
    def make_space(self) -> SearchSpace:
        return SPACE


def test_largest_and_smallest_take_the_last_and_first_label() -> None:
    assert dict(SPACE.largest.settings) == {"width": 16, "depth": 3, "ratio": 2, "even": 7, "odd": 7}
    assert dict(SPACE.smallest.settings) == {"width": 8, "depth": 1, "ratio": 1, "even": 0, "odd": 0}
    narrow = SPACE.encode([SPACE.smallest])
    narrow[:, 3] = 2
    assert SPACE.decode(SPACE.repair(narrow))[0]["even"] == 3


def test_the_shared_tensors_are_those_of_every_alternative_at_its_largest() -> None:
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in Supernet(SPACE).network.get_submodule("body.1").state_dict().items()
    }
    assert shapes == {
        "depthwise.weight": (16, 1, 3, 3),
        "expand.weight": (32, 16, 1, 1),
        "reduce.weight": (16, 32, 1, 1),
        "project.weight": (16, 16, 1, 1),
    }


@pytest.mark.parametrize("borrows", [True, False])
def test_alternatives_that_did_not_run_have_no_gradient(borrows: bool) -> None:
    supernet, architecture = Supernet(SPACE), SPACE.from_values({**BASE, "depth": 2})
    if borrows:
        with supernet.borrow(architecture) as subnet:
            subnet(images()).square().mean().backward()
    else:
        supernet(images(), architecture).square().mean().backward()
    found = {name for name, parameter in supernet.network.named_parameters() if parameter.grad is not None}
    assert found == {
        "stem.conv.weight",
        "body.0.depthwise.weight",
        "body.0.project.weight",
        "body.1.expand.weight",
        "body.1.reduce.weight",
        "body.1.project.weight",
        "head.classifier.weight",
        "head.classifier.bias",
    }
    before = {name: tensor.clone() for name, tensor in supernet.network.named_parameters()}
    torch.optim.AdamW(supernet.parameters(), weight_decay=0.5).step()
    moved = {name for name, tensor in supernet.network.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == found


def test_one_network_has_the_tensors_of_its_own_alternative() -> None:
    single = SingleSpace(SPACE, SPACE.from_values({**BASE, "even": "pool", "odd": "pool", "depth": 1, "ratio": 1}))
    assert single.choices[3] == Choice("even", (0,), ("pool",))
    assert {name for name, _ in Supernet(single).network.named_parameters()} == {
        "stem.conv.weight",
        "head.classifier.weight",
        "head.classifier.bias",
    }


def test_labels_have_no_order_for_mutation_and_predictors() -> None:
    start = SPACE.encode([SPACE.from_values({**BASE, "even": "pool"})])
    assert {tuple(row) for row in one_choice_changes(SPACE, start) if row[3] != start[0, 3]} == {
        (2, 2, 1, 1, 2),
        (2, 2, 1, 2, 2),
    }
    encoded = SpaceEncoder(SPACE)(SPACE.encode([SPACE.from_values({**BASE, "even": kind}) for kind in KINDS]))
    differences = np.abs(encoded.features_nf[:, None] - encoded.features_nf[None])
    ordered = [column for column in differences.reshape(9, -1).T if len(set(column.round(9))) > 2]
    assert len(ordered) == 2  # parameters and MACs; a label is there or not
