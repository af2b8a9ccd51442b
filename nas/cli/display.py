"""What commands print: tables to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.objectives.units import format_count

if TYPE_CHECKING:
    from rich.console import Console

    from search_spaces import Architecture

PIPE_WIDTH = 200


@cache
def output() -> Console:
    """Standard output; wide enough for whole tables where it is no terminal."""
    from rich.console import Console

    return Console(soft_wrap=False, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


@cache
def messages() -> Console:
    """Standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line for people, on standard error; what stands in it is never read as markup."""
    messages().print(text, markup=False)


def short(path: Path) -> str:
    """A path as one would type it: relative where it lies below the current folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", left: int = 1, whole: int = 0
) -> None:
    """A table on standard output; the first ``left`` columns are text, the others numbers.

    Text is wrapped where the terminal is narrow, but for the first ``whole`` columns.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title=escape(title) or None, title_justify="left", pad_edge=False)
    for position, column in enumerate(columns):
        is_text = position < left
        no_wrap = not is_text or position < whole
        table.add_column(escape(column), justify="left" if is_text else "right", overflow="fold", no_wrap=no_wrap)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    output().print(table)


def describe(architecture: Architecture) -> str:
    """An architecture in one short line: input side, widths and depths from input to output."""
    settings = dict(architecture.settings)
    parts = [f"{settings['input.side']} px"] if "input.side" in settings else []
    for kind in ("width", "embed", "depth"):
        values = [str(value) for name, value in settings.items() if name.rpartition(".")[2] == kind]
        if kind == "depth" and not values:
            values = _layers_present(settings)
        parts += [f"{kind} {'-'.join(values)}"] if values else []
    return ", ".join(parts) or ", ".join(f"{name}={value}" for name, value in settings.items())


def _layers_present(settings: Mapping[str, int]) -> list[str]:
    """The number of layers of each stage, where layers have choices of their own that may leave them out."""
    layers: dict[str, dict[str, bool]] = {}
    for name, value in settings.items():
        stage, _, rest = name.partition(".")
        number, _, choice = rest.partition(".")
        if number.isdecimal():
            present = layers.setdefault(stage, {})
            present[number] = present.get(number, True) and not (choice == "present" and value == 0)
    return [str(sum(stage.values())) for stage in layers.values()]


def latency_text(latency: Mapping[str, Any]) -> str:
    """`8.12 ms [6.9, 9.8]`; a star marks what the table has no direct evidence for."""
    star = "*" if latency["extrapolated"] else ""
    return f"{latency['ms']:.3g} ms [{latency['low_ms']:.3g}, {latency['high_ms']:.3g}]{star}"


def size_text(params: int, macs: int) -> tuple[str, str]:
    """Parameters and MACs for people."""
    return format_count(params), format_count(macs)
