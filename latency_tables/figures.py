"""Published figures: reading them from a CSV file, and rebuilding the networks behind them.

One file holds the figures of one device, processor, runtime, precision and thread count; tables of different ones must
not be mixed. Every row whose network cannot be rebuilt, or whose rebuilt network is not the published one, is named
with its reason.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latency_tables.calibrate import Sample, summed_features
from latency_tables.errors import CalibrationError
from latency_tables.kernels import XNNPACK, fuse
from latency_tables.published_models import PUBLISHED_MODELS, build_published
from latency_tables.table import BYTES_PER_ELEMENT
from search_spaces.errors import NasError
from search_spaces.graph import OpGraph

REQUIRED = ("model", "latency_ms")
CONDITIONS = ("device", "processor", "runtime", "precision", "threads")
"""Columns that must not vary within a file."""

OPTIONAL = ("family", "input_px", "macs_m", "source", *CONDITIONS)

MACS_TOLERANCE = 0.05
"""How far the MACs of a rebuilt network may lie from the published ones, beside the rounding of the latter."""

_ROUNDED = 5  # this many published MACs tell how they are rounded
_COLUMNS_HINT = f"columns: {', '.join(REQUIRED)}; optional: {', '.join(OPTIONAL)}"


@dataclass(frozen=True)
class PublishedFigure:
    """One row of a file of figures.

    Attributes:
        input_px: Side of the input where the row says it.
        macs_m: Published MACs in millions where the row says them.
        conditions: What the row says about `CONDITIONS`; empty texts where it says nothing.
    """

    model: str
    latency_ms: float
    family: str
    input_px: int | None
    macs_m: float | None
    source: str
    conditions: Mapping[str, str]

    @property
    def name(self) -> str:
        """Model and input side: what tells two figures of a file apart."""
        return f"{self.model} at {self.input_px} px" if self.input_px else self.model


@dataclass(frozen=True)
class Figures:
    """A read file; ``ignored`` names its columns that mean nothing here."""

    rows: tuple[PublishedFigure, ...]
    ignored: tuple[str, ...]

    def condition(self, name: str, path: Path) -> str:
        """The one value of a column that must not vary; empty where no row has one.

        Raises:
            CalibrationError: The rows differ.
        """
        values = sorted({row.conditions[name] for row in self.rows})
        if len(values) > 1:
            listed = ", ".join(f"`{value}`" if value else "nothing" for value in values)
            raise CalibrationError(
                f"figures `{path}`: column `{name}`: found {listed}, expected the same in every row",
                f"one table is of one {name}: make a file for each",
            )
        return values[0]


@dataclass(frozen=True)
class RebuiltNetwork:
    """A network behind a figure; ``family`` counts where the figure names none."""

    family: str
    graph: OpGraph


Rebuild = Callable[[str, int | None], RebuiltNetwork]
"""The network of a model's name and input side; what it raises becomes the reason why a figure is left out."""


