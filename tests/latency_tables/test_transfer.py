"""Prices borrowed from another device: the ratio of shared networks, the spread that trials show, and what is taken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latency_tables import LatencyPredictor, load_target
from latency_tables.calibrate import Sample, calibrate
from latency_tables.calibrated_table import calibrated_table
from latency_tables.calibration_terms import FORMS, Form
from latency_tables.errors import CalibrationError
from latency_tables.table import SCHEMA
from latency_tables.table_validation import Features
from latency_tables.transfer import Lender, Trial, borrow, loan, speed_ratio, trial_residuals
from search_spaces import get_space

FORM: Form = FORMS["roofline, kernels apart"]
HEADER = {
    "schema": SCHEMA,
    "name": "new",
    "unit": "ms",
    "device": {"name": "New", "processor": "CPU"},
    "runtime": {"name": "none", "fusion": "xnnpack"},
    "precision": "int8",
    "threads": 1,
    "provenance": {"kind": "calibrated", "status": "made up", "date": "2026-01-01", "tool_version": "0"},
}


def networks(speed: float, attention: float = 1.0, with_attention: bool = True) -> list[Sample]:
    """Made-up networks on a device ``speed`` times slower than another one, at attention ``attention`` times more."""
    generator = np.random.default_rng(0)
    samples = []
    for number in range(24):
        macs, read = generator.uniform(1e8, 1e9), generator.uniform(1e6, 1e7)
        features: dict[str, Features] = {"conv": (9.0, macs, read, read), "pointwise_conv": (9.0, macs / 3, read, read)}
        ms = 1e-8 * macs * 4 / 3 + 4e-7 * read * 2
        if number % 2:
            features |= {"matmul": (8.0, 1e7, read, read), "softmax": (4.0, 0.0, 3 * read, 3 * read)}
            ms += attention * 6e-6 * 3 * read
        if number % 2 == 0 or with_attention:
            total = int(sum(each[1] for each in features.values()))
            samples.append(Sample(f"n{number}", f"f{number % 8}", "made up", speed * ms, None, total, features))
    return samples


def lender() -> Lender:
    samples = networks(1.0)
    return Lender("old", calibrate(samples, FORM), tuple(samples))


def trial(name: str, speed: float, attention: float) -> Trial:
    return Trial(name, FORM, tuple(networks(speed, attention)))


def test_the_ratio_is_that_of_networks_timed_on_both() -> None:
    ratio, shared = speed_ratio(networks(0.25, with_attention=False), lender())
    assert ratio == pytest.approx(0.25)
    assert len(shared) == 12
    with pytest.raises(CalibrationError, match="0 networks were timed on this device and on `old`, expected 3"):
        speed_ratio([replace(sample, family="other") for sample in networks(0.25)], lender())


def test_trials_say_how_far_off_borrowed_attention_is() -> None:
    exact, dear = trial("exact", 3.0, 1.0), trial("dear", 0.5, 3.0)
    assert np.abs(trial_residuals(exact, lender())).max() < 0.1
    assert np.mean(trial_residuals(dear, lender())) > 0.3, "attention takes more here than the ratio says"
    own = networks(0.25, with_attention=False)
    narrow = loan(own, lender(), [exact, trial("as exact", 2.0, 1.0)])
    wide = loan(own, lender(), [exact, dear])
    assert 1 <= narrow.spread < 1.2 < wide.spread
    with pytest.raises(CalibrationError, match="1 devices can be tried, expected 2 or more"):
        loan(own, lender(), [exact])


def test_a_table_borrows_what_it_knows_nothing_of_and_says_so() -> None:
    own = networks(0.25, with_attention=False)
    before = calibrated_table(HEADER, own, ["roofline"])
    taken = loan(own, lender(), [trial("one", 3.0, 1.2), trial("two", 0.5, 0.8)])
    after = borrow(before, taken)
    priced = {roofline.op: roofline for roofline in after.rooflines}
    assert priced["conv"] == next(roofline for roofline in before.rooflines if roofline.op == "conv")
    theirs = lender().calibration.class_rates("softmax")
    assert priced["softmax"].coefficients == pytest.approx([0.25 * rate for rate in theirs])
    assert (priced["softmax"].borrowed_from, priced["softmax"].high) == ("old", taken.spread)
    assert "prices of matmul, softmax are those of `old` times 0.25" in after.provenance.notes[-1]


def test_pixel6_tells_of_vision_transformers_what_it_borrowed() -> None:
    table = load_target("pixel6")
    lent = {roofline.op for roofline in table.rooflines if roofline.borrowed_from}
    assert {"matmul", "softmax", "layer_norm", "activation.gelu", "reshape.transpose"} <= lent
    assert {roofline.borrowed_from for roofline in table.rooflines} == {"", "pixel4/cpu-large/tflite-int8"}
    predictor, space = LatencyPredictor(table), get_space("elastic")
    for architecture in space.named.values():
        latency = predictor.graph(space.lower(architecture))
        assert not latency.extrapolated
        own = 1 + table.interval.high
        assert latency.high_ms > 1.05 * own * latency.ms, "a borrowed price widens the interval"
