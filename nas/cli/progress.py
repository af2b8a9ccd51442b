"""Progress on standard error: a line that is redrawn on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType

from nas.cli.units import format_count, format_duration

PLAIN_EVERY_SECONDS = 10.0


class ProgressPrinter:
    """Shows the events of a run; use it as a context manager and pass it as ``progress``.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._is_terminal = sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._quiet = quiet
        self._shown = -PLAIN_EVERY_SECONDS
        self._line_open = False
        self._stage = ""

    def __enter__(self) -> ProgressPrinter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_line()

    def __call__(self, event: object) -> None:
        """Show one event."""
        if self._quiet:
            return
        describe = getattr(self, f"_on_{type(event).__name__}", None)
        if describe is not None:
            describe(event)

    # One method per kind of event, found by the event's name: the classes live in modules that are slow to import.

    def _on_StageStarted(self, event: object) -> None:
        seconds = getattr(event, "seconds", None)
        share = f" (up to {format_duration(seconds)})" if seconds else ""
        self._end_line()
        self._stage = str(getattr(event, "name", ""))
        self._say(f"{self._stage}{share}")

    def _on_StageProgress(self, event: object) -> None:
        name, done, total = (getattr(event, field) for field in ("name", "done", "total"))
        self._update(f"{name} {done}/{total}", is_new=name != self._stage)
        self._stage = name

    def _on_TrainingCutShort(self, event: object) -> None:
        seconds, usual = (format_duration(getattr(event, name).training_seconds) for name in ("plan", "usual"))
        self._end_line()
        self._say(
            f"preparations took much of the budget: {seconds} instead of {usual} are left to training; a latency table"
            " that was built is kept, so starting over with --force trains longer"
        )

    def _on_PhaseCost(self, event: object) -> None:
        start, end, coarseness, macs, share = (
            getattr(event, name) for name in ("start", "end", "coarseness", "macs", "share")
        )
        self._end_line()
        self._say(
            f"  from {start:.0%} to {end:.0%}: patches {coarseness} x as far apart, {format_count(macs)} MACs per image"
            f" ({share:.1%} of full)"
        )

    def _on_TrainingProgress(self, event: object) -> None:
        step, total, loss, speed, left = (
            getattr(event, name) for name in ("step", "total_steps", "loss", "images_per_second", "eta_seconds")
        )
        self._update(
            f"training: step {step}/{total}, loss {loss:.3f}, {speed:.0f} images/s, {format_duration(left)} left"
        )

    def _on_Validation(self, event: object) -> None:
        epoch, accuracy = (getattr(event, name) for name in ("epoch", "accuracy"))
        self._end_line()
        found = ", ".join(f"{name} {share:.2%}" for name, share in accuracy.items())
        self._say(f"  after {epoch:.4g} epochs: {found}")

    def _on_Preparation(self, event: object) -> None:
        done, total = (getattr(event, name) for name in ("done", "total"))
        self._update(f"tables of networks: {done / total:.0%}", is_new=done == 0)

    def _on_TrialFinished(self, event: object) -> None:
        evaluated, infeasible, front, seconds = (
            getattr(event, name) for name in ("evaluated", "infeasible", "front_size", "seconds")
        )
        over = f", {infeasible} over the bound" if infeasible else ""
        self._update(f"search: {evaluated} evaluated{over}, {front} on the front, {format_duration(seconds)}")

    def _update(self, text: str, is_new: bool = False) -> None:
        now = time.monotonic()
        pause = 0.1 if self._is_terminal else PLAIN_EVERY_SECONDS
        if not is_new and now - self._shown < pause:
            return
        self._shown = now
        if self._is_terminal:
            sys.stderr.write(f"\r\x1b[2K{text}")
            sys.stderr.flush()
            self._line_open = True
        else:
            self._say(text)

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def _end_line(self) -> None:
        if self._line_open:
            sys.stderr.write("\n")
            self._line_open = False
