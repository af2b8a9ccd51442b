"""What a table has evidence for, and what it says of everything else."""

from __future__ import annotations

import json

import numpy as np
import pytest

from latency_tables import Latency, LatencyPredictor, LatencyTable, load_target
from latency_tables.evidence import SIZE_FACTOR, UNCHECKED, Evidence, group_of
from search_spaces import SOURCE, OpGraph, OpList, get_space
from tests.support.tables import ROOFLINE, document, validation_of

CONV = {**ROOFLINE, "op": "pointwise_conv", "highest": [1, 3e6, 1e6, 1e6]}


ALL = "other pointwise_conv depthwise_conv conv activation add multiply pool linear matmul softmax reshape group_norm"


def predictor(macs: dict[str, int], **changes: object) -> LatencyPredictor:
    changed = {"validation": validation_of(macs), "rooflines": [ROOFLINE, CONV], "kernels": [], **changes}
    return LatencyPredictor(LatencyTable.from_dict(document(**changed), "here"))


def convolutions(width: int, depth: int, attention: int = 0) -> OpGraph:
    """A chain of convolutions, and products of matrices, which the table has no class for."""
    ops = OpList((width, 16, 16))
    last = SOURCE
    for number in range(depth):
        last = ops.conv(f"conv{number}", last, width)
    for number in range(attention):
        last = ops.activation(f"activation{number}", last, "gelu")
    return OpGraph([("network", ops.ops)], (width, 16, 16))


def test_kernels_like_those_of_the_table_are_inside_up_to_some_times_its_size() -> None:
    one = convolutions(64, 1).macs
    table = predictor({"small/0": one, "small/1": 2 * one})
    depths = {depth: table.graph(convolutions(64, depth)).extrapolated for depth in (1, 2, 8, 9)}
    assert depths == {1: False, 2: False, 8: False, 9: True}
    assert SIZE_FACTOR == 4
    tiny = predictor({"small/0": 5 * one, "small/1": 9 * one})
    assert tiny.graph(convolutions(64, 1)).extrapolated


def test_larger_kernels_and_other_classes_are_outside_when_they_are_most_of_the_work() -> None:
    seen, larger = convolutions(64, 8), convolutions(128, 1)
    table = predictor({"small/0": seen.macs // 8, "small/1": larger.macs * 4})
    assert not table.graph(seen).extrapolated
    assert table.graph(larger).extrapolated
    shares = [table.graph(convolutions(64, 8, attention)).extrapolated for attention in (1, 40)]
    assert shares == [False, True]


def test_kernels_that_mostly_read_their_weights_are_unlike_those_that_mostly_multiply() -> None:
    graph = convolutions(64, 8)
    sizes = {"small/0": graph.macs // 2, "small/1": 2 * graph.macs}
    flags = []
    for intensity in ([1, 10], [0.1, 0.2], [100, 1000]):
        table = predictor(sizes, rooflines=[ROOFLINE, {**CONV, "intensity": intensity}])
        flags.append(table.graph(graph).extrapolated)
    assert flags == [False, True, True]


def test_each_group_of_a_table_has_the_interval_of_its_own_networks() -> None:
    rows = []
    for group, error in (("a", 0.5), ("b", 0.01)):
        for number in range(8):
            measured = 1 + error * (-1) ** number
            names = {"network": f"{group}/{number}", "macs": 1000, "mac_line_ms": 1.0}
            rows.append({**names, "predicted_ms": 1.0, "measured_ms": measured})
    evidence = predictor({}, validation={**validation_of({}), "rows": rows}).evidence
    assert evidence.groups == {"a": 8, "b": 8}
    assert evidence.interval("a").high == pytest.approx(0.5)
    assert evidence.interval("b").low == pytest.approx(-0.01)


def test_networks_of_the_fit_have_its_interval_and_are_inside() -> None:
    space = get_space("elastic-mini")
    graph = space.lower(space.largest)
    interval = {"low": -0.01, "high": 0.02, "coverage": 0.9}
    own = predictor({"elastic-mini/0": graph.macs}, interval=interval)
    latency = own.graph(graph, "elastic-mini")
    assert not latency.extrapolated
    population = own.population(space, space.encode([space.largest]))
    assert population.high_ms[0] == pytest.approx(latency.high_ms)
    assert own.evidence.interval("vit") == UNCHECKED
    foreign = {"low": -0.2, "high": 0.3, "coverage": 0.9}
    assert predictor({"a/0": 1}, foreign_interval=foreign).evidence.interval("b").high == 0.3


def test_calibrated_tables_have_one_interval_and_a_range_for_what_they_do_not_know() -> None:
    table = load_target("pixel6")
    evidence = Evidence.of(table)
    assert evidence.groups == {}
    assert evidence.interval("elastic") == table.interval
    space = get_space("elastic")
    latency = LatencyPredictor(table).graph(space.lower(space.largest))
    if latency.extrapolated:
        assert not latency.is_declined
        assert latency.claims()["ms"] is None
    assert latency.is_within(latency.high_ms) is True
    assert latency.is_within(latency.low_ms / 2) is False


def test_what_is_told_without_evidence_holds_no_number() -> None:
    declined = Latency(3.09, 1.54, 14.0, "measured", True)
    assert declined.is_within(20.0) is None
    claims = json.loads(json.dumps(declined.claims()))
    assert claims == {"ms": None, "low_ms": None, "high_ms": None, "kind": "measured", "extrapolated": True}
    known = Latency(3.09, 1.54, 14.0, "measured", False)
    assert known.claims()["ms"] == 3.09
    assert known.is_within(20.0) is True


def test_a_group_is_a_space_without_what_changes_no_kernel() -> None:
    assert group_of(get_space("elastic")) == "elastic"
    text = "timm:vit_tiny_patch16_224?depth=2&embed_dim=48&img_size=32&num_heads=3"
    assert group_of(get_space(f"{text}&order=1.0")) == text


def test_populations_are_flagged_as_single_networks_are() -> None:
    space = get_space("elastic-mini")
    sizes = {"other/0": 400_000, "other/1": 500_000}
    table = predictor(sizes, rooflines=[{**ROOFLINE, "op": op, "highest": [1, 3e8, 1e7, 1e7]} for op in ALL.split()])
    genotypes = space.sample(20, np.random.default_rng(0))
    flags = table.population(space, genotypes).extrapolated.tolist()
    assert flags == [table.graph(space.lower(each)).extrapolated for each in space.decode(genotypes)]
    assert True in flags
