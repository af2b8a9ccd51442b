"""Calibrated tables: a roofline with a few shared numbers, fitted to published whole-network figures.

A network's time is taken to be linear in its features, summed by kernel class; every free number is a `Term` that
several classes share, because some dozen figures cannot tell more. Numbers are non-negative and minimise relative
error. What a table says about its own error comes from leaving each family of networks out in turn.
Legend of array suffixes: s samples, t terms, f features of a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from latency_tables.errors import CalibrationError
from latency_tables.kernels import Kernel
from latency_tables.table import Features, Figure, Interval, LatencyTable, Roofline, Validation, ValidationRow

Array = npt.NDArray[np.float64]

MACS: Features = (0.0, 1.0, 0.0, 0.0)
BYTES: Features = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Term:
    """One free number of the fit.

    Attributes:
        classes: Kernel classes that share it; None for all.
        features: How much of each feature it multiplies.
    """

    name: str
    classes: frozenset[str] | None
    features: Features


FORM: tuple[Term, ...] = (
    Term("dense MACs", frozenset({"conv", "pointwise_conv", "linear", "matmul"}), MACS),
    Term("depthwise MACs", frozenset({"depthwise_conv", "depthwise_conv.large"}), MACS),
    Term("bytes", None, BYTES),
    Term("bytes behind large depthwise windows", frozenset({"depthwise_conv.large"}), BYTES),
)
"""The fitted form of the shipped calibrated tables."""

INDIRECT: Mapping[str, tuple[str, ...]] = {
    "attention": ("matmul", "softmax"),
    "norms": ("layer_norm", "group_norm", "batch_norm"),
    "smooth activations": ("activation.gelu", "activation.silu", "activation.sigmoid", "activation.tanh"),
    "moves": ("reshape", "concatenate", "other"),
}
"""Classes that whole mobile networks say little about; their intervals come from `multiplier_interval`."""

_PER_MILLION = 1e-6
_LIKELIHOOD_DROP = 2.71  # of -2 log likelihood: a 90 % interval for one number
_MULTIPLIERS = tuple(2.0 ** (power / 2) for power in range(-6, 13))


@dataclass(frozen=True)
class Sample:
    """A network with a published latency.

    Attributes:
        features: The network's features summed by kernel class.
        use: ``fit``, or ``check`` for a figure taken by another protocol.
    """

    model: str
    family: str
    source: str
    measured_ms: float
    published_macs_m: float | None
    macs: int
    features: Mapping[str, Features]
    use: str = "fit"


def summed_features(kernels: Sequence[Kernel], bytes_per_element: float) -> dict[str, Features]:
    """The features of a network's kernels, summed by class."""
    sums: dict[str, Features] = {}
    for kernel in kernels:
        launches, macs, read, written = sums.get(kernel.op, (0.0, 0.0, 0.0, 0.0))
        more = kernel.features(bytes_per_element)
        sums[kernel.op] = (launches + more[0], macs + more[1], read + more[2], written + more[3])
    return dict(sorted(sums.items()))


def fit_terms(samples: Sequence[Sample], form: Sequence[Term] = FORM) -> Array:
    """The non-negative value ``[t]`` of each term, in milliseconds per million, that minimises relative error.

    Raises:
        CalibrationError: There are fewer samples than terms.
    """
    from scipy.optimize import nnls

    if len(samples) < len(form):
        raise CalibrationError(
            f"{len(samples)} figures cannot determine {len(form)} numbers, expected at least as many"
        )
    design_st = np.array([_network_row(sample.features, form) for sample in samples])
    measured_s = np.array([sample.measured_ms for sample in samples])
    values_t, _ = nnls(design_st / measured_s[:, None], np.ones(len(samples)))
    return np.asarray(values_t, dtype=np.float64)


def predict(samples: Sequence[Sample], values_t: Array, form: Sequence[Term] = FORM) -> Array:
    """The predicted milliseconds ``[s]`` of each sample."""
    return np.array([_network_row(sample.features, form) @ values_t for sample in samples])


def mac_line(macs: Sequence[int], measured_ms: Sequence[float]) -> Callable[[float], float]:
    """The baseline: ``a + b * MACs`` in milliseconds, non-negative, fitted in relative error."""
    from scipy.optimize import nnls

    design = np.column_stack([np.ones(len(macs)), np.array(macs) * _PER_MILLION])
    (constant, slope), _ = nnls(design / np.array(measured_ms)[:, None], np.ones(len(macs)))
    return lambda count: float(constant + slope * count * _PER_MILLION)


