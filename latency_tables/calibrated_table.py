"""From figures to a calibrated table that states its own error, its intervals' coverage and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latency_tables.calibrate import COVERAGE, Calibration, LeftOut, Sample, calibrate, leave_out, mean_error, summary
from latency_tables.calibration_terms import FORMS, MAC_LINE, Form
from latency_tables.errors import CalibrationError
from latency_tables.kinds import KINDS, network_kind
from latency_tables.table import LatencyTable, Roofline
from latency_tables.table_validation import Features, Figure, Interval, KindError, Validation, ValidationRow

LEAST_FAMILIES = 3
"""An interval is checked on a family that neither the fit nor the interval has seen: one out, two to learn from."""

LEFT_OUT = "each family predicted by a fit without it"


def calibrated_table(
    header: Mapping[str, Any], samples: Sequence[Sample], form_names: Sequence[str], notes: Sequence[str] = ()
) -> LatencyTable:
    """Fit a table to figures.

    Where its form is no better than the straight line through MACs on families left out, the table uses the line, and
    says so.

    Args:
        header: The table's fields that no fit decides: name, device, runtime, precision, threads, provenance.
        samples: Figures to fit, and figures to check only.
        form_names: Names from `latency_tables.calibration_terms.FORMS`, ranked by other devices' figures; the first is
            taken whose numbers these figures suffice for.
        notes: What else the table has to say, for example which figures were left out.

    Raises:
        CalibrationError: The figures do not determine a table that can be checked.
    """
    fitted = [sample for sample in samples if sample.use == "fit"]
    checks = [sample for sample in samples if sample.use != "fit"]
    families = sorted({sample.family for sample in fitted})
    if len(families) < LEAST_FAMILIES:
        raise CalibrationError(
            f"the {len(fitted)} usable figures are of {len(families)} families ({', '.join(families) or 'none'}),"
            f" expected at least {LEAST_FAMILIES}",
            "a table is checked on families left out of its fit: add figures of other networks",
        )
    if not _suffices(fitted, MAC_LINE):
        raise CalibrationError(
            f"the {len(fitted)} usable figures leave fewer than {len(MAC_LINE)} without the two largest families,"
            " expected more",
            "add figures of other networks",
        )
    form, reason = form_or_line(fitted, form_names)
    calibration, left = calibrate(fitted, form), leave_out(fitted, form)
    document = {
        **header,
        "provenance": {
            **header["provenance"],
            "protocol": {"form": _formula(calibration), **header["provenance"].get("protocol", {})},
            "notes": (reason, *notes),
        },
        "overhead_ms": calibration.overhead_ms,
        "scale": 1.0,
        "interval": Interval(low=calibration.low, high=calibration.high, coverage=COVERAGE),
        "validation": _validation(fitted, left),
        "rooflines": _rooflines(calibration, fitted),
        "figures": (*_figures(fitted, left), *_figures(checks, _checked(checks, calibration, fitted))),
    }
    return LatencyTable.model_validate(document)


def form_or_line(samples: Sequence[Sample], form_names: Sequence[str]) -> tuple[Form, str]:
    """The form that figures get of ranked ones, the line where it is no better, and the sentence that says why."""
    name = next((name for name in form_names if _suffices(samples, FORMS[name])), "line")
    form = FORMS[name]
    if form == MAC_LINE:
        return form, "a straight line through MACs, chosen by the errors on other devices' figures"
    form_error, line_error = mean_error(samples, form), mean_error(samples, MAC_LINE)
    comparison = f"mean error on families left out: {form_error:.1%}, MAC line {line_error:.1%}"
    if form_error >= line_error:
        return MAC_LINE, (
            f"a straight line through MACs: the form `{name}` is no better ({comparison}); which of the two was chosen"
            " by these same errors"
        )
    return form, f"form `{name}`, chosen by the errors on other devices' figures; {comparison}"


def _suffices(samples: Sequence[Sample], form: Form) -> bool:
    """Whether enough figures remain for a form's numbers without any two families."""
    sizes = sorted(Counter(sample.family for sample in samples).values())
    return len(samples) - sum(sizes[-2:]) >= len(form)


