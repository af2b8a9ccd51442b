"""What a latency table says of how right it is: intervals, networks held out of its fit, published figures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST = 1e30
"""No number of a table is larger, so that sums and products of several stay finite."""
Milliseconds = Annotated[float, Field(ge=0, le=MOST)]
Positive = Annotated[float, Field(gt=0, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]
Features = tuple[float, float, float, float]
"""Launches, MACs, bytes read, bytes written."""


class Record(BaseModel):
    """A part of a table: nothing but its fields, and no number that is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


class Interval(Record):
    """Relative residuals of whole networks, ``measured / predicted - 1``, at the two ends of the interval."""

    low: float = Field(gt=-1, le=MOST)
    high: float = Field(le=MOST)
    coverage: Share


class ValidationRow(Record):
    """One network that the fit behind its prediction has not seen."""

    network: str
    macs: int = Field(ge=0)
    measured_ms: Positive
    predicted_ms: Positive
    mac_line_ms: float


class KindError(Record):
    """How wrong the table is on networks of one kind, each family predicted without itself.

    Attributes:
        kind: One of `latency_tables.kinds.KINDS`.
        mean_error: Mean size of the relative errors.
        mac_line_mean_error: The same for a straight line through MACs.
        within_interval: Share of the networks inside intervals that have not seen their family.
    """

    kind: str
    networks: int = Field(ge=1)
    families: int = Field(ge=1)
    mean_error: float
    mac_line_mean_error: float
    within_interval: Share


class Validation(Record):
    """How wrong the table tends to be, on networks held out of the fit.

    Attributes:
        mean_error: Mean size of the relative errors.
        rmspe: Root mean square of the relative errors.
        mac_line_rmspe: The same for a straight line through MACs, fitted on the same networks.
        interval_coverage: Share of the networks inside intervals that have not seen them either; None where the table
            does not say.
        by_kind: The errors by kinds of networks, for calibrated tables.
    """

    how: str
    rows: tuple[ValidationRow, ...]
    mean_error: float
    rmspe: float
    within_5_percent: Share
    within_10_percent: Share
    spearman: float
    worst: float
    mac_line_mean_error: float
    mac_line_rmspe: float
    interval_coverage: Share | None = None
    by_kind: tuple[KindError, ...] = ()


class Figure(Record):
    """One published whole-network figure.

    Attributes:
        network: Key in the shipped file of networks (`latency_tables.published_features`); empty elsewhere.
        features: The network's features summed by kernel class; empty where ``network`` says them.
        use: ``fit``, or ``check`` for figures of another protocol that the fit must not see.
        left_out_ms: Prediction by the fit that has not seen the network's family (for a check: by the whole fit).
        left_out_low_ms: Low end of that prediction's interval, learnt without the family too.
        left_out_high_ms: High end of that interval.
    """

    model: str
    family: str
    source: str
    measured_ms: Positive
    published_macs_m: float | None
    macs: int = Field(gt=0)
    network: str = ""
    features: dict[str, Features] = {}
    use: Literal["fit", "check"]
    left_out_ms: Positive
    left_out_low_ms: Milliseconds | None = None
    left_out_high_ms: Milliseconds | None = None
    mac_line_left_out_ms: float
