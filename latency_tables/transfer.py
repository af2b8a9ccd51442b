"""Prices borrowed from another device, for kernels that a device's own figures say nothing about.

Networks that were timed on both devices say how many times faster one is. What they do not say is whether kernels that
only the other device's figures contain are faster by as much. Trials tell: devices whose figures contain those kernels
are treated as if they did not, and what comes out is compared with what was measured there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latency_tables.calibrate import COVERAGE, Calibration, Sample, calibrate
from latency_tables.calibration_terms import Form
from latency_tables.errors import CalibrationError
from latency_tables.kinds import CONVOLUTIONAL, network_kind
from latency_tables.table import LatencyTable, Roofline

LENT = frozenset(
    "matmul softmax layer_norm group_norm activation.gelu activation.silu reshape.transpose reshape.roll reshape.split"
    " pool.average".split()
)
"""Classes that attention and its surroundings are made of."""

_PRICED_AS = {"group_norm": "layer_norm"}

SAME_MACS = 0.1
"""Share by which the MACs of two widths of one family may differ to count as one network."""

_CLASSIFIER_MACS = 2e7
_LEAST_SHARED = 3
_LEAST_TRIALS = 2


@dataclass(frozen=True)
class Lender:
    """A device whose figures contain the kernels that another one borrows.

    Attributes:
        name: Name of its table.
    """

    name: str
    calibration: Calibration
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Loan:
    """What a device borrows.

    Attributes:
        ratio: How many times a kernel takes here what it takes on the lender.
        spread: Factor around a borrowed price that holds ``COVERAGE`` of networks, from the trials.
        shared: Networks that the ratio was seen on.
        trials: Devices that the spread was seen on.
    """

    lender: Lender
    ratio: float
    spread: float
    shared: tuple[str, ...]
    trials: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """A device that could do without the loan: its figures contain the kernels."""

    name: str
    form: Form
    samples: tuple[Sample, ...]


def speed_ratio(samples: Sequence[Sample], lender: Lender) -> tuple[float, tuple[str, ...]]:
    """The geometric mean, over convolutional networks timed on both devices, of the ratio of their times per MAC.

    Raises:
        CalibrationError: Too few networks were timed on both.
    """
    ratios: dict[str, float] = {}
    for sample in samples:
        if network_kind(sample.features) != CONVOLUTIONAL:
            continue
        near = [
            other
            for other in lender.samples
            if other.family == sample.family and abs(other.macs / sample.macs - 1) <= SAME_MACS
        ]
        if near:
            twin = min(near, key=lambda other: abs(other.macs - sample.macs))
            ratios[sample.model] = sample.measured_ms / twin.measured_ms * twin.macs / sample.macs
    if len(ratios) < _LEAST_SHARED:
        raise CalibrationError(
            f"{len(ratios)} networks were timed on this device and on `{lender.name}`, expected {_LEAST_SHARED} or more"
        )
    return float(np.exp(np.mean(np.log(list(ratios.values()))))), tuple(ratios)


def loan(samples: Sequence[Sample], lender: Lender, trials: Sequence[Trial]) -> Loan:
    """The loan of a device, with the spread that trials show.

    Args:
        samples: The device's own figures.
        lender: Who lends.
        trials: Devices of the lender's runtime and precision.

    Raises:
        CalibrationError: Too few shared networks or trials.
    """
    from scipy.stats import t as student_t

    if len(trials) < _LEAST_TRIALS:
        raise CalibrationError(f"{len(trials)} devices can be tried, expected {_LEAST_TRIALS} or more")
    ratio, shared = speed_ratio(samples, lender)
    squares = [np.mean(np.square(trial_residuals(trial, lender))) for trial in trials]
    spread = float(np.exp(student_t.ppf((1 + COVERAGE) / 2, len(trials)) * np.sqrt(np.mean(squares))))
    return Loan(lender, ratio, spread, shared, tuple(trial.name for trial in trials))


def trial_residuals(trial: Trial, lender: Lender) -> list[float]:
    """``log(measured / predicted)`` of networks with attention, by a fit that has seen none of them on the device."""
    own = [sample for sample in trial.samples if network_kind(sample.features) == CONVOLUTIONAL]
    calibration = calibrate(own, trial.form)
    ratio, _ = speed_ratio(own, lender)
    residuals = []
    for sample in trial.samples:
        if network_kind(sample.features) != CONVOLUTIONAL:
            lent = {op: features for op, features in sample.features.items() if op in LENT}
            rest = {op: features for op, features in sample.features.items() if op not in LENT}
            own_ms = sum(float(np.dot(calibration.class_rates(op), features)) for op, features in rest.items())
            lent_ms = sum(float(np.dot(lender.calibration.class_rates(op), features)) for op, features in lent.items())
            predicted = calibration.overhead_ms + own_ms + ratio * lent_ms
            residuals.append(float(np.log(sample.measured_ms / predicted)))
    return residuals


def borrow(table: LatencyTable, taken: Loan) -> LatencyTable:
    """The table with the lender's prices for classes of `LENT` that it has no evidence of its own for.

    Linear layers are borrowed too where the device's figures hold them as classifiers alone.
    """
    lender = taken.lender
    rooflines = {roofline.op: roofline for roofline in table.rooflines}
    wanted = {op for op in LENT if op not in rooflines or not rooflines[op].direct}
    if "linear" not in rooflines or rooflines["linear"].highest[1] < _CLASSIFIER_MACS:
        wanted.add("linear")
    borrowed = sorted(op for op in wanted if _PRICED_AS.get(op, op) in lender.calibration.evidence)
    rooflines |= {op: _borrowed(op, taken) for op in borrowed}
    listed = tuple(rooflines[op] for op in sorted(rooflines))
    note = (
        f"prices of {', '.join(borrowed)} are those"
        f" of `{lender.name}` times {taken.ratio:.3g}, the ratio of {len(taken.shared)} networks timed on both"
        f" ({', '.join(taken.shared)}); intervals widen by a factor of {taken.spread:.2f} around them, since so far off"
        f" were {', '.join(taken.trials)} when they borrowed in the same way what their figures say"
    )
    provenance = table.provenance.model_copy(update={"notes": (*table.provenance.notes, note)})
    return table.model_copy(update={"rooflines": listed, "provenance": provenance})


def _borrowed(op: str, taken: Loan) -> Roofline:
    theirs = _PRICED_AS.get(op, op)
    launch, macs, read, written = (taken.ratio * rate for rate in taken.lender.calibration.class_rates(theirs))
    present = [sample.features[theirs] for sample in taken.lender.samples if theirs in sample.features]
    return Roofline(
        op=op,
        launch_us=launch * 1e3,
        ms_per_million_macs=macs * 1e6,
        ms_per_megabyte_read=read * 1e6,
        ms_per_megabyte_written=written * 1e6,
        lowest=(0.0, 0.0, 0.0, 0.0),
        highest=tuple(np.max(present, axis=0).tolist()),
        direct=False,
        low=1 / taken.spread,
        high=taken.spread,
        n_fit=len(present),
        borrowed_from=taken.lender.name,
    )
