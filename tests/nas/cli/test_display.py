"""Tables on terminals of any width: nothing is cut, and no line is longer than the terminal."""

from __future__ import annotations

import io
import itertools
import re

import pytest
from rich.console import Console

from nas.cli import display

FRONT = ["", "network", "params", "MACs", "latency pixel6", "latency local", "capacity"]
ROWS = [
    ["0", "16 px, width 8-16-32-64, depth 1-1-1-1", "113k", "593k", "0.119 ms [0.116, 0.122]*", "3 ms [2, 4]", "0.25"],
    ["10 <- knee", "16 px, width 8-32-32-96, depth 1-1-1-1", "197k", "1.01M", "0.140 ms [0.137, 0.144]", "", "12.34"],
]


def printed(monkeypatch: pytest.MonkeyPatch, width: int, columns: list[str], rows: list[list[str]], left: int) -> str:
    console = Console(width=width, file=io.StringIO())
    monkeypatch.setattr(display, "output", lambda: console)
    display.print_table(columns, rows, title="best [red]trade-offs[/red] on pixel6", left=left)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [45, 60, 80, 100, 120, 200])
def test_front_is_whole_at_any_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    text = printed(monkeypatch, width, FRONT, ROWS, 2)
    assert max(map(len, text.splitlines())) <= width
    assert "best [red]trade-offs[/red] on pixel6" in text
    for cell in itertools.chain(*(row[:1] + row[2:] for row in ROWS), FRONT[2:4]):
        assert cell in text, f"`{cell}` is not in one piece"
    words = re.sub(r"\s+", " ", text)
    for word in ROWS[1][1].split():
        assert word in words


@pytest.mark.parametrize("width", [45, 60, 80, 100])
@pytest.mark.parametrize("left", [1, 3])
def test_tables_of_text_are_wrapped_between_words(monkeypatch: pytest.MonkeyPatch, width: int, left: int) -> None:
    columns = ["target", "kind", "runs on", "error"]
    rows = [["snapdragon-8-gen-2-gpu", "calibrated", "a processor with a name of many words, TFLite int8", "16.9%"]]
    text = printed(monkeypatch, width, columns, rows, left)
    assert max(map(len, text.splitlines())) <= width
    assert all(word in text for cell in rows[0] for word in cell.split())


def test_wide_terminals_have_a_row_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, display.PIPE_WIDTH, FRONT, ROWS, 2).splitlines()
    assert [all(cell in line for line in lines if row[0] and row[1] in line for cell in row) for row in ROWS]
    assert sum(row[1] in line for row in ROWS for line in lines) == 2


def test_wide_letters_take_two_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["写真 写真 写真 写真 写真", "1.5", "2.5"]]
    text = printed(monkeypatch, 36, ["name", "first", "second"], rows, 1)
    assert text.count("写真") == 5
    assert "1.5" in text
    assert "2.5" in text


def test_an_empty_table_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "network" in printed(monkeypatch, 80, FRONT, [], 2)
