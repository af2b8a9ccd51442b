"""The help of every command, word for word; ``NAS_WRITE_HELP=1 pytest tests/nas/cli/test_help.py`` writes it anew."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from nas.cli.main import app
from nas.cli.reference import VERBS, reference
from nas.runs.settings import declared

HELP = Path(__file__).with_name("help")
DOCS = Path(__file__).parents[3] / "docs"
DRAWN_BY = (0, 29)
"""Release of typer whose panels the files show; an older one draws them a little differently."""


def commands(command: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of every command, those of groups included."""
    yield names
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, (*names, name))


COMMANDS = list(commands(get_command(app)))


def shown(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> str:
    """The help at 100 columns, without colours and spaces at ends of lines."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    result = CliRunner().invoke(app, [*names, "--help"], prog_name="nas")
    assert result.exit_code == 0, result.output
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


@pytest.mark.skipif(
    tuple(map(int, version("typer").split(".")[:2])) < DRAWN_BY, reason="an older typer draws other panels"
)
@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_help_is_what_it_was(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    text, path = shown(names, monkeypatch), HELP / f"{'-'.join(('nas', *names))}.txt"
    if "NAS_WRITE_HELP" in os.environ:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_there_is_no_help_of_a_command_that_is_gone() -> None:
    assert {path.stem for path in HELP.iterdir()} == {"-".join(("nas", *names)) for names in COMMANDS}


@pytest.mark.parametrize("verb", VERBS)
def test_every_panel_is_shown(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown((verb,), monkeypatch)
    settings = [entry for entry in declared(VERBS[verb]).values() if entry.setting.panel]
    for panel in {entry.setting.panel for entry in settings}:
        assert f"─ {panel} ─" in text
    for entry in settings:
        if entry.setting.kind != "argument":
            assert re.search(rf"{entry.option} ", text), entry.option


def test_messages_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    result = CliRunner().invoke(app, ["search", "--evalutions", "9"], prog_name="nas")
    assert result.exit_code == 2
    assert "│" not in result.output
    assert "No such option" in result.output
    assert "--evalutions" in result.output


def test_the_reference_page_is_up_to_date() -> None:
    assert (DOCS / "reference-settings.md").read_text(encoding="utf-8") == reference()
