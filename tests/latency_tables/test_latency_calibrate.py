"""Calibration: the fit, what it says about itself, and that every shipped table follows from the figures inside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latency_tables import LatencyPredictor, LatencyTable, load_target, target_names
from latency_tables.calibrate import (
    Sample,
    calibrate,
    fit_terms,
    leave_families_out,
    leave_out,
    mac_line,
    mean_error,
    multiplier_interval,
    summary,
    summed_features,
)
from latency_tables.calibrated_table import calibrated_table
from latency_tables.calibration_form import DEFAULT_FORMS, CalibratedDevice, ranked_forms, samples_of
from latency_tables.calibration_terms import ALL_BYTES, FORMS, GROUPS, LARGE_WINDOWS, MAC_LINE, MACS, Form, Term
from latency_tables.errors import CalibrationError
from latency_tables.kernels import fuse
from latency_tables.kinds import PLAIN, THE_LINE, believed_kinds, describe_belief, network_kind
from latency_tables.table import SCHEMA
from latency_tables.table_validation import ValidationRow
from search_spaces import get_space
from search_spaces.graph import SOURCE, Op, OpGraph

FORM: Form = (Term("conv MACs", frozenset({"conv"}), MACS), ALL_BYTES)
FOLDER = Path(__file__).parents[2] / "latency_tables" / "tables"
QUICK = ("pixel6", "galaxy-s23-gpu", "one-fusion-int8", "galaxy-s24-tflite-fp16", "rb3-gen2-qnn-int8", "rk3588-4t")
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.json"))
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SHIPPED]
"""Every shipped table; the quick tests look at one of each sort."""
HEADER = {
    "schema": SCHEMA,
    "name": "made-up",
    "unit": "ms",
    "device": {"name": "Made up", "processor": "CPU"},
    "runtime": {"name": "none", "fusion": "xnnpack"},
    "precision": "int8",
    "threads": 1,
    "provenance": {"kind": "calibrated", "status": "made up", "date": "2026-01-01", "tool_version": "0"},
}


@pytest.fixture(autouse=True)
def _no_user_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))


@pytest.fixture
def pixel6() -> LatencyTable:
    return load_target("pixel6")


def synthetic(count: int, per_mac: float = 0.01, per_byte: float = 0.2, families: int = 4) -> list[Sample]:
    """Networks whose times are made by two rates."""
    generator = np.random.default_rng(0)
    samples = []
    for number in range(count):
        macs, read, written = generator.uniform(1e8, 1e9), *generator.uniform(1e6, 1e7, 2)
        features = {"conv": (10.0, macs, read, written), "softmax": (2.0, 0.0, read / 10, written / 10)}
        ms = 1e-6 * (per_mac * macs + per_byte * 1.1 * (read + written))
        samples.append(Sample(f"n{number}", f"f{number % families}", "made up", ms, None, int(macs), features))
    return samples


def plain_transformer_block(tokens: int, width: int, heads: int) -> OpGraph:
    """Layer norm, attention, layer norm and MLP, as in a ViT; operators on images there are none."""
    tokens_shape, logits = (tokens, width), (heads, tokens, tokens)
    per_head = (heads, tokens, width // heads)
    linear = tokens * width * width
    ops = (
        Op("norm1", "layer_norm", (SOURCE,), (tokens_shape,), tokens_shape, params=2 * width),
        Op("qkv", "linear", ("norm1",), (tokens_shape,), (tokens, 3 * width), macs=3 * linear, params=3 * width**2),
        Op("scores", "matmul", ("qkv", "qkv"), (per_head, per_head), logits, macs=tokens**2 * width),
        Op("softmax", "softmax", ("scores",), (logits,), logits),
        Op("mix", "matmul", ("softmax", "qkv"), (logits, per_head), per_head, macs=tokens**2 * width),
        Op("norm2", "layer_norm", ("mix",), (tokens_shape,), tokens_shape, params=2 * width),
        Op("up", "linear", ("norm2",), (tokens_shape,), (tokens, 4 * width), macs=4 * linear, params=4 * width**2),
        Op("gelu", "activation", ("up",), ((tokens, 4 * width),), (tokens, 4 * width), function="gelu"),
    )
    return OpGraph([("block", ops)], tokens_shape)


def form_of(table: LatencyTable) -> Form:
    """The form that a table says it was fitted by."""
    reason = table.provenance.notes[0]
    return MAC_LINE if reason.startswith("a straight line") else FORMS[reason.split("`")[1]]


def lent(table: LatencyTable) -> set[str]:
    """Kernel classes whose price is another device's."""
    return {roofline.op for roofline in table.rooflines if roofline.borrowed_from}


