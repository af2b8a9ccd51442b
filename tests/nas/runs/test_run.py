"""The run folder: what it refuses, what it repairs, and what survives a kill or a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas.errors import RunError, UsageError
from nas.records.trial import Trial
from nas.records.trial_record import read_trials
from nas.runs.run import Run, next_run_folder
from nas.searching.resolution import DEFAULT_FREE_EVALUATIONS, resolve_settings, resume_settings
from tests.support.trials import SPACE, make_trial

SETTINGS = {"command": "search", "space": "elastic-mini"}
NOTHING_GIVEN = dict.fromkeys(
    ("space", "target", "limit_ms", "data", "supernet", "score", "controller", "seed", "evaluations", "budget_seconds")
)


def make_run(folder: Path, count: int) -> list[Trial]:
    trials = [make_trial(number) for number in range(count)]
    with Run(folder, SETTINGS) as run:
        for trial in trials:
            run.append_trial(trial)
    return trials


def test_trial_goes_to_json_and_back_without_loss() -> None:
    for number in range(5):
        trial = make_trial(number)
        assert Trial.from_line(trial.to_line(), SPACE) == trial


def test_scores_that_are_not_finite_become_null() -> None:
    line = replace(make_trial(0), scores={"loss": float("inf")}).to_line()
    assert json.loads(line)["scores"] == {"loss": None}


def test_fresh_folder_holds_settings_and_environment(tmp_path: Path) -> None:
    make_run(tmp_path / "run", 2)
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert settings == {"schema": 1, "folder": str(tmp_path / "run"), **SETTINGS}
    assert environment["versions"]["numpy"] == np.__version__
    assert {"python", "platform", "git", "seed", "date"} <= set(environment)


def test_resumed_run_reads_what_was_recorded_and_notes_the_session(tmp_path: Path) -> None:
    trials = make_run(tmp_path / "run", 3)
    with Run(tmp_path / "run", None, resume=True) as run:
        assert run.is_resumed
        assert run.settings == {"schema": 1, "folder": str(tmp_path / "run"), **SETTINGS}
        assert run.load_trials(SPACE) == trials
        run.append_trial(make_trial(3))
    assert len(read_trials(tmp_path / "run" / "trials.jsonl", SPACE)) == 4
    assert len(json.loads((tmp_path / "run" / "environment.json").read_text())["resumed"]) == 1


def test_torn_last_line_is_cut_off_at_every_byte(tmp_path: Path) -> None:
    trials = make_run(tmp_path / "run", 2)
    path = tmp_path / "run" / "trials.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in (first, first + 1, (first + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with Run(tmp_path / "run", None, resume=True) as run:
            assert run.load_trials(SPACE) == trials[:1]
            run.append_trial(trials[1])
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "damage",
    [b'{"number": 1, "sta', b"\x00\x00\x00", b'{"number": 1}', b"[]", b"\xff\xfe"],
    ids=["torn", "zeros", "fields", "list", "bytes"],
)
def test_damage_in_the_middle_names_file_and_line(tmp_path: Path, damage: bytes) -> None:
    make_run(tmp_path / "run", 3)
    path = tmp_path / "run" / "trials.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = damage
    path.write_bytes(b"\n".join(lines))
    with Run(tmp_path / "run", None, resume=True) as run, pytest.raises(RunError, match=r"trials.jsonl` line 2 is dam"):
        run.load_trials(SPACE)


def test_missing_line_is_noticed(tmp_path: Path) -> None:
    make_run(tmp_path / "run", 3)
    path = tmp_path / "run" / "trials.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with Run(tmp_path / "run", None, resume=True) as run, pytest.raises(RunError, match="line 2 holds trial 2"):
        run.load_trials(SPACE)


def test_trials_may_finish_in_any_order(tmp_path: Path) -> None:
    trials = [make_trial(number) for number in range(7)]
    path = tmp_path / "run"
    with Run(path, SETTINGS) as run:
        run.start_trials(trials)
        assert run.append_trials([trials[1]]) == []
        assert run.append_trials([trials[0], trials[4]]) == trials[:2]
        assert read_trials(path / "trials.jsonl", SPACE) == trials[:2]
        assert run.append_trials([trials[5], trials[6]]) == []
        with pytest.raises(RunError, match="holds trial 4 already"):
            run.append_trials([trials[4]])
        states = [json.loads(line)["state"] for line in (path / "running.jsonl").read_text().splitlines()]
        assert states.count("running") == 7
    with Run(path, None, resume=True) as run:
        assert run.load_trials(SPACE) == trials[:2]
        assert run.early_trials == {4: trials[4], 5: trials[5], 6: trials[6]}
        run.start_trials(trials[2:4])
        kept = [json.loads(line)["number"] for line in (path / "running.jsonl").read_text().splitlines()]
        assert sorted(kept) == [2, 3, 4, 5, 6]
        assert run.append_trials([trials[2], trials[3]]) == trials[2:]
        assert not run.early_trials
    assert read_trials(path / "trials.jsonl", SPACE) == trials
    assert not (path / "running.jsonl").exists()


def test_kill_between_the_two_files_loses_and_doubles_nothing(tmp_path: Path) -> None:
    trials = [make_trial(number) for number in range(4)]
    path = tmp_path / "run"
    with Run(path, SETTINGS) as run:
        run.append_trials([trials[2]])
        run.append_trials([trials[3]])
    running = (path / "running.jsonl").read_bytes()
    with Run(path, None, resume=True) as run:
        run.load_trials(SPACE)
        run.append_trials(trials[:2])
    (path / "running.jsonl").write_bytes(running + b'{"number": 9, "sta')  # as if killed before it was cleared away
    with Run(path, None, resume=True) as run:
        assert run.load_trials(SPACE) == trials
        assert not run.early_trials
    whole = (path / "trials.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (path / "trials.jsonl").write_bytes(lines[0] + lines[1] + lines[2][:9])
    (path / "running.jsonl").write_bytes(running)
    with Run(path, None, resume=True) as run:
        assert run.load_trials(SPACE) == trials
    assert (path / "trials.jsonl").read_bytes() == whole


def test_non_empty_folder_needs_resume_or_force(tmp_path: Path) -> None:
    make_run(tmp_path / "run", 3)
    with pytest.raises(RunError, match="holds a run already") as caught:
        Run(tmp_path / "run", SETTINGS)
    assert caught.value.exit_code == 4
    assert "--resume" in caught.value.hint
    (tmp_path / "run" / "exports").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with Run(tmp_path / "run", SETTINGS, force=True) as run:
        assert not run.is_resumed
    assert (tmp_path / "run" / "trials.jsonl").read_bytes() == b""
    assert not (tmp_path / "run" / "exports").exists()
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("resume", [False, True])
def test_foreign_folder_is_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(RunError, match=r"`photo\.png`"):
        Run(tmp_path, SETTINGS, resume=resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png"]


def test_folder_of_a_run_killed_before_its_settings_counts_as_empty(tmp_path: Path) -> None:
    for name in ("lock", "trials.jsonl", "environment.json", ".settings.json.7.tmp"):
        (tmp_path / name).write_text("")
    with Run(tmp_path, SETTINGS, resume=True) as run:
        assert not run.is_resumed
    with pytest.raises(RunError, match=r"no `settings\.json`"):
        Run(tmp_path / "new", None, resume=True)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 99}', '{"schema": null}'])
def test_unreadable_or_foreign_settings_are_refused(tmp_path: Path, content: str) -> None:
    make_run(tmp_path / "run", 1)
    (tmp_path / "run" / "settings.json").write_text(content)
    with pytest.raises(RunError, match="settings"):
        Run(tmp_path / "run", None, resume=True)


def test_second_process_is_refused_by_name(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from nas.runs.run import Run; Run(Path({str(tmp_path)!r}), None, resume=True)"
    with Run(tmp_path, SETTINGS):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert second.returncode == 1
    holder = f"is in use by process {os.getpid()} on `{os.uname().nodename}`"
    assert holder in second.stderr
    third = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert third.returncode == 0, third.stderr


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from nas.runs.run import Run;"
        f"run = Run(Path({str(tmp_path)!r}), {{}}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert (tmp_path / "lease").exists()
    with Run(tmp_path, None, resume=True) as run:
        assert run.is_resumed


def test_full_disk_is_a_clear_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    make_run(tmp_path / "run", 0)
    code = textwrap.dedent(f"""
        import json, resource
        from pathlib import Path
        from nas.errors import NasError
        from nas.runs.run import Run
        from tests.support.trials import SPACE, make_trial
        with Run(Path({str(tmp_path / "run")!r}), None, resume=True) as run:
            run.load_trials(SPACE)
            line = len(make_trial(0).to_line()) + 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (line * 2 + 100, line * 2 + 100))
            run.append_trial(make_trial(0)), run.append_trial(make_trial(1))
            for attempt in (lambda: run.append_trial(make_trial(2)), lambda: run.update_settings({{"x": "y" * 9999}})):
                try:
                    attempt()
                except NasError as error:
                    print(error, error.hint)
    """)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("cannot be written: File too large") == 2
    assert "finished trials are kept" in result.stdout
    data = (tmp_path / "run" / "trials.jsonl").read_bytes()
    assert data.endswith(b"\n")
    assert len(read_trials(tmp_path / "run" / "trials.jsonl", SPACE)) == 2
    assert "x" not in json.loads((tmp_path / "run" / "settings.json").read_text())
    assert not list((tmp_path / "run").glob(".*tmp"))


def test_folder_that_cannot_be_made_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made"):
        Run(tmp_path / "file" / "run", SETTINGS)


def test_default_folders_count_up(tmp_path: Path) -> None:
    names = [next_run_folder("elastic-pixel6", tmp_path).name for _ in range(3)]
    assert names == ["elastic-pixel6-1", "elastic-pixel6-2", "elastic-pixel6-3"]


def test_fresh_settings_take_defaults() -> None:
    settings = resolve_settings(NOTHING_GIVEN)
    assert (settings.space, settings.target, settings.evaluations) == ("elastic", "pixel6", DEFAULT_FREE_EVALUATIONS)
    trained = resolve_settings({**NOTHING_GIVEN, "data": "digits"})
    assert (trained.evaluations, trained.budget_seconds, trained.trains) == (None, 600.0, True)
    with pytest.raises(UsageError, match="`limit_ms` is -1"):
        resolve_settings({**NOTHING_GIVEN, "limit_ms": -1.0})


@pytest.mark.parametrize(
    ("name", "value"), [("space", "elastic-mini"), ("limit_ms", 3.0), ("seed", 1), ("controller", "random")]
)
def test_only_the_budget_may_change_on_resume(tmp_path: Path, name: str, value: object) -> None:
    recorded = {"command": "search", **resolve_settings({**NOTHING_GIVEN, "limit_ms": 12.0}).recorded()}
    same = {**NOTHING_GIVEN, "limit_ms": 12.0, "evaluations": 500}
    assert resume_settings(same, recorded, tmp_path).evaluations == 500
    assert resume_settings(NOTHING_GIVEN, recorded, tmp_path).evaluations == DEFAULT_FREE_EVALUATIONS
    with pytest.raises(RunError, match=f"`{name}` was {recorded[name]!r} when the run was started, found {value!r}"):
        resume_settings({**NOTHING_GIVEN, name: value}, recorded, tmp_path)


def test_other_commands_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds a `train` run, expected a `search` run"):
        resume_settings(NOTHING_GIVEN, {"command": "train"}, tmp_path)


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    with Run(tmp_path / "run", {}):
        pass
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    exports = tmp_path / "run" / "exports"
    for name in (f".knee.{ended.stdout.strip()}.tmp", f".best.{ended.stdout.strip()}.old"):
        (exports / name / "inside").mkdir(parents=True)
    other = exports / f".fastest.{os.getppid()}.tmp"
    kept = [exports / ".notes.2024.md", other]
    left = tmp_path / "run" / f".front.json.{ended.stdout.strip()}.tmp"
    for path in (*kept, left):
        path.touch()
    with Run(tmp_path / "run", None, resume=True):
        assert sorted(exports.iterdir()) == sorted([*kept, exports / "best"])
        assert not left.exists()