def _line_of(samples: Sequence[Sample]) -> Callable[[float], float]:
    return mac_line([sample.macs for sample in samples], [sample.measured_ms for sample in samples])


def leave_family_out(samples: Sequence[Sample], form: Sequence[Term] = FORM) -> tuple[Array, Array]:
    """Predictions ``[s]`` by fits, and by MAC lines, that have not seen the sample's family."""
    predicted_s, line_s = np.zeros(len(samples)), np.zeros(len(samples))
    for family in {sample.family for sample in samples}:
        others = [sample for sample in samples if sample.family != family]
        values_t, line = fit_terms(others, form), _line_of(others)
        for row, sample in enumerate(samples):
            if sample.family == family:
                predicted_s[row] = predict([sample], values_t, form)[0]
                line_s[row] = line(sample.macs)
    return predicted_s, line_s


def multiplier_interval(samples: Sequence[Sample], classes: Sequence[str]) -> tuple[float, float]:
    """How many times cheaper and dearer some classes could be than their shared rates say, by the same figures.

    All other numbers are fitted again for each multiplier; those that stay within a 90 % likelihood interval of the
    best count as possible. Where even the largest multiplier tried is possible, the figures set no bound and the
    largest is returned.
    """
    misfits = np.array([_misfit(samples, classes, multiplier) for multiplier in _MULTIPLIERS])
    drop = len(samples) * np.log(misfits / misfits.min())
    possible = [multiplier for multiplier, loss in zip(_MULTIPLIERS, drop, strict=True) if loss <= _LIKELIHOOD_DROP]
    return min(*possible, 1.0), max(*possible, 1.0)


def rooflines(samples: Sequence[Sample], form: Sequence[Term] = FORM) -> tuple[Roofline, ...]:
    """A roofline for every class that the samples contain, for every class without evidence, and for all others."""
    values_t = fit_terms(samples, form)
    seen = {op for sample in samples for op in sample.features}
    indirect = {op: multiplier_interval(samples, ops) for ops in INDIRECT.values() for op in ops}
    classes = sorted(seen | set(indirect))
    return tuple(_roofline(op, samples, values_t, form, indirect) for op in classes)


def calibrated_table(header: Mapping[str, Any], samples: Sequence[Sample], form: Sequence[Term] = FORM) -> LatencyTable:
    """Fit a table.

    Args:
        header: The table's fields that no fit decides: name, device, runtime, provenance and so on.
        samples: Figures to fit, and figures to check only.
        form: The free numbers.
    """
    fitted = [sample for sample in samples if sample.use == "fit"]
    left_out_s, line_s = leave_family_out(fitted, form)
    ratio_s = np.array([sample.measured_ms for sample in fitted]) / left_out_s
    typical = [row for row, sample in enumerate(fitted) if "depthwise_conv.large" not in sample.features]
    checks = [sample for sample in samples if sample.use != "fit"]
    check_s, line = predict(checks, fit_terms(fitted, form), form), _line_of(fitted)
    check_line_s = np.array([line(sample.macs) for sample in checks])
    rows = zip([*fitted, *checks], [*left_out_s, *check_s], [*line_s, *check_line_s], strict=True)
    document = {
        **header,
        "overhead_ms": 0.0,
        "scale": 1.0,
        "interval": Interval(
            low=float(ratio_s[typical].min()) - 1,
            high=float(ratio_s[typical].max()) - 1,
            coverage=(len(typical) - 1) / (len(typical) + 1),
        ),
        "validation": _validation(fitted, left_out_s, line_s),
        "rooflines": rooflines(fitted, form),
        "figures": tuple(_figure(sample, float(ms), float(line_ms)) for sample, ms, line_ms in rows),
    }
    return LatencyTable.model_validate(document)