def read_figures(path: Path) -> Figures:
    """Read a CSV file of figures.

    Raises:
        CalibrationError: The file cannot be read, lacks a column, holds something else than a positive number where one
            belongs, or names a network twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CalibrationError(f"figures `{path}`: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"figures `{path}`: byte {error.start} is not UTF-8", "save the file as CSV with UTF-8 encoding"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, fields) for fields in reader if any(field.strip() for field in fields)]
    except csv.Error as error:
        raise CalibrationError(f"figures `{path}`: line {reader.line_num}: {error}") from error
    if not lines:
        raise CalibrationError(f"figures `{path}`: found nothing, expected a line of column names", _COLUMNS_HINT)
    columns = _columns(path, [field.strip() for field in lines[0][1]])
    rows: dict[str, tuple[int, PublishedFigure]] = {}
    for number, fields in lines[1:]:
        where = f"figures `{path}`: line {number}"
        if len(fields) != len(columns):
            raise CalibrationError(f"{where}: found {len(fields)} fields, expected {len(columns)}", _COLUMNS_HINT)
        row = _row(where, dict(zip(columns, map(str.strip, fields), strict=True)))
        if row.name in rows:
            raise CalibrationError(
                f"{where}: found `{row.name}` again, expected each network once (first in line {rows[row.name][0]})"
            )
        rows[row.name] = (number, row)
    if not rows:
        raise CalibrationError(f"figures `{path}`: found no rows below the column names, expected figures")
    ignored = tuple(name for name in columns if name not in (*REQUIRED, *OPTIONAL))
    return Figures(tuple(row for _, row in rows.values()), ignored)


def rebuild_figures(
    rows: Sequence[PublishedFigure],
    rebuild: Rebuild,
    precision: str,
    *,
    rounding_m: float | None = None,
    tolerance: float = MACS_TOLERANCE,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Sample], list[str]]:
    """The figures whose networks can be rebuilt, and a sentence for each that is left out.

    Args:
        rows: Figures of one device.
        rebuild: Gives a network by name.
        precision: Precision of the figures; decides how many bytes an element has.
        rounding_m: Half the last digit of the published MACs, in millions; None to see it from the figures.
        tolerance: Relative difference of MACs that is accepted on top.
        progress: Called with the number of rows that are done.
    """
    if rounding_m is None:
        rounding_m = _rounding_m([row.macs_m for row in rows if row.macs_m is not None])
    samples, left_out = [], []
    for done, row in enumerate(rows):
        progress(done)
        try:
            network = rebuild(row.model, row.input_px)
        except NasError as error:
            left_out.append(f"{row.name}: {error}" + (f" ({error.hint})" if error.hint else ""))
            continue
        macs_m = network.graph.macs / 1e6
        if row.macs_m is not None and abs(macs_m - row.macs_m) > tolerance * row.macs_m + rounding_m:
            left_out.append(f"{row.name}: rebuilt it has {macs_m:.4g}M MACs, published are {row.macs_m:.4g}M")
            continue
        kernels = [kernel for _, ops in network.graph.blocks for kernel in fuse(ops, XNNPACK)]
        sample = Sample(
            model=row.name,
            family=row.family or network.family,
            source=row.source,
            measured_ms=row.latency_ms,
            published_macs_m=row.macs_m,
            macs=network.graph.macs,
            features=summed_features(kernels, BYTES_PER_ELEMENT[precision]),
        )
        samples.append(sample)
    return samples, left_out


def as_check(samples: Sequence[Sample]) -> list[Sample]:
    """The same figures, kept out of the fit."""
    return [replace(sample, use="check") for sample in samples]


def rebuild_published(name: str, image_side: int | None = None) -> RebuiltNetwork:
    """The network of the catalogue that was published as ``name``, without memory for its weights.

    Raises:
        CalibrationError: The catalogue has no such network.
        LatencyError: It cannot be traced.
    """
    model = PUBLISHED_MODELS.get(name)
    if model is None:
        raise CalibrationError("its layers are not in the catalogue of published networks")
    import torch

    from latency_tables.trace import trace

    side = image_side or model.image_side
    with torch.device("meta"):
        return RebuiltNetwork(model.family, trace(build_published(model), (3, side, side)))


def _rounding_m(macs_m: Sequence[float]) -> float:
    """Half the last digit of published MACs, in millions: of 1, 10 or 100, whichever divides them all."""
    if len(macs_m) < _ROUNDED:
        return 0.5
    return next(unit / 2 for unit in (100, 10, 1) if unit == 1 or all(value % unit == 0 for value in macs_m))


def _columns(path: Path, columns: list[str]) -> list[str]:
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0]):
            found = "`;`" if ";" in columns[0] else "tabs"
            raise CalibrationError(
                f"figures `{path}`: columns are separated by {found}, expected commas",
                "save the file with commas between columns and points in numbers",
            )
        raise CalibrationError(
            f"figures `{path}`: column `{missing[0]}` is missing, found {', '.join(columns)}", _COLUMNS_HINT
        )
    repeated = [name for name in columns if columns.count(name) > 1]
    if repeated:
        raise CalibrationError(f"figures `{path}`: column `{repeated[0]}` is there twice, expected once")
    return columns


def _row(where: str, fields: Mapping[str, str]) -> PublishedFigure:
    if not fields["model"]:
        raise CalibrationError(f"{where}: column `model`: found nothing, expected the name of a network")
    side = _number(where, "input_px", fields.get("input_px", ""))
    if side is not None and side != int(side):
        raise CalibrationError(f"{where}: column `input_px`: found {side:g}, expected whole pixels")
    latency_ms = _number(where, "latency_ms", fields["latency_ms"])
    if latency_ms is None:
        raise CalibrationError(f"{where}: column `latency_ms`: found nothing, expected milliseconds")
    return PublishedFigure(
        model=fields["model"],
        latency_ms=latency_ms,
        family=fields.get("family", ""),
        input_px=None if side is None else int(side),
        macs_m=_number(where, "macs_m", fields.get("macs_m", "")),
        source=fields.get("source", ""),
        conditions={name: fields.get(name, "") for name in CONDITIONS},
    )


def _number(where: str, column: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise CalibrationError(f"{where}: column `{column}`: found `{text}`, expected a positive number")
    return value
