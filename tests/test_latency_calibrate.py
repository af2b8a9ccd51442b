"""Calibration: the fit, and that the shipped table's stated errors follow from the figures inside it."""

from __future__ import annotations

import numpy as np
import pytest

from latency_tables import LatencyPredictor, load_target
from latency_tables.calibrate import (
    BYTES,
    MACS,
    Sample,
    Term,
    fit_terms,
    leave_family_out,
    mac_line,
    multiplier_interval,
    predict,
    rooflines,
    summary,
)
from latency_tables.errors import CalibrationError
from latency_tables.table import LatencyTable, ValidationRow
from search_spaces import get_space

FORM = (Term("macs", frozenset({"conv"}), MACS), Term("bytes", None, BYTES))


@pytest.fixture(autouse=True)
def _no_user_tables(tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))


@pytest.fixture
def pixel6() -> LatencyTable:
    return load_target("pixel6")


def samples_of(table: LatencyTable) -> list[Sample]:
    return [
        Sample(
            figure.model,
            figure.family,
            figure.source,
            figure.measured_ms,
            figure.published_macs_m,
            figure.macs,
            figure.features,
        )
        for figure in table.figures
        if figure.use == "fit"
    ]


def synthetic(count: int, slope: float = 0.01, per_byte: float = 0.2) -> list[Sample]:
    generator = np.random.default_rng(0)
    samples = []
    for number in range(count):
        macs, read, written = generator.uniform(1e8, 1e9), *generator.uniform(1e6, 1e7, 2)
        features = {"conv": (10.0, macs, read, written), "softmax": (2.0, 0.0, read / 10, written / 10)}
        ms = 1e-6 * (slope * macs + per_byte * 1.1 * (read + written))
        samples.append(Sample(f"n{number}", f"f{number % 3}", "made up", ms, None, int(macs), features))
    return samples


def test_the_fit_recovers_what_made_the_figures() -> None:
    samples = synthetic(9)
    values = fit_terms(samples, FORM)
    assert values.tolist() == pytest.approx([0.01, 0.2])
    left_out, line = leave_family_out(samples, FORM)
    measured = np.array([sample.measured_ms for sample in samples])
    np.testing.assert_allclose(left_out, measured, rtol=1e-6)
    assert np.abs(line / measured - 1).max() > 0.01


def test_a_class_that_matters_has_a_narrow_multiplier_interval() -> None:
    low, high = multiplier_interval(samples_of(load_target("pixel6")), ("pointwise_conv",))
    assert 0.5 <= low <= 1 <= high <= 2


def test_too_few_figures_are_refused() -> None:
    with pytest.raises(CalibrationError, match="1 figures cannot determine 2 numbers"):
        fit_terms(synthetic(1), FORM)


def test_the_stated_error_follows_from_the_figures_in_the_file(pixel6: LatencyTable) -> None:
    samples = samples_of(pixel6)
    left_out, line = leave_family_out(samples)
    fitted = [figure for figure in pixel6.figures if figure.use == "fit"]
    np.testing.assert_allclose([figure.left_out_ms for figure in fitted], left_out, rtol=1e-6)
    np.testing.assert_allclose([figure.mac_line_left_out_ms for figure in fitted], line, rtol=1e-6)
    measured = np.array([sample.measured_ms for sample in samples])
    assert pixel6.validation.mean_error == pytest.approx(np.abs(left_out / measured - 1).mean())
    assert pixel6.validation.mac_line_mean_error == pytest.approx(np.abs(line / measured - 1).mean())


def test_the_rooflines_follow_from_the_figures_in_the_file(pixel6: LatencyTable) -> None:
    samples = samples_of(pixel6)
    made = {roofline.op: roofline for roofline in rooflines(samples)}
    for roofline in pixel6.rooflines:
        assert roofline.coefficients == pytest.approx(made[roofline.op].coefficients)
    by_class = {roofline.op: roofline for roofline in pixel6.rooflines}
    whole = predict(samples, fit_terms(samples))
    for sample, expected in zip(samples, whole, strict=True):
        total = sum(by_class[op].milliseconds(features) for op, features in sample.features.items())
        assert total == pytest.approx(expected)


def test_the_shipped_table_beats_the_mac_line_where_it_is_direct(pixel6: LatencyTable) -> None:
    typical = [
        figure for figure in pixel6.figures if figure.use == "fit" and "depthwise_conv.large" not in figure.features
    ]
    errors = [abs(figure.left_out_ms / figure.measured_ms - 1) for figure in typical]
    assert len(typical) == 10
    assert np.mean(errors) < 0.08
    assert pixel6.validation.mean_error < pixel6.validation.mac_line_mean_error


def test_the_shipped_table_is_openly_calibrated(pixel6: LatencyTable) -> None:
    assert pixel6 == load_target("pixel6/cpu-x1/litert-int8")
    assert pixel6.provenance.kind == "calibrated"
    assert "no phone was touched" in pixel6.provenance.status
    assert pixel6.precision == "int8"
    assert all(figure.source for figure in pixel6.figures)


def test_attention_is_flagged_and_widens_the_interval(pixel6: LatencyTable) -> None:
    space, predictor = get_space("elastic"), LatencyPredictor(load_target("pixel6"))
    named = [(space.lower(architecture), name) for name, architecture in space.named.items()]
    latencies = [predictor.graph(graph) for graph, _ in named]
    assert all(latency.extrapolated for latency in latencies)
    assert all(latency.low_ms < latency.ms < latency.high_ms for latency in latencies)
    assert all(latency.high_ms > 1.5 * latency.ms for latency in latencies)
    by_macs = [latency.ms for _, latency in sorted(zip([g.macs for g, _ in named], latencies, strict=True))]
    assert by_macs == sorted(by_macs)


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