def test_the_fit_recovers_what_made_the_figures() -> None:
    samples = synthetic(9)
    assert fit_terms(samples, FORM).tolist() == pytest.approx([0.01, 0.2])
    measured = np.array([sample.measured_ms for sample in samples])
    np.testing.assert_allclose(leave_families_out(samples, FORM), measured, rtol=1e-6)
    assert mean_error(samples, MAC_LINE) > 0.01 > mean_error(samples, FORM)


def test_the_line_is_one_of_the_forms() -> None:
    samples = synthetic(9)
    line = mac_line([sample.macs for sample in samples], [sample.measured_ms for sample in samples])
    calibration = calibrate(samples, MAC_LINE)
    for sample in samples:
        assert calibration.predict(sample)[0] == pytest.approx(line(sample.macs), rel=1e-6)


def test_what_is_left_out_does_not_reach_its_own_prediction_or_interval() -> None:
    samples = synthetic(12)
    changed = [
        Sample(**{**vars(sample), "measured_ms": sample.measured_ms * (7 if sample.family == "f0" else 1)})
        for sample in samples
    ]
    before, after = leave_out(samples, FORM), leave_out(changed, FORM)
    inside = np.array([sample.family == "f0" for sample in samples])
    for ends in ("ms_s", "low_s", "high_s", "line_s"):
        np.testing.assert_allclose(getattr(before, ends)[inside], getattr(after, ends)[inside])
        assert not np.allclose(getattr(before, ends)[~inside], getattr(after, ends)[~inside])


def test_intervals_cover_four_in_five_where_families_differ_at_random() -> None:
    generator = np.random.default_rng(1)
    inside, networks = 0, 0
    for _ in range(12):
        offsets = np.exp(generator.normal(0, 0.2, 8))
        samples = [
            Sample(**{**vars(sample), "measured_ms": sample.measured_ms * offsets[int(sample.family[1:])]})
            for sample in synthetic(16, families=8)
        ]
        left = leave_out(samples, FORM)
        measured = np.array([sample.measured_ms for sample in samples])
        inside += int(((left.low_s <= measured) & (measured <= left.high_s)).sum())
        networks += len(samples)
    assert 0.7 <= inside / networks <= 0.9


def test_a_class_that_matters_has_a_narrow_multiplier_interval(pixel6: LatencyTable) -> None:
    samples = samples_of(pixel6)
    low, high = multiplier_interval(samples, form_of(pixel6), ("pointwise_conv",))
    assert 0.5 <= low <= 1 <= high <= 2
    assert multiplier_interval(samples, MAC_LINE, ("softmax",)) == (1.0, 1.0), "a line does not price it"


@pytest.mark.parametrize(
    ("fit", "samples", "message"),
    [
        (fit_terms, synthetic(1), "1 figures cannot determine 2 numbers"),
        (calibrate, synthetic(6, families=1), "all figures are of family `f0`, expected at least two families"),
        (calibrate, synthetic(3, families=2), "1 figures remain without family `f0`, expected at least 2"),
    ],
)
def test_figures_that_say_too_little_are_refused(
    fit: Callable[[list[Sample], Form], object], samples: list[Sample], message: str
) -> None:
    with pytest.raises(CalibrationError, match=message):
        fit(samples, FORM)