def summary(how: str, rows: Sequence[ValidationRow]) -> Validation:
    """The error statistics of held-out networks."""
    from scipy.stats import spearmanr

    measured_s = np.array([row.measured_ms for row in rows])
    predicted_s = np.array([row.predicted_ms for row in rows])
    error_s = predicted_s / measured_s - 1
    line_s = np.array([row.mac_line_ms for row in rows]) / measured_s - 1
    rank = float(spearmanr(predicted_s, measured_s).statistic) if len(rows) > 2 else 1.0
    return Validation(
        how=how,
        rows=tuple(rows),
        mean_error=float(np.abs(error_s).mean()),
        rmspe=float(np.sqrt((error_s**2).mean())),
        within_5_percent=float((np.abs(error_s) <= 0.05).mean()),
        within_10_percent=float((np.abs(error_s) <= 0.1).mean()),
        spearman=rank if np.isfinite(rank) else 0.0,
        worst=float(np.abs(error_s).max()),
        mac_line_mean_error=float(np.abs(line_s).mean()),
        mac_line_rmspe=float(np.sqrt((line_s**2).mean())),
    )


def _class_design(op: str, form: Sequence[Term]) -> Array:
    """What each term adds to each feature's coefficient of one class, ``[f, t]``, per million."""
    columns = [term.features if term.classes is None or op in term.classes else (0.0,) * 4 for term in form]
    return np.asarray(np.array(columns, dtype=np.float64).T * _PER_MILLION)


def _network_row(features: Mapping[str, Features], form: Sequence[Term]) -> Array:
    rows = [np.array(features[op]) @ _class_design(op, form) for op in sorted(features)]
    return np.asarray(np.sum(rows, axis=0), dtype=np.float64)


def _misfit(samples: Sequence[Sample], classes: Sequence[str], multiplier: float) -> float:
    def dearer(sample: Sample) -> Sample:
        features: dict[str, Features] = {}
        for op, (launches, macs, read, written) in sample.features.items():
            factor = multiplier if any(op == name or op.startswith(f"{name}.") for name in classes) else 1.0
            features[op] = (launches, macs * factor, read * factor, written * factor)
        return replace(sample, features=features)

    changed = [dearer(sample) for sample in samples]
    measured_s = np.array([sample.measured_ms for sample in samples])
    return float(((predict(changed, fit_terms(changed)) / measured_s - 1) ** 2).sum())


def _roofline(
    op: str,
    samples: Sequence[Sample],
    values_t: Array,
    form: Sequence[Term],
    indirect: Mapping[str, tuple[float, float]],
) -> Roofline:
    launch, macs, read, written = _class_design(op, form) @ values_t
    present = [sample.features[op] for sample in samples if op in sample.features]
    factors = indirect.get(op) or indirect.get(op.partition(".")[0])
    if op == "depthwise_conv.large":
        factors = _large_window_factors(samples, form)
    low, high = factors or (1.0, 1.0)
    # Sums over whole networks bound a single kernel from above; from below nothing does.
    highest = np.max(present, axis=0).tolist() if present else [0.0] * 4
    return Roofline(
        op=op,
        launch_us=launch * 1e3,
        ms_per_million_macs=macs * 1e6,
        ms_per_megabyte_read=read * 1e6,
        ms_per_megabyte_written=written * 1e6,
        lowest=(0.0, 0.0, 0.0, 0.0),
        highest=tuple(highest),
        direct=factors is None,
        low=low,
        high=high,
        n_fit=len(present),
    )


def _large_window_factors(samples: Sequence[Sample], form: Sequence[Term]) -> tuple[float, float]:
    left_out_s, _ = leave_family_out(samples, form)
    pairs = zip(samples, left_out_s, strict=True)
    ratios = [s.measured_ms / float(ms) for s, ms in pairs if "depthwise_conv.large" in s.features]
    return min(*ratios, 1.0), max(*ratios, 1.0)


def _validation(samples: Sequence[Sample], left_out_s: Array, line_s: Array) -> Validation:
    rows = [
        ValidationRow(
            network=sample.model,
            macs=sample.macs,
            measured_ms=sample.measured_ms,
            predicted_ms=float(ms),
            mac_line_ms=float(line_ms),
        )
        for sample, ms, line_ms in zip(samples, left_out_s, line_s, strict=True)
    ]
    return summary("each family predicted by a fit without it", rows)


def _figure(sample: Sample, left_out_ms: float, line_ms: float) -> Figure:
    return Figure.model_validate(
        {
            "model": sample.model,
            "family": sample.family,
            "source": sample.source,
            "measured_ms": sample.measured_ms,
            "published_macs_m": sample.published_macs_m,
            "macs": sample.macs,
            "features": dict(sample.features),
            "use": sample.use,
            "left_out_ms": left_out_ms,
            "mac_line_left_out_ms": line_ms,
        }
    )
