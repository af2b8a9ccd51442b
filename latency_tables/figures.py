"""Published figures: reading them from a CSV file, and rebuilding the networks behind them.

One file holds the figures of one device, processor, runtime, precision and thread count; tables of different ones must
not be mixed. Every row whose network cannot be rebuilt, or whose rebuilt network is not the published one, is named
with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from latency_tables.calibrate import Sample, summed_features
from latency_tables.errors import CalibrationError
from latency_tables.kernels import XNNPACK, fuse
from latency_tables.published_features import in_bytes
from latency_tables.published_models import PUBLISHED_MODELS, build_published
from latency_tables.table import BYTES_PER_ELEMENT
from latency_tables.table_validation import Features
from search_spaces.csv_table import Column, CsvTable
from search_spaces.errors import NasError
from search_spaces.graph import OpGraph

if TYPE_CHECKING:
    from torch import nn

CONDITIONS = ("device", "processor", "runtime", "precision", "threads")
"""Columns that must not vary within a file."""

MACS_TOLERANCE = 0.05
"""How far the MACs of a rebuilt network may lie from the published ones, beside the rounding of the latter."""

_ROUNDED = 5  # this many published MACs tell how they are rounded
_COLUMNS = (
    Column("model", ("network",), is_required=True),
    Column("latency_ms", ("latency",), is_required=True, units={"ms": 1.0, "us": 1e-3, "ns": 1e-6, "s": 1e3}),
    Column("family"),
    Column("input_px", units={"px": 1.0}),
    Column("macs_m", units={"m": 1.0, "g": 1e3, "k": 1e-3}),
    Column("source"),
    *(Column(name) for name in CONDITIONS),
)


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
    """A network behind a figure; ``family`` counts where the figure names none.

    Attributes:
        elements: Launches, MACs, elements read and elements written, summed by kernel class.
        design: As `design_of` gives it; empty where nobody asks.
        key: Name in the shipped file of networks; empty where it is not there.
    """

    family: str
    elements: Mapping[str, Features]
    design: str = ""
    key: str = ""

    @classmethod
    def of_graph(cls, family: str, graph: OpGraph, design: str = "", key: str = "") -> RebuiltNetwork:
        """The network of an op graph."""
        kernels = [kernel for _, ops in graph.blocks for kernel in fuse(ops, XNNPACK)]
        return cls(family, summed_features(kernels, 1), design, key)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return int(sum(macs for _, macs, _, _ in self.elements.values()))


Rebuild = Callable[[str, int | None], RebuiltNetwork]
"""The network of a model's name and input side; what it raises becomes the reason why a figure is left out."""


def read_figures(path: Path) -> Figures:
    """Read a CSV file of figures.

    Raises:
        CalibrationError: The file cannot be read, lacks a column, holds something else than a positive number where one
            belongs, or names a network twice.
    """
    table = CsvTable(path, "figures", _COLUMNS, CalibrationError)
    if not table.lines:
        raise CalibrationError(f"figures `{path}`: found no rows below the column names, expected figures")
    rows: dict[str, tuple[int, PublishedFigure]] = {}
    for line, row in zip(table.lines, _rows(table), strict=True):
        if row.name in rows:
            table.fail(
                line, f"found `{row.name}` again, expected each network once (first in line {rows[row.name][0]})"
            )
        rows[row.name] = (line, row)
    return Figures(tuple(row for _, row in rows.values()), table.ignored)


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
        macs_m = network.macs / 1e6
        if row.macs_m is not None and abs(macs_m - row.macs_m) > tolerance * row.macs_m + rounding_m:
            left_out.append(f"{row.name}: rebuilt it has {macs_m:.4g}M MACs, published are {row.macs_m:.4g}M")
            continue
        sample = Sample(
            model=row.name,
            family=row.family or network.family,
            source=row.source,
            measured_ms=row.latency_ms,
            published_macs_m=row.macs_m,
            macs=network.macs,
            features=in_bytes(network.elements, BYTES_PER_ELEMENT[precision]),
            network=network.key,
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
        module = build_published(model)
        return RebuiltNetwork.of_graph(model.family, trace(module, (3, side, side)), design_of(module))


def design_of(module: nn.Module) -> str:
    """The design of a network: the file of the class that its own derives from first, behind PyTorch's."""
    from torch import nn

    classes = [each for each in type(module).__mro__ if issubclass(each, nn.Module)]
    ours = [each for each in classes if not each.__module__.startswith("torch.")]
    return (ours or classes)[-1].__module__.rpartition(".")[2]


def _rounding_m(macs_m: Sequence[float]) -> float:
    """Half the last digit of published MACs, in millions: of 1, 10 or 100, whichever divides them all."""
    if len(macs_m) < _ROUNDED:
        return 0.5
    return next(unit / 2 for unit in (100, 10, 1) if unit == 1 or all(value % unit == 0 for value in macs_m))


def _rows(table: CsvTable) -> Iterator[PublishedFigure]:
    numbers = table.numbers("latency_ms", "input_px", "macs_m")
    texts = {name: table.texts(name) for name in ("model", "family", "source", *CONDITIONS)}
    for row, line in enumerate(table.lines):
        fields = {name: column[row] for name, column in texts.items()}
        if not fields["model"]:
            table.fail(line, "column `model`: found nothing, expected the name of a network")
        latency_ms, side, macs_m = (_positive(table, line, name, numbers[name][row]) for name in numbers)
        if latency_ms is None:
            table.fail(line, "column `latency_ms`: found nothing, expected milliseconds")
        if side is not None and side != int(side):
            table.fail(line, f"column `input_px`: found {side:g}, expected whole pixels")
        yield PublishedFigure(
            model=fields["model"],
            latency_ms=latency_ms,
            family=fields["family"],
            input_px=None if side is None else int(side),
            macs_m=macs_m,
            source=fields["source"],
            conditions={name: fields[name] for name in CONDITIONS},
        )


def _positive(table: CsvTable, line: int, column: str, value: float | None) -> float | None:
    if value is not None and value <= 0:
        table.fail(line, f"column `{column}`: found `{value:g}`, expected a positive number")
    return value