def test_a_table_of_two_families_cannot_be_checked() -> None:
    with pytest.raises(CalibrationError, match=r"12 usable figures are of 2 families \(f0, f1\), expected at least 3"):
        calibrated_table(HEADER, synthetic(12, families=2), ["roofline"])


def test_a_roofline_that_beats_the_line_is_used() -> None:
    table = calibrated_table(HEADER, synthetic(12), ["roofline"])
    assert table.validation.mean_error < 0.01 < table.validation.mac_line_mean_error
    assert table.provenance.notes[0].startswith("form `roofline`")


def test_a_roofline_that_is_no_better_gives_way_to_the_line_and_the_table_says_so(tmp_path: Path) -> None:
    samples = synthetic(12, per_byte=0.0)
    table = calibrated_table(HEADER, samples, ["roofline"])
    assert "a straight line through MACs: the form `roofline` is no better" in table.provenance.notes[0]
    assert table.validation.mean_error == pytest.approx(table.validation.mac_line_mean_error)
    assert all(roofline.ms_per_megabyte_read == 0 for roofline in table.rooflines)
    table.save(tmp_path / "line.json")
    assert LatencyTable.load(tmp_path / "line.json") == table


def test_the_form_is_chosen_by_other_devices_of_the_same_runtime() -> None:
    lines = tuple(synthetic(12, per_byte=0.0))
    roofs = tuple(synthetic(12))
    known = [
        CalibratedDevice("a", "one", "CPU", True, roofs),
        CalibratedDevice("b", "other", "CPU", True, lines),
        CalibratedDevice("c", "other", "GPU", False, roofs),
    ]
    assert best_form(CalibratedDevice("new", "one", "CPU", True), known) != "line"
    assert best_form(CalibratedDevice("new", "Other CPU", "", True), known) == "line", "the name may hold the provider"
    assert best_form(CalibratedDevice("new", "other", "", False), known) != "line", "of a CPU other kernels run"
    assert best_form(CalibratedDevice("new", "third", "", False), known) != "line"
    assert best_form(CalibratedDevice("a", "one", "CPU", True, roofs), known) == "line", "its own do not count"
    assert ranked_forms(CalibratedDevice("new", "new", "", True), []) == DEFAULT_FORMS


def best_form(device: CalibratedDevice, known: list[CalibratedDevice]) -> str:
    return ranked_forms(device, known)[0]


def test_the_first_form_that_the_figures_suffice_for_is_taken() -> None:
    few = synthetic(9, families=3)
    table = calibrated_table(HEADER, few, ["roofline, depthwise, large windows", "roofline", "line"])
    assert "`roofline`" in table.provenance.notes[0]
    with pytest.raises(CalibrationError, match="the 3 usable figures leave fewer than 2"):
        calibrated_table(HEADER, few[:3], ["roofline"])


