"""The log of a training: its lines, what a resumed training takes back, and who writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supernets.errors import TrainingError
from supernets.training.log import LOG_NAME, TrainingLog


def test_lines_of_steps_that_are_done_again_are_dropped(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "run")
    log.begin()
    for step in (1, 2, 3):
        log.add({"step": step, "loss": 1 / step})
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    log.rewind(2)
    assert log.path == tmp_path / "run" / LOG_NAME
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
    ]
    log.add({"step": 3, "loss": 0.25})
    assert log.path.read_text().splitlines()[-1] == '{"step": 3, "loss": 0.25}'
    log.begin()
    assert log.path.read_text() == ""


def test_one_that_was_cut_short_is_dropped_even_if_its_step_is_kept(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    log.path.write_text('{"step": 1}\n{"step": 2}')
    log.rewind(5)
    assert log.path.read_text() == '{"step": 1}\n'


def test_processes_beside_the_first_write_nothing(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "run", is_written=False)
    log.begin()
    log.add({"step": 1})
    log.rewind(0)
    assert not (tmp_path / "run").exists()


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / LOG_NAME).mkdir()
    with pytest.raises(TrainingError, match=f"`{tmp_path / LOG_NAME}`: cannot be written: Is a directory"):
        TrainingLog(tmp_path).begin()
