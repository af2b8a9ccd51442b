"""Quantities: populations agree with the op graph, values have units, and one from outside serves a whole search."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import nas
from nas.errors import NasError, UsageError
from nas.objectives import quantities
from nas.objectives.objective import evaluated_name, make_objectives, parse_names
from nas.objectives.quantities import (
    MACS,
    Quantity,
    find_quantity,
    get_quantity,
    parse_limit,
    quantity_names,
    register_quantity,
)
from nas.report import build_report
from nas.searching import search as run_search
from nas.testing import QuantityContract
from search_spaces import SearchSpace, UnknownNameError, get_space, plugins, population_cost

SPACE = get_space("elastic-mini")
ENERGY = Quantity(
    "energy",
    "mJ",
    "energy of one image, made up",
    lambda space, genotypes: population_cost(space, genotypes).macs * 3e-7,
    lambda graph: graph.macs * 3e-7,
)


@pytest.fixture
def energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantities.QUANTITIES, "_registered", {})
    register_quantity(ENERGY)


def registered(name: str, space: str) -> type[QuantityContract]:
    class Registered(QuantityContract):
        def make_quantity(self) -> Quantity:
            return get_quantity(name)

        def make_space(self) -> SearchSpace:
            return get_space(space)

    return Registered


globals().update(
    {
        f"Test {name} of {space}": registered(name, space)
        for name in quantity_names()
        for space in ("elastic", "elastic-mini", "resnas-mini", "asvit")
    }
)


def test_stored_weights_count_parameters_and_the_statistics_of_batch_norms() -> None:
    graph = SPACE.lower(SPACE.smallest)
    norms = sum(op.params for op in graph.ops() if op.kind == "batch_norm")
    assert norms > 0
    assert get_quantity("weight-bytes").graph(graph) == 4 * (graph.params + norms)


def test_the_latency_on_a_device_is_a_quantity() -> None:
    quantity = get_quantity("latency:pixel6")
    genotypes = SPACE.encode([SPACE.smallest, SPACE.largest])
    expected = [quantity.graph(SPACE.lower(architecture)) for architecture in SPACE.decode(genotypes)]
    assert quantity.unit == "ms"
    assert quantity.column(SPACE, genotypes).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("12ms", None, 12.0),
        ("pixel6=800us", "pixel6", 0.8),
        ("latency:pixel6=12ms", "pixel6", 12.0),
        ("peak-memory=64MB", "peak-memory", 64e6),
        ("weight-bytes=1.5 MiB", "weight-bytes", 1.5 * 2**20),
        ("params=5M", "params", 5e6),
    ],
)
def test_limits_as_they_are_typed(text: str, name: str | None, value: float) -> None:
    assert parse_limit(text) == (name, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12", "has no unit, expected a latency such as `12ms`"),
        ("peak-memory=64ms", "has unit `ms`, expected a size such as `64MB`"),
        ("params=many", "`many`, expected a count such as `5M`"),
        ("peak-memory=0B", "expected more than 0"),
    ],
)
def test_values_without_a_meaning_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_limit(text)


def test_unknown_names_get_the_closest() -> None:
    with pytest.raises(UnknownNameError, match="unknown quantity or device: `peak-memry`") as caught:
        parse_limit("peak-memry=64MB")
    assert caught.value.hint == "did you mean `peak-memory`?"
    with pytest.raises(UnknownNameError) as caught:
        nas.search("elastic-mini", objectives="latency:pixel6,peak-memry", evaluations=4)
    assert caught.value.hint == "did you mean `peak-memory`?"


def test_values_for_people() -> None:
    assert get_quantity("peak-memory").text(64e6) == "64 MB"
    assert get_quantity("params").text(12_016_968) == "12M"
    assert get_quantity("latency:pixel6").text(3.14159) == "3.14 ms"
    assert ENERGY.text(2.0) == "2 mJ"


def test_a_quantity_of_which_more_is_better_leads_where_nothing_else_is_evaluated() -> None:
    alone, beside = parse_names(["params", "capacity"], "pixel6"), parse_names(["capacity", "accuracy"], "pixel6")
    assert evaluated_name(alone) == "capacity"
    assert evaluated_name(beside) == "accuracy"
    lead, known = make_objectives(beside, "accuracy")
    assert (lead.name, lead.is_evaluated, known.name, known.is_evaluated) == ("accuracy", True, "capacity", False)
    assert known.cost(2.0) == -2.0
    assert known.goal == "maximise"


@pytest.mark.usefixtures("energy")
def test_names_are_taken_once() -> None:
    for name in ("energy", "macs", "latency:pixel6"):
        with pytest.raises(ValueError, match=f"`{name}` is registered already"):
            register_quantity(Quantity(name, "", "", MACS.population, MACS.graph))


def test_quantities_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", f"{__name__}:ENERGY", "nas.quantities")
    monkeypatch.setattr(plugins, "installed", lambda group: {"theirs": point} if group == "nas.quantities" else {})
    assert find_quantity("theirs") is not None
    assert "theirs" in quantity_names()


def test_a_value_that_is_no_number_names_the_quantity() -> None:
    endless = Quantity(
        "endless", "", "", lambda space, genotypes: np.full(len(genotypes), np.inf), lambda graph: np.inf
    )
    with pytest.raises(NasError, match="quantity `endless` of a network of `elastic-mini` is not finite"):
        endless.column(SPACE, SPACE.encode([SPACE.smallest]))


@pytest.mark.usefixtures("energy")
@pytest.mark.parametrize("objectives", [None, "latency:pixel6,energy"])
def test_a_quantity_from_outside_is_searched_limited_recorded_and_reported(
    tmp_path: Path, objectives: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_search, "with_length_distortion", lambda space, front, *rest: list(front))
    limits = {"energy": 0.9, "peak-memory": 60_000.0}
    result = nas.search(
        "elastic-mini", "pixel6", limits=limits, objectives=objectives, evaluations=40, output=tmp_path / "run"
    )
    assert result.front
    for member in result.front:
        genotypes = SPACE.encode([member.architecture])
        assert member.value("energy") == ENERGY.column(SPACE, genotypes)[0] <= 0.9
        assert member.value("peak-memory") <= 60_000
    entry = json.loads((tmp_path / "run" / "front.json").read_text())["front"][0]
    assert set(entry["costs"]) == {"energy", "peak-memory"}
    assert {limit.name: limit.upper for limit in result.limits} == limits
    lines = [json.loads(line) for line in (tmp_path / "run" / "trials.jsonl").read_text().splitlines()]
    reasons = {line["reason"].split(" of ")[0] for line in lines if line["state"] == "infeasible"}
    assert reasons <= {"energy", "peak-memory"}
    page = build_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "mJ" in page
    assert "peak memory up to 60 kB" in page
    again = nas.search(output=tmp_path / "run", resume=True, evaluations=60)
    assert again.evaluated == 60