@pytest.mark.parametrize("name", EACH)
def test_what_a_shipped_table_states_follows_from_the_figures_in_it(name: str) -> None:
    table = load_target(name)
    samples, form = samples_of(table), form_of(table)
    fitted = [figure for figure in table.figures if figure.use == "fit"]
    left = leave_out(samples, form)
    for stated, computed in (
        ([figure.left_out_ms for figure in fitted], left.ms_s),
        ([figure.left_out_low_ms for figure in fitted], left.low_s),
        ([figure.left_out_high_ms for figure in fitted], left.high_s),
        ([figure.mac_line_left_out_ms for figure in fitted], left.line_s),
    ):
        np.testing.assert_allclose(stated, computed, rtol=1e-6)
    measured = np.array([sample.measured_ms for sample in samples])
    validation = table.validation
    assert [row.network for row in validation.rows] == [sample.model for sample in samples]
    assert validation.mean_error == pytest.approx(np.abs(left.ms_s / measured - 1).mean())
    assert validation.rmspe == pytest.approx(np.sqrt(((left.ms_s / measured - 1) ** 2).mean()))
    assert validation.mac_line_mean_error == pytest.approx(np.abs(left.line_s / measured - 1).mean())
    inside = (left.low_s <= measured) & (measured <= left.high_s)
    assert validation.interval_coverage == pytest.approx(inside.mean())
    for entry in validation.by_kind:
        chosen = np.array([network_kind(sample.features) == entry.kind for sample in samples])
        assert (entry.networks, entry.families) == (
            chosen.sum(),
            len({sample.family for sample, is_chosen in zip(samples, chosen, strict=True) if is_chosen}),
        )
        assert entry.mean_error == pytest.approx(np.abs(left.ms_s / measured - 1)[chosen].mean())
        assert entry.mac_line_mean_error == pytest.approx(np.abs(left.line_s / measured - 1)[chosen].mean())
        assert entry.within_interval == pytest.approx(inside[chosen].mean())
    assert sum(entry.networks for entry in validation.by_kind) == len(samples)
    assert 0.65 <= inside.mean()
    if form != MAC_LINE:
        assert validation.mean_error < validation.mac_line_mean_error


@pytest.mark.parametrize("name", EACH)
def test_the_prices_of_a_shipped_table_follow_from_the_figures_in_it(name: str) -> None:
    table = load_target(name)
    samples = samples_of(table)
    calibration = calibrate(samples, form_of(table))
    assert table.overhead_ms == pytest.approx(calibration.overhead_ms)
    assert (table.interval.low, table.interval.high) == pytest.approx((calibration.low, calibration.high))
    by_class = {roofline.op: roofline for roofline in table.rooflines}
    assert set(by_class) - lent(table) == set(calibration.evidence) - lent(table)
    for op in set(by_class) - lent(table):
        roofline = by_class[op]
        assert roofline.coefficients == pytest.approx(calibration.class_rates(op))
        evidence = calibration.evidence[op]
        assert roofline.direct == evidence.direct
        assert (roofline.low, roofline.high) == pytest.approx((evidence.low, evidence.high))
    for sample in samples:
        if not lent(table) & set(sample.features):
            total = sum(by_class[op].milliseconds(features) for op, features in sample.features.items())
            assert total + table.overhead_ms == pytest.approx(calibration.predict(sample)[0])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_table_is_of_one_protocol_and_openly_calibrated(name: str) -> None:
    table = load_target(name)
    assert table.provenance.kind == "calibrated"
    assert "nobody touched the device" in table.provenance.status
    assert len({figure.source for figure in table.figures if figure.use == "fit"}) == 1
    assert len({figure.model for figure in table.figures}) == len(table.figures)
    assert table.aliases


def test_no_two_shipped_tables_share_a_name() -> None:
    names = [info.name for info in target_names()]
    assert len(names) == len(set(names))
    assert sum(info.kind == "calibrated" and not info.alias_of for info in target_names()) == len(SHIPPED)


def test_pixel6_beats_the_line_where_it_is_made_for_and_its_intervals_hold(pixel6: LatencyTable) -> None:
    typical = [sample for sample in samples_of(pixel6) if LARGE_WINDOWS not in sample.features]
    errors = [
        abs(figure.left_out_ms / figure.measured_ms - 1)
        for figure in pixel6.figures
        if figure.model in {sample.model for sample in typical}
    ]
    assert len(typical) == len(errors) >= 10
    assert np.mean(errors) < mean_error(typical, MAC_LINE), "a line fitted to these networks alone"
    assert np.mean(errors) < 0.11
    assert pixel6.validation.interval_coverage is not None
    assert 0.75 <= pixel6.validation.interval_coverage <= 0.9


