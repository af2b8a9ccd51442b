"""Settings from a file: options come before it, and what makes no sense is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nas.cli.main import app

SEARCH = 'space = "elastic-mini"\nevaluations = 20\nseed = 3\nlimit_ms = 0.9\n'


def recorded(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "settings.json").read_text())
    return found


def test_options_come_before_the_file_and_the_file_before_defaults(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(SEARCH)
    arguments = ["search", "--config", str(tmp_path / "run.toml"), "--seed", "0", "--limit", "pixel6=0.8ms", "--quiet"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "run")])
    assert result.exit_code == 2, "two limits on one device"
    result = CliRunner().invoke(app, [*arguments[:5], "--quiet", "-o", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    settings = recorded(tmp_path / "run")
    assert [settings[name] for name in ("space", "evaluations", "seed", "limit_ms")] == ["elastic-mini", 20, 0, 0.9]
    assert settings["window"] == 0.975

    again = ["search", "--config", str(tmp_path / "run" / "settings.toml"), "-o", str(tmp_path / "again"), "--json"]
    repeated = CliRunner().invoke(app, again)
    assert repeated.exit_code == 0, repeated.output
    fronts = [json.loads((tmp_path / run / "front.json").read_text())["front"] for run in ("run", "again")]
    assert [entry["architecture"] for entry in fronts[0]] == [entry["architecture"] for entry in fronts[1]]
    assert [entry["objectives"] for entry in fronts[0]] == [entry["objectives"] for entry in fronts[1]]


@pytest.mark.parametrize(
    ("command", "text", "code", "message"),
    [
        ("search", "limit = 12", 2, "setting `limit` is not known"),
        ("search", "evaluations = 'many'", 2, "`evaluations` is 'many', expected a whole number"),
        ("search", "space = ", 4, "cannot be read"),
        ("train", "score = 'capacity'", 2, "setting `score` is not known"),
        ("finish", "[options]\nlearning_rat = 1.0", 2, "did you mean `learning_rate`?"),
        ("scale", "networks = 'asvit/seed'", 2, "did you mean `network`?"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, command: str, text: str, code: int, message: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    given = ["--from", "asvit/seed"] if command == "scale" else []
    result = CliRunner().invoke(
        app, [command, *given, "--config", str(tmp_path / "run.toml"), "-o", str(tmp_path / "run")]
    )
    assert result.exit_code == code, result.output
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()
