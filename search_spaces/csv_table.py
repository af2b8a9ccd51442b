"""CSV files as spreadsheets, programs and people write them, refused by line where the reader cannot be sure.

The separator is found from the column names, the decimal sign from the numbers of the whole file. Units may stand in a
column's name or behind its numbers. No field is ever cut or left out.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from search_spaces.errors import NasError

MOST_BYTES = 1 << 26
SEPARATORS = {",": "`,`", ";": "`;`", "\t": "tabs"}

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t])"?', re.IGNORECASE)
_CELL = re.compile(r"([+-]?)([0-9.,](?:[0-9.,' ]*[0-9.,])?)((?:e[+-]?[0-9]+)?)\s*(.*)", re.IGNORECASE)
_NUMBERS = {
    sign: re.compile(rf"(?:[1-9]\d{{0,2}}([{groups}' ])\d{{3}}(?:\1\d{{3}})*|(?=.*\d)\d*)(?:[{sign}]\d*)?", re.ASCII)
    for sign, groups in ((".", ","), (",", "."))
}


@dataclass(frozen=True)
class Column:
    """A column that a file may have.

    Attributes:
        name: Its name: words with ``_`` between them; capitals, blanks and hyphens in a file make no difference.
        others: Other names of the same column.
        is_required: Whether a file without it is refused.
        units: Factor from each unit that a number of it may have to the unit that it is read in; empty for texts, and
            for numbers without a unit.
    """

    name: str
    others: tuple[str, ...] = ()
    is_required: bool = False
    units: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Found:
    """Where a column stands; ``unit`` is what its name says, empty where it says none."""

    column: Column
    position: int
    unit: str


@dataclass(frozen=True)
class _Cell:
    """A number as written: digits with their signs, an exponent, a unit."""

    line: int
    column: str
    text: str
    sign: str
    digits: str
    exponent: str
    unit: str

    @property
    def readings(self) -> dict[str, str]:
        """The number in Python's form for each decimal sign that it may have."""
        return {
            sign: re.sub(rf"[^0-9{sign}]", "", self.digits).replace(sign, ".")
            for sign, pattern in _NUMBERS.items()
            if pattern.fullmatch(self.digits)
        }


