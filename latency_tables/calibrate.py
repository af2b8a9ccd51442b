"""Calibration: a roofline with a few shared numbers, fitted to published whole-network figures.

A network's time is taken to be linear in its features, summed by kernel class; every free number is a `Term` that
several classes share, because some dozen figures cannot tell more. Numbers are non-negative and minimise relative
error. The straight line through MACs that everything is compared with is one of the forms. What a calibration says
about its own error and intervals comes from leaving each family of networks out in turn.
Legend of array suffixes: s samples, t terms, f features of a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from latency_tables.calibration_terms import ATTENTION_BYTES, GROUPS, LARGE_MACS, LARGE_WINDOWS, MAC_LINE, Form, Term
from latency_tables.errors import CalibrationError
from latency_tables.kernels import Kernel, base_class
from latency_tables.table_validation import Features, Validation, ValidationRow

Array = npt.NDArray[np.float64]

COVERAGE = 0.8
"""Share of networks that an interval is meant to cover."""

_PER_MILLION = 1e-6
_LIKELIHOOD_DROP = 2.71  # of -2 log likelihood: a 90 % interval for one number
_MULTIPLIERS = tuple(2.0 ** (power / 2) for power in range(-6, 13))
_KNOWN_WITHIN = 2.0
_FAMILIES_OF_EVIDENCE = 2
_FAR_OFF = np.log(1.3)  # mean error of left-out networks above which a class that they hold is not known


@dataclass(frozen=True)
class Sample:
    """A network with a published latency.

    Attributes:
        features: The network's features summed by kernel class.
        network: Key in the shipped file of networks; empty elsewhere.
        use: ``fit``, or ``check`` for a figure taken by another protocol.
    """

    model: str
    family: str
    source: str
    measured_ms: float
    published_macs_m: float | None
    macs: int
    features: Mapping[str, Features]
    network: str = ""
    use: str = "fit"

    def design(self, form: Form, classes: frozenset[str] | None = None) -> Array:
        """What each term multiplies in this network, ``[t]``; of some classes only, and then without constants."""
        row_t = self._designs.get((form, classes))
        if row_t is None:
            chosen = [op for op in self.features if classes is None or op in classes]
            row_t = np.array([self._multiplied(term, chosen, is_whole=classes is None) for term in form])
            self._designs[form, classes] = row_t
        return row_t

    def _multiplied(self, term: Term, ops: Sequence[str], is_whole: bool) -> float:
        if term.features is None:
            return float(is_whole)
        priced = [self.features[op] for op in ops if term.prices(op)]
        return _PER_MILLION * sum(
            weight * sum(features[place] for features in priced) for place, weight in enumerate(term.features) if weight
        )

    @cached_property
    def _designs(self) -> dict[tuple[Form, frozenset[str] | None], Array]:
        return {}


@dataclass(frozen=True)
class Evidence:
    """How far the figures say what a kernel class costs.

    Attributes:
        direct: At least two families contain the class, its cost is known within a factor of two, and networks with it
            are predicted without their family; of other classes than those of `GROUPS` the last suffices.
        low: How many times cheaper the class may be than its rates say; high how many times dearer.
    """

    direct: bool
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """A fitted form.

    Attributes:
        values_t: Milliseconds, or milliseconds per million, of each term.
        low: Relative residual at the low end of the interval; high at its high end.
        evidence: By kernel class, ``other`` for those that no figure contains.
    """

    form: Form
    values_t: Array
    low: float
    high: float
    evidence: Mapping[str, Evidence]

    @property
    def overhead_ms(self) -> float:
        """The constant per inference."""
        return float(sum(value for term, value in zip(self.form, self.values_t, strict=True) if term.features is None))

    def class_rates(self, op: str) -> Features:
        """Milliseconds per launch, MAC, byte read and byte written of a kernel class."""
        launch, macs, read, written = (_class_design(op, self.form) @ self.values_t).tolist()
        return launch, macs, read, written

    def predict(self, sample: Sample) -> tuple[float, float, float]:
        """Milliseconds of a network, and the two ends of its interval."""
        low_ms = ms = high_ms = self.overhead_ms
        for op, features in sample.features.items():
            known = next(name for name in (op, base_class(op), "other") if name in self.evidence)
            kernel_ms, evidence = float(np.dot(self.class_rates(known), features)), self.evidence[known]
            ms += kernel_ms
            low_ms += kernel_ms * (1.0 if evidence.direct else evidence.low)
            high_ms += kernel_ms * (1.0 if evidence.direct else evidence.high)
        return ms, low_ms * (1 + self.low), high_ms * (1 + self.high)


@dataclass(frozen=True)
class LeftOut:
    """Predictions of samples by calibrations that have not seen the sample's family, each ``[s]`` in milliseconds."""

    ms_s: Array
    low_s: Array
    high_s: Array
    line_s: Array