def _formula(calibration: Calibration) -> str:
    parts = [
        f"{value:.4g} ms {term.name}" if term.features is None else f"{value:.4g} ms per million {term.name}"
        for term, value in zip(calibration.form, calibration.values_t, strict=True)
    ]
    return " + ".join(parts)


def _validation(samples: Sequence[Sample], left: LeftOut) -> Validation:
    rows = [
        ValidationRow(
            network=sample.model,
            macs=sample.macs,
            measured_ms=sample.measured_ms,
            predicted_ms=float(ms),
            mac_line_ms=float(line_ms),
        )
        for sample, ms, line_ms in zip(samples, left.ms_s, left.line_s, strict=True)
    ]
    measured_s = np.array([sample.measured_ms for sample in samples])
    inside_s = (left.low_s <= measured_s) & (measured_s <= left.high_s)
    kinds_s = np.array([network_kind(sample.features) for sample in samples])
    by_kind = tuple(
        KindError(
            kind=kind,
            networks=int(rows_s.sum()),
            families=len({sample.family for sample, is_row in zip(samples, rows_s, strict=True) if is_row}),
            mean_error=float(np.abs(left.ms_s / measured_s - 1)[rows_s].mean()),
            mac_line_mean_error=float(np.abs(left.line_s / measured_s - 1)[rows_s].mean()),
            within_interval=float(inside_s[rows_s].mean()),
        )
        for kind in KINDS
        if (rows_s := kinds_s == kind).any()
    )
    return summary(LEFT_OUT, rows).model_copy(update={"interval_coverage": float(inside_s.mean()), "by_kind": by_kind})


def _checked(checks: Sequence[Sample], calibration: Calibration, fitted: Sequence[Sample]) -> LeftOut:
    """Predictions of figures that no fit has seen, by the whole fit."""
    line = calibrate(fitted, MAC_LINE)
    ends_s3 = np.array([calibration.predict(sample) for sample in checks]).reshape(-1, 3)
    line_s = np.array([line.predict(sample)[0] for sample in checks])
    return LeftOut(ends_s3[:, 0], ends_s3[:, 1], ends_s3[:, 2], line_s)


def _figures(samples: Sequence[Sample], left: LeftOut) -> list[Figure]:
    figures = []
    for row, sample in enumerate(samples):
        document = {
            "model": sample.model,
            "family": sample.family,
            "source": sample.source,
            "measured_ms": sample.measured_ms,
            "published_macs_m": sample.published_macs_m,
            "macs": sample.macs,
            "network": sample.network,
            "features": {} if sample.network else dict(sample.features),
            "use": sample.use,
            "left_out_ms": left.ms_s[row],
            "left_out_low_ms": left.low_s[row],
            "left_out_high_ms": left.high_s[row],
            "mac_line_left_out_ms": left.line_s[row],
        }
        figures.append(Figure.model_validate(document))
    return figures


def _rooflines(calibration: Calibration, samples: Sequence[Sample]) -> tuple[Roofline, ...]:
    """A roofline for every class that the figures contain, and one for all others."""
    return tuple(_roofline(op, calibration, samples) for op in sorted(calibration.evidence))


def _roofline(op: str, calibration: Calibration, samples: Sequence[Sample]) -> Roofline:
    launch, macs, read, written = calibration.class_rates(op)
    present: list[Features] = [sample.features[op] for sample in samples if op in sample.features]
    # Sums over whole networks bound a single kernel from above; from below nothing does.
    highest = np.max(present, axis=0).tolist() if present else [0.0] * 4
    evidence = calibration.evidence[op]
    return Roofline(
        op=op,
        launch_us=launch * 1e3,
        ms_per_million_macs=macs * 1e6,
        ms_per_megabyte_read=read * 1e6,
        ms_per_megabyte_written=written * 1e6,
        lowest=(0.0, 0.0, 0.0, 0.0),
        highest=tuple(highest),
        direct=evidence.direct,
        low=evidence.low,
        high=evidence.high,
        n_fit=len(present),
    )