class CsvTable:
    """A CSV file with a line of column names.

    Args:
        path: The file.
        what: What it is, for messages; for example ``figures``.
        columns: Columns that it may have; others are ignored.
        error: Class of what is raised.

    Attributes:
        lines: Line number of each row.
        ignored: Names of the columns that are not among ``columns``.

    Raises:
        NasError: As ``error``: the file cannot be read, its columns cannot be told apart, or a line has more or fewer
            fields than there are column names.
    """

    def __init__(self, path: Path, what: str, columns: Sequence[Column], error: type[NasError]) -> None:
        self.subject = f"{what} `{path}`"
        self._error = error
        required, optional = (
            ", ".join(column.name for column in columns if column.is_required is kind) for kind in (True, False)
        )
        self._hint = f"the first line names the columns: {required}" + (f"; optional: {optional}" if optional else "")
        text = self._text(path)
        self._separator, header, rows = self._parsed(text, columns)
        self._found = self._columns(header, columns)
        self._check_fields(header, rows)
        self.lines = [line for line, _ in rows]
        self._rows = [fields for _, fields in rows]
        known = {found.position for found in self._found.values()}
        self.ignored = tuple(name for position, name in enumerate(header) if position not in known and name)

    def says_unit(self, column: str) -> bool:
        """Whether the numbers of a column have a unit in the file, in its name or behind them."""
        found = self._found.get(column)
        return found is not None and bool(found.unit or any(cell and cell.unit for cell in self._cells(column)))

    def texts(self, column: str) -> list[str]:
        """The fields of a column without blanks around them; empty texts where the file lacks it."""
        found = self._found.get(column)
        return [""] * len(self._rows) if found is None else [fields[found.position] for fields in self._rows]

    def numbers(self, *columns: str) -> dict[str, list[float | None]]:
        """The numbers of columns, each in its unit; None for an empty field and for a column that is not there.

        Raises:
            NasError: A field is no finite number, has a unit that is not known or contradicts the name of its column,
                or lacks the unit that others have; or what is the decimal sign cannot be told.
        """
        cells = {column: self._cells(column) for column in columns}
        sign = self._decimal_sign([cell for of_column in cells.values() for cell in of_column if cell is not None])
        factors = {column: self._factors(column, cells[column]) for column in columns}
        return {
            column: [
                None if cell is None else self._value(cell, sign, factor)
                for cell, factor in zip(cells[column], factors[column], strict=True)
            ]
            for column in columns
        }

    def fail(self, line: int, problem: str, hint: str = "") -> NoReturn:
        """Refuse the file for what stands in a line."""
        raise self._error(f"{self.subject}: line {line}: {problem}", hint)

    # -- text ----------------------------------------------------------------------------------------------------------

    def _text(self, path: Path) -> str:
        try:
            size = path.stat().st_size
            if size > MOST_BYTES:
                raise self._error(f"{self.subject}: found {size:,} bytes, expected at most {MOST_BYTES:,}")
            contents = path.read_bytes()
        except OSError as error:
            raise self._error(f"{self.subject}: cannot be read: {error.strerror or error}") from error
        encoding = next((name for mark, name in _MARKS if contents.startswith(mark)), "utf-8-sig")
        try:
            text = contents.decode(encoding)
        except UnicodeDecodeError as error:
            line = contents.count(b"\n", 0, error.start) + 1
            self.fail(line, f"byte {error.start} is not {encoding.upper().removesuffix('-SIG')}", _ENCODING)
        if "\0" in text:
            self.fail(text.count("\n", 0, text.index("\0")) + 1, "found a null byte, expected text", _ENCODING)
        return text

    def _parsed(self, text: str, columns: Sequence[Column]) -> tuple[str, list[str], list[tuple[int, list[str]]]]:
        """The separator, the column names and the rows, with the number of the line that each begins in."""
        tried: dict[str, list[str]] = {}
        for separator in SEPARATORS:
            records = self._records(text, separator)
            first = next(records, None)
            if first is not None and (match := _SEPARATOR_LINE.fullmatch(separator.join(first[1]))):
                if match[1] != separator:
                    continue
                first = next(records, None)
            if first is None:
                continue
            tried[separator] = first[1]
            if all(_stands_in(column, first[1]) for column in columns if column.is_required):
                return separator, first[1], list(records)
        if not tried:
            raise self._error(f"{self.subject}: line 1: found nothing, expected a line of column names", self._hint)
        names = max(tried.values(), key=len)
        missing = next(column for column in columns if column.is_required and not _stands_in(column, names))
        shown = ", ".join(f"`{name[:40]}`" for name in names[:12])
        raise self._error(f"{self.subject}: column `{missing.name}` is missing, found {shown}", self._hint)

    def _records(self, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
        """The records that are neither empty nor comments: number of the first line, fields without blanks around."""
        source = _Lines(text)
        reader = csv.reader(source, delimiter=separator, strict=True, skipinitialspace=True)
        while True:
            source.is_between_records = True
            try:
                fields = [name.strip() for name in next(reader)]
            except StopIteration:
                return
            except csv.Error as error:
                self.fail(source.first, str(error), "a quote that opens a field has to close it too")
            if any(fields):
                yield source.first, fields

    # -- columns -------------------------------------------------------------------------------------------------------

    def _columns(self, header: Sequence[str], columns: Sequence[Column]) -> dict[str, _Found]:
        found: dict[str, _Found] = {}
        for column in columns:
            places = [(place, unit) for place, name in enumerate(header) for unit in _units_in(column, name)]
            exact = [place for place in places if _words(header[place[0]]) == column.name] or places
            if len(exact) > 1:
                twice = " and ".join(f"`{header[place]}`" for place, _ in exact[:2])
                raise self._error(
                    f"{self.subject}: column `{column.name}` is there twice, as {twice}, expected once", self._hint
                )
            if exact:
                found[column.name] = _Found(column, *exact[0])
        return found

    def _check_fields(self, header: Sequence[str], rows: Sequence[tuple[int, list[str]]]) -> None:
        for line, fields in rows:
            if len(fields) != len(header):
                is_decimal = len(fields) > len(header) and self._separator == ","
                self.fail(
                    line,
                    f"found {len(fields)} fields, expected {len(header)}",
                    "quote fields that hold commas; with decimal commas, separate the columns by `;`"
                    if is_decimal
                    else self._hint,
                )

    # -- numbers -------------------------------------------------------------------------------------------------------

    def _cells(self, column: str) -> list[_Cell | None]:
        return [
            self._cell(line, column, text) if text else None
            for line, text in zip(self.lines, self.texts(column), strict=True)
        ]

    def _cell(self, line: int, column: str, text: str) -> _Cell:
        plain = re.sub(r"[\u00a0\u2009\u202f]", " ", text).replace("\u2019", "'").replace("\u2212", "-")
        match = _CELL.fullmatch(plain)
        if match is None or not any(character.isdigit() for character in match[2]):
            self.fail(line, f"column `{column}`: found `{text[:60]}`, expected a number")
        sign, digits, exponent, unit = match.groups()
        cell = _Cell(line, column, text[:60], sign, digits, exponent, _unit(unit))
        if not cell.readings:
            self.fail(line, f"column `{column}`: found `{cell.text}`, expected a number")
        return cell

    def _decimal_sign(self, cells: Sequence[_Cell]) -> str:
        """The decimal sign of the file: what its numbers allow, all of them together."""
        sure: dict[str, _Cell] = {}
        for cell in cells:
            if len(cell.readings) == 1:
                sure.setdefault(next(iter(cell.readings)), cell)
        if len(sure) == 2:
            later = max(sure.values(), key=lambda cell: cell.line)
            other = min(sure.values(), key=lambda cell: cell.line)
            self.fail(
                later.line,
                f"found `{later.text}`, in line {other.line} `{other.text}`, expected the same decimal sign in all",
                "write points in numbers, without separators of thousands",
            )
        open_cells = [cell for cell in cells if len(set(cell.readings.values())) == 2]
        commas = [cell for cell in open_cells if "," in cell.digits]
        points = [cell for cell in open_cells if "." in cell.digits]
        if "." in sure or (not sure and not commas):
            return "."
        has_groups = any("." in cell.digits for cell in cells if list(cell.readings) == [","])
        if "," in sure and (has_groups or not points):
            return ","
        if not sure and self._separator == ";" and not points:
            return ","  # spreadsheets write `;` where the comma is the decimal sign
        cell = (points or commas)[0]
        one, other_reading = cell.readings.values()
        self.fail(
            cell.line,
            f"column `{cell.column}`: found `{cell.text}`, which may be {one} or {other_reading}",
            "write points in numbers, without separators of thousands",
        )

    def _factors(self, column: str, cells: Sequence[_Cell | None]) -> list[float]:
        """What each number is multiplied by."""
        found = self._found.get(column)
        if found is None:
            return [1.0] * len(cells)
        units = found.column.units
        written = [cell for cell in cells if cell is not None]
        for cell in written:
            if cell.unit and cell.unit not in units:
                self.fail(
                    cell.line,
                    f"column `{column}`: found `{cell.text}`, expected a number"
                    + (f" with one of the units {', '.join(units)}" if units else ""),
                )
            if cell.unit and found.unit and units[cell.unit] != units[found.unit]:
                self.fail(
                    cell.line,
                    f"column `{column}`: found `{cell.text}`, but the name of the column says `{found.unit}`",
                    "write one unit in both places, or none behind the number",
                )
        with_unit = [cell for cell in written if cell.unit]
        bare = next((cell for cell in written if not cell.unit), None)
        if bare is not None and not found.unit and (with_unit or "" not in units) and units:
            others = f", as line {with_unit[0].line} has" if with_unit else ""
            self.fail(
                bare.line,
                f"column `{column}`: found `{bare.text}`, expected a unit{others}: {', '.join(filter(None, units))}",
                f"name the column with its unit, for example `{found.column.name}`, or write it behind every number",
            )
        return [1.0 if cell is None or not units else units[cell.unit or found.unit] for cell in cells]

    def _value(self, cell: _Cell, sign: str, factor: float) -> float:
        written = float(f"{cell.sign}{cell.readings[sign]}{cell.exponent}")
        value = written if factor == 1 else written * factor
        if not math.isfinite(value):
            self.fail(cell.line, f"column `{cell.column}`: found `{cell.text}`, expected a finite number")
        return value


class _Lines(Iterator[str]):
    """The lines of a text, comments and the lines before a record left out where a record may begin."""

    def __init__(self, text: str) -> None:
        self._lines = io.StringIO(text, newline="")
        self._number = 0
        self.is_between_records = True
        self.first = 1

    def __next__(self) -> str:
        for line in self._lines:
            self._number += 1
            if self.is_between_records and line.lstrip().startswith("#"):
                continue
            if self.is_between_records:
                self.first, self.is_between_records = self._number, False
            return line
        raise StopIteration


_ENCODING = "save the file as CSV with UTF-8 encoding"


def _words(name: str) -> str:
    """A column's name in small letters, ``_`` for whatever separates words."""
    return re.sub(r"[^\w%]+|(?=%)", "_", _unit(name)).replace("__", "_").strip("_")


def _unit(text: str) -> str:
    """A unit in small letters, micro as ``u``."""
    return text.casefold().replace("\u03bc", "u")


def _units_in(column: Column, name: str) -> list[str]:
    """The unit that the name of a column in a file says, in a list; empty where it is another column's name."""
    words = _words(name)
    for known in (column.name, *column.others):
        if words == known:
            last = known.rpartition("_")[2]
            return [last if last in column.units else ""]
    base, _, unit = words.rpartition("_")
    bases = [known.removesuffix(f"_{last}") for known in (column.name, *column.others) for last in ("", *column.units)]
    return [unit] if unit and unit in column.units and base in bases else []


def _stands_in(column: Column, header: Sequence[str]) -> bool:
    return any(_units_in(column, name) for name in header)