def summed_features(kernels: Iterable[Kernel], bytes_per_element: float) -> dict[str, Features]:
    """The features of a network's kernels, summed by class."""
    sums: dict[str, Features] = {}
    for kernel in kernels:
        launches, macs, read, written = sums.get(kernel.op, (0.0, 0.0, 0.0, 0.0))
        more = kernel.features(bytes_per_element)
        sums[kernel.op] = (launches + more[0], macs + more[1], read + more[2], written + more[3])
    return dict(sorted(sums.items()))


def calibrate(samples: Sequence[Sample], form: Form) -> Calibration:
    """Fit a form, with intervals from families left out of it.

    Raises:
        CalibrationError: Too few figures or families for the form.
    """
    predicted_s = leave_families_out(samples, form)
    low, high = _residual_interval(samples, predicted_s, form)
    return Calibration(form, fit_terms(samples, form), low, high, _all_evidence(samples, predicted_s, form))


def fit_terms(samples: Sequence[Sample], form: Form) -> Array:
    """The non-negative value ``[t]`` of each term that minimises relative error: milliseconds (constants), or
    milliseconds per million.

    Raises:
        CalibrationError: There are fewer samples than terms.
    """
    if len(samples) < len(form):
        raise CalibrationError(
            f"{len(samples)} figures cannot determine {len(form)} numbers, expected at least as many"
        )
    return _solve(_design(samples, form), _measured(samples))


def leave_families_out(samples: Sequence[Sample], form: Form) -> Array:
    """Predictions ``[s]``, in milliseconds, by fits that have not seen the sample's family.

    Raises:
        CalibrationError: There is only one family, or too few figures remain without one.
    """
    if len({sample.family for sample in samples}) < 2:
        raise CalibrationError(f"all figures are of family `{samples[0].family}`, expected at least two families")
    design_st, measured_s = _design(samples, form), _measured(samples)
    predicted_s = np.zeros(len(samples))
    for inside_s in _family_masks(samples):
        seen = int((~inside_s).sum())
        if seen < len(form):
            raise CalibrationError(
                f"{seen} figures remain without family `{samples[int(np.argmax(inside_s))].family}`, expected at least"
                f" {len(form)} for the numbers of the fit"
            )
        predicted_s[inside_s] = design_st[inside_s] @ _solve(design_st[~inside_s], measured_s[~inside_s])
    return predicted_s


def leave_out(samples: Sequence[Sample], form: Form) -> LeftOut:
    """Each sample's time and interval by a whole calibration, intervals included, that has not seen its family."""
    ms_s, low_s, high_s = np.zeros((3, len(samples)))
    for inside_s in _family_masks(samples):
        calibration = calibrate([samples[row] for row in np.flatnonzero(~inside_s).tolist()], form)
        for row in np.flatnonzero(inside_s).tolist():
            ms_s[row], low_s[row], high_s[row] = calibration.predict(samples[row])
    return LeftOut(ms_s, low_s, high_s, leave_families_out(samples, MAC_LINE))


def mean_error(samples: Sequence[Sample], form: Form) -> float:
    """The mean relative error on families left out."""
    return float(np.abs(leave_families_out(samples, form) / _measured(samples) - 1).mean())


def multiplier_interval(samples: Sequence[Sample], form: Form, classes: Iterable[str]) -> tuple[float, float]:
    """How many times cheaper and dearer some classes could be than the fit says, by the same figures.

    The classes' cost is held at each multiple of the fitted one while everything else is fitted again; multiples that
    stay within a 90 % likelihood interval of the best count as possible. Where even the largest one tried is possible,
    the figures set no bound and the largest is returned. Classes that the form does not price have no multiple: (1, 1).
    """
    whole_st = _design(samples, form)
    part_st = _design(samples, form, frozenset(classes))
    return _possible_multiples(whole_st, part_st, _measured(samples))


def mac_line(macs: Sequence[int], measured_ms: Sequence[float]) -> Callable[[float], float]:
    """The baseline: ``a + b * MACs`` in milliseconds, non-negative, fitted in relative error."""
    design_st = np.column_stack([np.ones(len(macs)), np.array(macs) * _PER_MILLION])
    constant, slope = _solve(design_st, np.asarray(measured_ms, dtype=np.float64)).tolist()
    return lambda count: float(constant + slope * count * _PER_MILLION)


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


