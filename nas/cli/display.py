"""What commands print: tables to standard output, everything else to standard error."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.printable import printable
from nas.objectives.units import format_count, three_digits

if TYPE_CHECKING:
    from rich.console import Console

    from latency_tables import Latency
    from search_spaces import Architecture

PIPE_WIDTH = 100_000
NARROWEST_TEXT = 20
"""Least width to which a column of text is wrapped before rows are folded instead."""
NO_EVIDENCE = "no evidence"
RANGES = "a range without a number: no figure behind the table is of a network like it"
INDENT, NO_BREAK = "    ", "\N{NO-BREAK SPACE}"


@cache
def output() -> Console:
    """Standard output; wide enough for any table where it is no terminal."""
    from rich.console import Console

    return Console(soft_wrap=False, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


@cache
def messages() -> Console:
    """Standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line for people, on standard error; what stands in it is read neither as markup nor by the terminal."""
    messages().print(printable(text), markup=False)


def short(path: Path) -> str:
    """A path as one would type it: relative where it lies below the current folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def quoted(path: Path) -> str:
    """A path as one would type it in a command."""
    return shlex.quote(short(path))


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", left: int = 1, whole: int = 0
) -> None:
    """A table on standard output; the first ``left`` columns are text, the others numbers.

    Where the terminal is narrow, text is wrapped between words, but for the first ``whole`` columns. Where that is not
    enough, each row is folded: what it is about, and below it the rest with the names of the columns. Nothing is cut.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    columns, title = [printable(column, "") for column in columns], printable(title, "")
    cells = [[printable(cell, "") for cell in row] for row in rows]
    widths = _column_widths(columns, cells, range(whole, left), output().width)
    if title:
        output().print(f"\n{title}", style="italic", markup=False, soft_wrap=True)
    if widths is None:
        for row in cells:
            output().print(_folded(columns, row, output().width), markup=False, soft_wrap=True)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for position, (column, width) in enumerate(zip(columns, widths, strict=True)):
        table.add_column(escape(column), justify="left" if position < left else "right", width=width)
    for row in cells:
        table.add_row(*map(escape, row))
    output().print(table)


def _column_widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], flexible: range, width: int
) -> list[int] | None:
    """The widths of a table's columns, of which ``flexible`` ones may be wrapped; None where they do not fit."""
    from rich.cells import cell_len

    def longest_word(texts: Iterable[str]) -> int:
        return max((cell_len(word) for text in texts for word in text.split(" ")), default=0)

    by_column = [[row[position] for row in rows] for position in range(len(columns))]
    headers = [longest_word([column]) for column in columns]
    widths = [
        max(header, *(cell_len(text) for text in texts), 1) for header, texts in zip(headers, by_column, strict=True)
    ]
    least = [
        min(width, max(NARROWEST_TEXT, headers[i], longest_word(by_column[i]))) if i in flexible else width
        for i, width in enumerate(widths)
    ]
    room = width - (3 * len(columns) + 1)  # the gaps between columns, of which rich before 14.3 has two more
    while sum(widths) > room and widths != least:
        widest = max((i for i in flexible if widths[i] > least[i]), key=widths.__getitem__)
        widths[widest] -= 1
    if sum(widths) > room:
        return None
    for i, column in enumerate(columns):  # names of columns stay in one line where there is room
        widths[i] += max(0, min(cell_len(column) - widths[i], room - sum(widths)))
    return widths


def _folded(columns: Sequence[str], row: Sequence[str], width: int) -> str:
    """A row below one another: what it is about, up to the first column with a name, then the rest with its names."""
    left = next((place for place, name in enumerate(columns) if name), 0) + 1
    width = max(width, NARROWEST_TEXT)
    pairs = [(name, cell) for name, cell in zip(columns[left:], row[left:], strict=True) if cell]
    figures = "; ".join(_bound(f"{name} {_bound(cell, width)}".strip(), width) for name, cell in pairs)
    lines = []
    for text, first, other in (("  ".join(filter(None, row[:left])), "", "  "), (figures, INDENT, INDENT)):
        lines += textwrap.wrap(
            text,
            width,
            initial_indent=first,
            subsequent_indent=other,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines).replace(NO_BREAK, " ")


def _bound(text: str, width: int) -> str:
    """A text that stays in one line where that has room for it."""
    return text.replace(" ", NO_BREAK) if len(text) < width - len(INDENT) else text


def describe(architecture: Architecture) -> str:
    """An architecture in one short line: input side, widths and depths from input to output."""
    settings = dict(architecture.settings)
    parts = [f"{settings['input.side']} px"] if "input.side" in settings else []
    parts += [f"patch {settings['input.patch']}"] if "input.patch" in settings else []
    parts += [f"{settings['tokens.r']} tokens merged at a time"] if settings.get("tokens.r") else []
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
    """`8.12 ms [6.9, 9.8]`; without evidence only a range, and where the table was measured not even that."""
    if latency["extrapolated"] and latency["kind"] == "measured":
        return NO_EVIDENCE
    low, high = three_digits(latency["low_ms"]), three_digits(latency["high_ms"])
    if latency["extrapolated"]:
        return f"{low} to {high} ms"
    return f"{three_digits(latency['ms'])} ms [{low}, {high}]"


def latency_numbers(latency: Latency) -> tuple[str, str]:
    """Milliseconds and the interval around them, as two cells; see `latency_text`."""
    if latency.is_declined:
        return NO_EVIDENCE, ""
    between = f"{three_digits(latency.low_ms)} to {three_digits(latency.high_ms)}"
    return "" if latency.extrapolated else three_digits(latency.ms), between


def size_text(params: int, macs: int) -> tuple[str, str]:
    """Parameters and MACs for people."""
    return format_count(params), format_count(macs)
