"""The latency table: one human-readable JSON file per device, runtime and precision.

Times are milliseconds, sizes bytes, counts plain numbers. Reading checks everything, so that a table in memory can be
trusted; what is wrong with a file becomes one `TableError`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from latency_tables.errors import TableError, TableMissingError
from latency_tables.runtimes import find_fusion
from latency_tables.table_text import REBUILD, first_problem, readable
from latency_tables.table_validation import (
    MOST,
    Features,
    Figure,
    Interval,
    Milliseconds,
    Positive,
    Record,
    Share,
    Validation,
)
from search_spaces.files import replacing
from search_spaces.json_file import parse_json

SCHEMA = 2
"""The newest version of the file format that this package reads, and the one it writes."""

BYTES_PER_ELEMENT: Mapping[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
Precision = Literal["fp32", "fp16", "bf16", "int8"]

Kind = Literal["measured", "calibrated", "transferred"]
INTENSITY_FACTOR = 2.0
"""How many times more or fewer MACs per byte a kernel may have than those that a fit saw."""


class TableDevice(Record):
    """What the table belongs to."""

    name: str
    processor: str
    cores: str = ""
    system: str = ""


class TableRuntime(Record):
    """The software that ran the networks; ``fusion`` names what it fuses (`latency_tables.runtimes.find_fusion`)."""

    name: str
    version: str = ""
    provider: str = ""
    fusion: str
    options: dict[str, str] = Field(default_factory=dict)

    @field_validator("fusion")
    @classmethod
    def _known_fusion(cls, fusion: str) -> str:
        find_fusion(fusion)
        return fusion


class Provenance(Record):
    """Where the numbers come from.

    Attributes:
        kind: ``measured`` on the device, ``calibrated`` from published figures, or ``transferred`` from a sibling.
        status: One sentence for people, for example that no device was touched.
        protocol: Numbers of the measuring protocol or of the fit.
        notes: What was left out and why, and other limits.
        transport: How the device was reached, for example ``ssh:pi@board``; empty for the machine itself.
    """

    kind: Kind
    status: str
    date: str
    tool_version: str
    host: str = ""
    protocol: dict[str, int | float | str] = Field(default_factory=dict)
    anchor_drift: float | None = None
    notes: tuple[str, ...] = ()
    transport: str = ""


class KernelEntry(Record):
    """The time of one kernel.

    Attributes:
        features: Launches, MACs, bytes read and bytes written.
        median_ms: The kernel's time. In situ: the median over networks, cleared of the profiler's own time and drawn
            towards the class's roofline as far as the profiler is too coarse for a kernel this short.
        iqr_ms: Spread of the networks' profiled times, cleared in the same way.
        min_ms: Smallest of these times.
        p95_ms: 95th percentile of these times.
        runs: Number of timed launches.
        networks: Number of networks that the kernel was seen in.
        how: ``in_situ`` inside whole networks, or ``isolated``.
    """

    op: str
    key: str
    features: Features
    median_ms: Milliseconds
    iqr_ms: Milliseconds
    min_ms: Milliseconds
    p95_ms: Milliseconds
    runs: int = Field(ge=1)
    networks: int = Field(ge=1)
    how: Literal["in_situ", "isolated"]


class Roofline(Record):
    """The time of kernels of one class that were not measured: a non-negative sum over their features.

    Attributes:
        op: Kernel class, or ``other`` for every class without an entry.
        lowest: Smallest features that the fit saw; below them a prediction extrapolates.
        highest: Largest features that the fit saw; above them a prediction extrapolates.
        direct: Whether the class's own time is in the evidence; without it every prediction extrapolates.
        low: Factor from a predicted time to the low end of its interval where it extrapolates.
        high: Factor from a predicted time to the high end of its interval where it extrapolates.
        n_fit: Number of kernels, or of whole networks, that the fit saw.
        intensity: Fewest and most MACs per byte read that the fit saw; None where nobody wrote it down. A convolution
            on the smallest images does little but read its weights.
        borrowed_from: Table of another device that the price was taken from; empty where it is the device's own. A
            borrowed price is evidence, with the factors ``low`` and ``high`` around it.
    """

    op: str
    launch_us: Milliseconds
    ms_per_million_macs: Milliseconds
    ms_per_megabyte_read: Milliseconds
    ms_per_megabyte_written: Milliseconds
    lowest: Features
    highest: Features
    direct: bool
    low: Share
    high: float = Field(ge=1, le=MOST)
    n_fit: int = Field(ge=0)
    intensity: tuple[float, float] | None = None
    borrowed_from: str = ""

    @property
    def coefficients(self) -> Features:
        """Milliseconds per launch, MAC, byte read and byte written."""
        return (
            self.launch_us * 1e-3,
            self.ms_per_million_macs * 1e-6,
            self.ms_per_megabyte_read * 1e-6,
            self.ms_per_megabyte_written * 1e-6,
        )

    def milliseconds(self, features: Features) -> float:
        """The predicted time of a kernel."""
        return sum(rate * amount for rate, amount in zip(self.coefficients, features, strict=True))

    def covers(self, features: Features) -> bool:
        """Whether the features lie within what the fit saw."""
        _, macs, read, _ = features
        low, high = self.intensity or (0.0, MOST)
        is_like = low <= INTENSITY_FACTOR * macs / max(read, 1.0) and macs / max(read, 1.0) <= INTENSITY_FACTOR * high
        return is_like and all(
            low <= value <= high for low, value, high in zip(self.lowest, features, self.highest, strict=True)
        )


def _check_unique(what: str, names: list[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"duplicate {what} `{repeated[0]}`, expected each once")


class _Priced(Record):
    """What holds for the prices of any precision."""

    @field_validator("kernels", check_fields=False)
    @classmethod
    def _unique_keys(cls, kernels: tuple[KernelEntry, ...]) -> tuple[KernelEntry, ...]:
        _check_unique("kernel key", [kernel.key for kernel in kernels])
        return kernels

    @field_validator("rooflines", check_fields=False)
    @classmethod
    def _unique_classes(cls, rooflines: tuple[Roofline, ...]) -> tuple[Roofline, ...]:
        _check_unique("kernel class", [roofline.op for roofline in rooflines])
        if all(roofline.op != "other" for roofline in rooflines):
            raise ValueError("no roofline of class `other`, expected one for kernels of no other class")
        return rooflines


class FurtherPrecision(_Priced):
    """The same device, runtime and threads in another precision, fitted to networks of its own."""

    precision: Precision
    runtime: TableRuntime
    provenance: Provenance
    overhead_ms: Milliseconds
    scale: Positive
    interval: Interval
    foreign_interval: Interval | None = None
    validation: Validation
    rooflines: tuple[Roofline, ...] = Field(min_length=1)
    kernels: tuple[KernelEntry, ...] = ()


class LatencyTable(_Priced):
    """All there is to know about latency on one device with one runtime, thread count and size of batches.

    The time of a batch in ``precision`` is ``scale`` times the sum over its kernels plus ``overhead_ms``.

    Attributes:
        interval: Residuals of networks of the groups that the fit saw; of all networks, for a calibrated table.
        foreign_interval: Residuals of networks of other groups, predicted without them; None where nothing tells.
        further: Other precisions; `in_precision` makes a table of one of them.
    """

    schema_version: Literal[1, 2] = Field(alias="schema")
    name: str
    aliases: tuple[str, ...] = ()
    unit: Literal["ms"]
    device: TableDevice
    runtime: TableRuntime
    precision: Precision
    threads: int = Field(ge=1)
    batch: int = Field(default=1, ge=1)
    provenance: Provenance
    overhead_ms: Milliseconds
    scale: Positive
    interval: Interval
    foreign_interval: Interval | None = None
    validation: Validation
    rooflines: tuple[Roofline, ...] = Field(min_length=1)
    kernels: tuple[KernelEntry, ...] = ()
    figures: tuple[Figure, ...] = ()
    further: tuple[FurtherPrecision, ...] = ()

    @field_validator("further")
    @classmethod
    def _unique_precisions(cls, further: tuple[FurtherPrecision, ...]) -> tuple[FurtherPrecision, ...]:
        _check_unique("precision", [each.precision for each in further])
        return further

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """All precisions that the table has times for, its own first."""
        return self.precision, *(each.precision for each in self.further)

    def in_precision(self, precision: str) -> LatencyTable:
        """The table of one precision alone, whose name says which.

        Raises:
            TableMissingError: It has no times for that precision.
        """
        if precision == self.precision:
            return self.model_copy(update={"further": ()})
        for each in self.further:
            if each.precision == precision:
                own = {name: getattr(each, name) for name in FurtherPrecision.model_fields}
                names = {"name": f"{self.name}@{precision}", "aliases": (), "figures": (), "further": ()}
                return self.model_copy(update={**own, **names})
        raise TableMissingError(
            f"latency table `{self.name}`: found no times in {precision}, but in {', '.join(self.precisions)}",
            f"nas latency build --name {self.name} --precision {precision}",
        )

    def with_precision(self, other: LatencyTable) -> LatencyTable:
        """This table with the times of another precision, which replace earlier ones."""
        own = {name: getattr(other, name) for name in FurtherPrecision.model_fields}
        kept = [each for each in self.further if each.precision != other.precision]
        return self.model_copy(update={"schema_version": SCHEMA, "further": (*kept, FurtherPrecision(**own))})

    @property
    def bytes_per_element(self) -> int:
        """Size of a number that no kernel says otherwise of."""
        return 4 if find_fusion(self.runtime.fusion).is_int8 else BYTES_PER_ELEMENT[self.precision]

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read and check a table.

        Raises:
            TableError: The file cannot be read, is not JSON, or breaks the schema.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(f"latency table `{path}`: cannot be read: {error}") from error
        try:
            data = parse_json(text)
        except json.JSONDecodeError as error:
            raise TableError(
                f"latency table `{path}`: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg};"
                " expected one JSON object",
                REBUILD,
            ) from error
        except ValueError as error:
            raise TableError(f"latency table `{path}`: {error}, expected one JSON object", REBUILD) from error
        return cls.from_dict(data, str(path))

    @classmethod
    def from_dict(cls, data: object, subject: str) -> LatencyTable:
        """Check a parsed table; ``subject`` names its file in messages.

        Raises:
            TableError: It breaks the schema.
        """
        if not isinstance(data, dict):
            raise TableError(f"latency table `{subject}`: found {type(data).__name__}, expected a JSON object", REBUILD)
        version = data.get("schema")
        if isinstance(version, int) and version > SCHEMA:
            raise TableError(
                f"latency table `{subject}`: field `schema`: found {version}, expected at most {SCHEMA}",
                "the table was written by a newer version: upgrade this package, or build the table again",
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise TableError(first_problem(subject, error), REBUILD) from error

    def save(self, path: Path) -> None:
        """Write the table; an existing file is replaced in one step or left as it was."""
        data = self.model_dump(mode="json", by_alias=True)
        # There are thousands of these: what is left at its default is left out.
        data["rooflines"] = [each.model_dump(mode="json", exclude_defaults=True) for each in self.rooflines]
        data["figures"] = [each.model_dump(mode="json", exclude_defaults=True) for each in self.figures]
        if not self.validation.by_kind:
            del data["validation"]["by_kind"]
        text = readable(data)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