def _all_evidence(samples: Sequence[Sample], predicted_s: Array, form: Form) -> dict[str, Evidence]:
    seen = {op for sample in samples for op in sample.features}
    grouped = {
        op: group for group, members in GROUPS.items() for op in seen if op in members or base_class(op) in members
    }
    if ATTENTION_BYTES in form:  # they share a number of their own, so that only their sum is known
        grouped |= {op: "attention" for op in seen & {*(ATTENTION_BYTES.classes or ()), "matmul"}}
    groups: dict[str, set[str]] = {}
    for op in sorted(seen):
        groups.setdefault(grouped.get(op, op), set()).add(op)
    whole_st, measured_s = _design(samples, form), _measured(samples)
    evidence: dict[str, Evidence] = {}
    for name, classes in groups.items():
        inside_s = np.array([bool(classes & set(sample.features)) for sample in samples])
        families = {sample.family for sample, inside in zip(samples, inside_s, strict=True) if inside}
        low, high = _possible_multiples(whole_st, _design(samples, form, frozenset(classes)), measured_s)
        ratio_s = (measured_s / predicted_s)[inside_s]
        is_far_off = np.abs(np.log(ratio_s)).mean() > _FAR_OFF
        has_own_rate = LARGE_MACS in form and LARGE_WINDOWS in classes  # learnt from few families, which disagree
        if len(families) < _FAMILIES_OF_EVIDENCE:
            low, high = min(low, 1 / _KNOWN_WITHIN), max(high, _KNOWN_WITHIN)
        elif has_own_rate or (is_far_off and name in GROUPS):
            low, high = min(low, float(ratio_s.min())), max(high, float(ratio_s.max()))
        if name in GROUPS:
            is_bounded = low >= 1 / _KNOWN_WITHIN and high <= _KNOWN_WITHIN
            direct = len(families) >= _FAMILIES_OF_EVIDENCE and is_bounded and not has_own_rate and not is_far_off
        else:  # of one family: predicted by a fit that has never seen the class
            direct = len(families) >= _FAMILIES_OF_EVIDENCE or not is_far_off
        evidence |= {op: Evidence(direct, low, high) for op in classes}
    unknown = [item for op, item in evidence.items() if op in grouped] or list(evidence.values())
    evidence["other"] = Evidence(False, min(item.low for item in unknown), max(item.high for item in unknown))
    return evidence


def _possible_multiples(whole_st: Array, part_st: Array, measured_s: Array) -> tuple[float, float]:
    rest_st = whole_st - part_st
    held_s = part_st @ _solve(whole_st, measured_s) / measured_s
    if not held_s.any():
        return 1.0, 1.0
    misfits = []
    for multiplier in _MULTIPLIERS:
        wanted_s = 1 - multiplier * held_s
        misfits.append(((rest_st / measured_s[:, None] @ _solve(rest_st, measured_s, wanted_s) - wanted_s) ** 2).sum())
    drop = len(measured_s) * np.log(np.array(misfits) / max(min(misfits), 1e-300))
    possible = [multiplier for multiplier, loss in zip(_MULTIPLIERS, drop, strict=True) if loss <= _LIKELIHOOD_DROP]
    return min(*possible, 1.0), max(*possible, 1.0)


def _residual_interval(samples: Sequence[Sample], predicted_s: Array, form: Form) -> tuple[float, float]:
    """The two ends of ``measured / predicted - 1`` between which a network of an unseen family is expected.

    Each residual is that of a fit without the network's family, so it is a draw of what is asked for, around zero.
    Families count alike, however many networks they have: squared logarithmic residuals are averaged within each, then
    over families, and Student's t with a degree of freedom per family gives the width. Networks with large windows do
    not count where these have a rate of their own, whose uncertainty is that of the class.
    """
    from scipy.stats import t as student_t

    squares_s = np.log(_measured(samples) / predicted_s) ** 2
    counts_s = np.array([LARGE_MACS not in form or LARGE_WINDOWS not in sample.features for sample in samples])
    masks = [inside_s & counts_s for inside_s in _family_masks(samples) if (inside_s & counts_s).any()]
    variance = np.mean([squares_s[inside_s].mean() for inside_s in masks])
    width = student_t.ppf((1 + COVERAGE) / 2, len(masks)) * np.sqrt(variance)
    return float(np.expm1(-width)), float(np.expm1(width))


def _class_design(op: str, form: Form) -> Array:
    """What each term adds to each feature's coefficient of one class, ``[f, t]``."""
    columns = [term.features if term.features and term.prices(op) else (0.0,) * 4 for term in form]
    return np.asarray(np.array(columns, dtype=np.float64).T * _PER_MILLION)


def _design(samples: Sequence[Sample], form: Form, classes: frozenset[str] | None = None) -> Array:
    """What each term multiplies in each network, ``[s, t]``; of some classes only, and then without constants."""
    return np.array([sample.design(form, classes) for sample in samples])


def _measured(samples: Sequence[Sample]) -> Array:
    return np.array([sample.measured_ms for sample in samples])


def _solve(design_st: Array, measured_s: Array, wanted_s: Array | None = None) -> Array:
    from scipy.optimize import nnls

    ones_s = np.ones(len(measured_s))
    values_t, _ = nnls(design_st / measured_s[:, None], ones_s if wanted_s is None else wanted_s)
    return np.asarray(values_t, dtype=np.float64)


def _family_masks(samples: Sequence[Sample]) -> list[npt.NDArray[np.bool_]]:
    families = np.array([sample.family for sample in samples])
    return [families == family for family in sorted(set(families.tolist()))]