@pytest.mark.parametrize("name", SHIPPED)
def test_plain_transformers_are_extrapolated_where_no_figure_is_of_one(name: str) -> None:
    table = load_target(name)
    block = plain_transformer_block(tokens=197, width=192, heads=3)
    twelve = OpGraph([(f"block {number}", block.blocks[0][1]) for number in range(12)], block.source_shape)
    latency = LatencyPredictor(table).graph(twelve)
    assert latency.low_ms < latency.ms < latency.high_ms
    if PLAIN in believed_kinds(table) or lent(table):
        assert not latency.extrapolated
    elif all(entry.kind != PLAIN for entry in table.validation.by_kind):
        assert latency.extrapolated


def test_eight_targets_and_more_may_be_believed_for_plain_transformers() -> None:
    tables = [load_target(name) for name in SHIPPED]
    believed = [table.name for table in tables if PLAIN in believed_kinds(table)]
    assert len(believed) >= 8
    assert len({name.partition("/")[0] for name in believed}) >= 4, "of several devices"


def test_a_table_that_is_no_better_than_the_line_is_one() -> None:
    for name in SHIPPED:
        table = load_target(name)
        is_line = form_of(table) == MAC_LINE
        assert is_line or table.validation.mean_error < table.validation.mac_line_mean_error
        assert is_line == (describe_belief(table) == THE_LINE)


def test_attention_is_borrowed_and_widens_the_interval(pixel6: LatencyTable) -> None:
    space, predictor = get_space("elastic"), LatencyPredictor(pixel6)
    graphs = sorted((space.lower(architecture) for architecture in space.named.values()), key=lambda graph: graph.macs)
    latencies = [predictor.graph(graph) for graph in graphs]
    assert all(latency.low_ms < latency.ms < latency.high_ms for latency in latencies)
    assert all(latency.high_ms > 1.05 * (1 + pixel6.interval.high) * latency.ms for latency in latencies)
    assert [latency.ms for latency in latencies] == sorted(latency.ms for latency in latencies)


@pytest.mark.parametrize("name", EACH)
def test_the_predictor_prices_a_network_as_the_calibration_does(name: str) -> None:
    table = load_target(name)
    calibration = calibrate(samples_of(table), form_of(table))
    space = get_space("elastic")
    for graph in (space.lower(space.named["S1"]), plain_transformer_block(197, 192, 3)):
        if lent(table):
            continue
        kernels = [kernel for _, ops in graph.blocks for kernel in fuse(ops)]
        features = summed_features(kernels, table.bytes_per_element)
        sample = Sample("", "", "", 1.0, None, graph.macs, features)
        latency = LatencyPredictor(table).graph(graph)
        assert latency.ms == pytest.approx(calibration.predict(sample)[0], rel=1e-3)
        if latency.extrapolated:
            assert latency.high_ms >= calibration.predict(sample)[2] * (1 - 1e-3)


def test_groups_do_not_overlap() -> None:
    members = [op for group in GROUPS.values() for op in group]
    assert len(members) == len(set(members))


def test_summary_statistics() -> None:
    rows = [
        ValidationRow(network=str(ms), macs=1, measured_ms=ms, predicted_ms=ms * factor, mac_line_ms=ms * 1.2)
        for ms, factor in ((1.0, 1.04), (2.0, 0.92), (4.0, 1.12))
    ]
    result = summary("here", rows)
    assert (result.within_5_percent, result.within_10_percent) == pytest.approx((1 / 3, 2 / 3))
    assert result.worst == pytest.approx(0.12)
    assert result.mean_error == pytest.approx(0.08)
    assert result.rmspe == pytest.approx(np.sqrt((0.04**2 + 0.08**2 + 0.12**2) / 3))
    assert result.spearman == pytest.approx(1.0)
    assert result.mac_line_rmspe == pytest.approx(0.2)


def test_the_mac_line_is_a_line() -> None:
    line = mac_line([100, 200, 300], [1.0, 1.5, 2.0])
    assert [line(macs) for macs in (100, 400)] == pytest.approx([1.0, 2.5])
