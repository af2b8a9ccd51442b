"""Evaluators that tests of executors have built in other processes: deterministic, and troublesome on demand."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import EvaluationError
from nas.evaluation.evaluators import EvaluationResult
from nas.executors.base import EvaluatorBlueprint, Plain
from search_spaces import Architecture

if TYPE_CHECKING:
    from supernets.checkpoint import Checkpoint


def quality_of(architecture: Architecture, seed: int) -> float:
    """Any number that tells architectures apart."""
    return sum(rank * value for rank, (_, value) in enumerate(architecture.settings, start=1)) / 7 + seed


class TroubledEvaluator:
    """Judges by `quality_of`, and notes each evaluation in a folder.

    Args:
        notes: Folder that gets one file for each evaluation; none unless given.
        seconds: Time that an evaluation takes.
        deadly: Evaluations of this quality kill their process.
        deaths: So many times, all processes together; always unless given.
        failing: Evaluations of this quality raise `EvaluationError`.
        broken: Evaluations of this quality raise an error that nobody expects.
        meet: An evaluation ends when so many processes are evaluating, or have.
    """

    name = "quality"

    def __init__(
        self,
        notes: str | None = None,
        seconds: float = 0.0,
        deadly: float | None = None,
        deaths: int | None = None,
        failing: float | None = None,
        broken: float | None = None,
        meet: int = 1,
    ) -> None:
        self._notes = Path(notes or os.devnull)
        self._seconds = seconds
        self._deadly = deadly
        self._deaths = deaths
        self._failing = failing
        self._broken = broken
        self._meet = meet

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        quality = quality_of(architecture, seed)
        self._note(f"{quality}")
        if quality == self._deadly and self._may_die():
            os.kill(os.getpid(), signal.SIGKILL)
        if quality == self._failing:
            raise EvaluationError("this one cannot be judged")
        if quality == self._broken:
            raise KeyError("a mistake in the code")
        time.sleep(self._seconds)
        while self._meet > 1 and len({note.name.split("-")[1] for note in self._notes.iterdir()}) < self._meet:
            time.sleep(0.005)
        return EvaluationResult(quality, {"process": float(os.getpid())})

    def _may_die(self) -> bool:
        if self._deaths is None:
            return True
        died = len(list(self._notes.glob("died-*")))
        if died < self._deaths:
            (self._notes / f"died-{died}").touch()
        return died < self._deaths

    def _note(self, text: str) -> None:
        if self._notes != Path(os.devnull):
            self._notes.mkdir(exist_ok=True)
            (self._notes / f"{text}-{os.getpid()}-{time.monotonic_ns()}").touch()


def make_unfit(reason: str) -> TroubledEvaluator:
    raise RuntimeError(reason)


def make_stillborn() -> TroubledEvaluator:
    os._exit(3)


class SharedWeights:
    """Tells of the weights that it was given: their sum, and that they are shared."""

    name = "sum"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        total = sum(float(tensor.double().sum()) for tensor in self._checkpoint.weights.values())
        return EvaluationResult(total, {"tensors": float(len(self._checkpoint.weights))})


def troubled(**options: Plain) -> EvaluatorBlueprint:
    return EvaluatorBlueprint("tests.support.executor_evaluators:TroubledEvaluator", options)
