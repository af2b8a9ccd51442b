"""`nas watch`: what a search has found so far, from its folder alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from typer.testing import CliRunner

import nas
from nas.cli.main import app

ASKED = {"space": "elastic-mini", "score": "naswot", "evaluations": 12, "controller": "random"}


def test_a_search_is_shown_from_its_first_line_to_its_end(tmp_path: Path) -> None:
    run = nas.search(**ASKED, output=tmp_path / "run").run
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy(run / "settings.json", part)
    nothing = CliRunner().invoke(app, ["watch", str(part), "--once"])
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "no network has been judged yet" in nothing.stderr
    lines = (run / "trials.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (part / "trials.jsonl").write_text("".join(lines[:7]) + lines[7][:20], encoding="utf-8")
    torn = CliRunner().invoke(app, ["watch", str(part), "--once"])
    assert "7 judged" in torn.stderr
    (part / "trials.jsonl").write_text("".join(lines), encoding="utf-8")
    whole = CliRunner().invoke(app, ["watch", str(part), "--once"])
    ended = CliRunner().invoke(app, ["watch", str(run)])
    assert whole.stdout == ended.stdout
    assert "goes on" in whole.stderr
    assert "the search ended" in ended.stderr


def test_what_is_no_search_is_refused(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["watch", str(tmp_path)])
    assert found.exit_code == 4
    assert "found no run, expected a run folder of `nas search`" in found.stderr
