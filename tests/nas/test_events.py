"""How the time of a search is divided, and that a training which is cut short is told of."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import nas
from nas.cli.progress import ProgressPrinter
from nas.events import StageClock, StageStarted, TimePlan, TrainingCutShort

USUAL = TimePlan.of(600.0, 0.0, trains=True, exports=True)


@pytest.mark.parametrize(
    ("total", "spent", "trains", "exports", "training", "search"),
    [
        (None, 40.0, True, True, None, None),
        (600.0, 0.0, True, True, 504.0, 60.0),
        (600.0, 100.0, True, True, 404.0, 60.0),
        (600.0, 590.0, True, True, 60.0, 60.0),
        (600.0, 100.0, False, True, None, 464.0),
        (600.0, 0.0, False, False, None, 600.0),
    ],
)
def test_every_part_gets_its_share(
    total: float | None, spent: float, trains: bool, exports: bool, training: float | None, search: float | None
) -> None:
    plan = TimePlan.of(total, spent, trains=trains, exports=exports)
    assert (plan.training_seconds, plan.search_seconds) == (pytest.approx(training), pytest.approx(search))


def test_only_much_less_time_is_worth_a_warning() -> None:
    little, much = (TimePlan.of(600.0, spent, trains=True, exports=True) for spent in (100.0, 200.0))
    assert not little.is_cut_short(USUAL)
    assert much.is_cut_short(USUAL)
    assert not TimePlan.of(600.0, 500.0, trains=False, exports=True).is_cut_short(USUAL)
    assert not TimePlan(None, None).is_cut_short(TimePlan(None, None))


def test_a_table_that_takes_the_time_of_training_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nas.searching import search as run_search

    load, clock, late = run_search.load_device, time.monotonic, [0.0]

    def slow(*given: Any, **named: Any) -> Any:
        late[0] = 40.0
        return load(*given, **named)

    def stop_at_training(event: object) -> None:
        events.append(event)
        if getattr(event, "name", "") == "training":
            raise KeyboardInterrupt

    events: list[object] = []
    monkeypatch.setattr(run_search, "load_device", slow)
    monkeypatch.setattr(run_search.time, "monotonic", lambda: clock() + late[0])
    with pytest.raises(KeyboardInterrupt):
        nas.search(
            "elastic-mini",
            data="digits",
            limit_ms=1.0,
            budget_seconds=60.0,
            output=tmp_path / "run",
            progress=stop_at_training,
        )
    [told] = [event for event in events if isinstance(event, TrainingCutShort)]
    assert told.plan.training_seconds == pytest.approx(10.4, abs=5.0)
    ProgressPrinter()(told)
    assert "instead of 50s are left to training" in capsys.readouterr().err


def test_stages_are_planned_before_the_first_and_timed_to_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("nas.events.time.monotonic", lambda: now[0])
    clock = StageClock(ProgressPrinter())
    clock.plan({"training": 60.0, "export": None})
    assert capsys.readouterr().err == "", "nothing has begun that could take long"
    inner = StageClock(clock)
    inner.plan({"another plan": None})
    for name, seconds in (("training", 3.0), ("export", 61.2), ("training", 0.1), ("check", 5.0)):
        now[0] += seconds
        inner(StageStarted(name))
    now[0] += 0.4
    inner.end()
    clock.end()
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "plan: training 1m00s, export",
        *("training", "export", "training", "check"),
        "took: starting 3s, training 1m06s; 1m10s in all",
    ]
    assert (
        clock.seconds == inner.seconds == pytest.approx({"starting": 3, "training": 66.2, "export": 0.1, "check": 0.4})
    )
