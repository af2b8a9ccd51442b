"""HTML in small pieces. Whatever is handed in as text is escaped here and nowhere else."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """A table column; ``number`` columns are set flush right."""

    title: str
    number: bool = False


@dataclass(frozen=True)
class Row:
    """A table row, one text per column; ``chosen`` rows stand out."""

    cells: tuple[str, ...]
    chosen: bool = False


@dataclass
class Figures:
    """The figures that the page draws, as JSON, by the name of their place."""

    documents: dict[str, str] = field(default_factory=dict)

    def place(self, name: str, document: str, label: str, height: int) -> str:
        """The place for a figure, which a screen reader announces as ``label``, and for the point that keys chose."""
        self.documents[name] = document
        spoken = escape(f"{label}. Arrow keys walk through its points.")
        return (
            f'<div class="plot" data-figure="{escape(name)}" tabindex="0" role="application" aria-label="{spoken}"'
            f' style="--height: {height}px"></div><p class="spoken" role="status"></p>'
        )


def escape(text: str) -> str:
    """Text as HTML."""
    return html.escape(text, quote=True)


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{escape(text.strip())}</p>"


def section(title: str, *parts: str, kind: str = "") -> str:
    """A section under a heading; ``parts`` are HTML."""
    attribute = f' class="{kind}"' if kind else ""
    return "\n".join([f"<section{attribute}>", f"<h2>{escape(title)}</h2>", *filter(None, parts), "</section>"])


def captioned(caption: str, figure: str) -> str:
    """A figure (HTML) under its caption."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{figure}</figure>"


def side_by_side(*parts: str) -> str:
    """Parts (HTML) beside each other where the page is wide enough."""
    return f'<div class="pair">{"".join(parts)}</div>'


def tiles(entries: Sequence[tuple[str, str, str]]) -> str:
    """Large numbers: label, value, remark."""
    cells = []
    for label, value, remark in entries:
        small = f"<small>{escape(remark)}</small>" if remark else ""
        cells.append(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}{small}</dd></div>")
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def table(columns: Sequence[Column], rows: Sequence[Row], total: Row | None = None) -> str:
    """A table that scrolls sideways on narrow screens."""
    head = "".join(f'<th scope="col"{_flush(column)}>{escape(column.title)}</th>' for column in columns)
    body = "\n".join(_table_row(columns, row) for row in rows)
    foot = f"<tfoot>{_table_row(columns, total)}</tfoot>" if total else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>{foot}</table></div>'


def pairs(entries: Mapping[str, str]) -> str:
    """A two-column table of names and values."""
    return beside((), {name: (value,) for name, value in entries.items()})


def beside(columns: Sequence[str], entries: Mapping[str, Sequence[str]]) -> str:
    """A table of names and their values, one per column, in which long texts are wrapped; ``columns`` may be empty."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(value)}</td>" for value in values)}</tr>'
        for name, values in entries.items()
    ]
    top = f"<thead><tr><td></td>{head}</tr></thead>" if head else ""
    body = "\n".join(rows)
    return f'<div class="scroll"><table class="pairs">{top}<tbody>\n{body}\n</tbody></table></div>'


def bullets(entries: Sequence[str]) -> str:
    """A list of plain texts."""
    return f"<ul>{''.join(f'<li>{escape(entry)}</li>' for entry in entries)}</ul>"


def folded(title: str, content: str) -> str:
    """Content (HTML) that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def commands(lines: Sequence[str]) -> str:
    """Commands to copy."""
    return f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"


def _table_row(columns: Sequence[Column], row: Row) -> str:
    cells = "".join(f"<td{_flush(column)}>{escape(cell)}</td>" for column, cell in zip(columns, row.cells, strict=True))
    return f'<tr class="chosen">{cells}</tr>' if row.chosen else f"<tr>{cells}</tr>"


def _flush(column: Column) -> str:
    return ' class="number"' if column.number else ""
