"""A run is repeated by the file of settings that its folder keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import nas
from nas.events import StagePlan
from nas.runs.settings_file import read_settings
from nas.searching.plan import planned_stages
from nas.searching.settings import SearchSettings


def front(run: Path) -> list[dict[str, Any]]:
    """What a run found, without what it took."""
    return [
        {name: value for name, value in entry.items() if name != "seconds"}
        for entry in json.loads((run / "front.json").read_text())["front"]
    ]


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"evaluations": 100},
        {"limits": {"pixel6": 0.9}, "evaluations": 60, "seed": 3},
        {"objectives": "latency:pixel6,params", "evaluations": 400},
        {"macs": 2e7, "window": 0.5, "evaluations": 40, "controller": "evolution-resnas"},
    ],
    ids=str,
)
def test_a_run_is_repeated_by_its_own_file(tmp_path: Path, asked: dict[str, Any]) -> None:
    first = nas.search("elastic-mini", output=tmp_path / "first", **asked)
    kept = read_settings(first.run / "settings.toml", SearchSettings)
    again = nas.search(**kept, output=tmp_path / "again")
    assert front(again.run) == front(first.run)
    assert (again.run / "settings.toml").read_text() == (first.run / "settings.toml").read_text()


def test_raised_budgets_stand_in_the_file_and_what_is_left_in_the_plan(tmp_path: Path) -> None:
    events: list[object] = []
    run = nas.search("elastic-mini", evaluations=20, output=tmp_path / "run").run
    nas.search(output=run, resume=True, evaluations=30, progress=events.append)
    assert read_settings(run / "settings.toml", SearchSettings)["evaluations"] == 30
    [told] = [event for event in events if isinstance(event, StagePlan)]
    assert told.stages == {"search of 30 networks": None}
    given = {"training_seconds": 500.0, "search_seconds": 60.0, "budget_seconds": 600.0}
    recorded = json.loads((run / "settings.json").read_text()) | given
    (run / "settings.json").write_text(json.dumps(recorded))
    raised = SearchSettings("elastic-mini", data="digits", budget_seconds=700.0, evaluations=50)
    assert planned_stages(raised, run) == {
        "training of all networks": 500.0,
        "search of 20 networks": pytest.approx(160.0, abs=1.0),
        "export": pytest.approx(42.0),
    }
