"""Progress on standard error: a bar that is redrawn on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from nas.objectives.units import format_count, format_duration

if TYPE_CHECKING:
    from rich.progress import Progress

    from nas.events import (
        Notice,
        SearchStarted,
        StagePlan,
        StageProgress,
        StageStarted,
        StagesTook,
        TimePlan,
        TrainingCutShort,
        TrialFinished,
    )
    from supernets.training.events import Preparation, TrainingProgress, Validation
    from supernets.training.progressive import PhaseCost

PLAIN_EVERY_SECONDS = 10.0
BAR_WIDTH = 28


class ProgressPrinter:
    """Shows the events of a run; use it as a context manager and pass it as ``progress``.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._is_terminal = sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._quiet = quiet
        self._shown = -PLAIN_EVERY_SECONDS
        self._bar: Progress | None = None
        self._stage = ""
        self._search: SearchStarted | None = None

    def __enter__(self) -> ProgressPrinter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_bar()

    def __call__(self, event: object) -> None:
        """Show one event."""
        if self._quiet:
            return
        describe = getattr(self, f"_on_{type(event).__name__}", None)
        if describe is not None:
            describe(event)

    # One method per kind of event, found by the event's name: the classes live in modules that are slow to import.

    def _on_StageStarted(self, event: StageStarted) -> None:
        self._stage = event.name
        self._say(f"{event.name} (up to {format_duration(event.seconds)})" if event.seconds else event.name)

    def _on_StageProgress(self, event: StageProgress) -> None:
        text = f"{event.name} {event.done}/{event.total}"
        self._update(text, event.done / max(event.total, 1), is_new=event.name != self._stage)
        self._stage = event.name

    def _on_Notice(self, event: Notice) -> None:
        self._say(event.text)

    def _on_StagePlan(self, event: StagePlan) -> None:
        self._say(f"plan: {_stages_text(event.stages)}")

    def _on_TimePlan(self, event: TimePlan) -> None:
        self._say(f"left: {_stages_text(event.stages)}")

    def _on_StagesTook(self, event: StagesTook) -> None:
        told = {name: spent for name, spent in event.seconds.items() if round(spent) > 0}
        if told:
            self._say(f"took: {_stages_text(told)}; {format_duration(sum(event.seconds.values()))} in all")

    def _on_TrainingCutShort(self, event: TrainingCutShort) -> None:
        seconds, usual = (format_duration(plan.training_seconds or 0.0) for plan in (event.plan, event.usual))
        self._say(
            f"preparations took much of the budget: {seconds} instead of {usual} are left to training; a latency table"
            " that was built is kept, so starting over with --force trains longer"
        )

    def _on_PhaseCost(self, event: PhaseCost) -> None:
        self._say(
            f"  from {event.start:.0%} to {event.end:.0%}: patches {event.patch_stride} x as far apart,"
            f" {format_count(event.macs)} MACs per image ({event.share:.1%} of full)"
        )

    def _on_TrainingProgress(self, event: TrainingProgress) -> None:
        self._update(
            f"training: step {event.step}/{event.total_steps}, loss {event.loss:.3f}, {event.images_per_second:.0f}"
            f" images/s, {format_duration(event.eta_seconds)} left",
            event.step / max(event.total_steps, 1),
        )

    def _on_Validation(self, event: Validation) -> None:
        found = ", ".join(f"{name} {share:.2%}" for name, share in event.accuracy.items())
        epochs = "1 epoch" if event.epoch == 1 else f"{event.epoch:.4g} epochs"
        self._say(f"  after {epochs}: {found}")

    def _on_Preparation(self, event: Preparation) -> None:
        share = event.done / event.total
        self._update(f"tables of networks: {share:.0%}", share, is_new=event.done == 0)

    def _on_SearchStarted(self, event: SearchStarted) -> None:
        self._search = event

    def _on_TrialFinished(self, event: TrialFinished) -> None:
        over = f", {event.infeasible} over the bound" if event.infeasible else ""
        spent = format_duration(event.seconds)
        self._update(
            f"search: {event.evaluated} evaluated{over}, {event.front_size} on the front, {spent}",
            self._searched(event),
        )

    def _searched(self, event: TrialFinished) -> float | None:
        """Share of the search's budget that is spent; None where it is not known."""
        if self._search is None:
            return None
        spent = ((event.evaluated, self._search.evaluations), (event.seconds, self._search.budget_seconds))
        return max((done / budget for done, budget in spent if budget), default=None)

    def _update(self, text: str, share: float | None = None, is_new: bool = False) -> None:
        """Show where a stage stands, not too often.

        Args:
            text: What to say of it.
            share: What is done of it, in [0, 1]; None where that is not known.
            is_new: Whether the stage begins, which is always shown.
        """
        now = time.monotonic()
        pause = 0.1 if self._is_terminal else PLAIN_EVERY_SECONDS
        if not is_new and now - self._shown < pause:
            return
        self._shown = now
        if not self._is_terminal:
            self._say(text)
            return
        bar = self._bar = self._bar or _make_bar()
        bar.update(bar.task_ids[0], description=text, total=None if share is None else 1.0, completed=share or 0.0)
        bar.start()
        bar.refresh()

    def _say(self, text: str) -> None:
        self._end_bar()
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _stages_text(stages: Mapping[str, float | None]) -> str:
    return ", ".join(name if spent is None else f"{name} {format_duration(spent)}" for name, spent in stages.items())


def _make_bar() -> Progress:
    """A bar with text on standard error. It is drawn when told: a thread that drew it would disturb measurements."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    console = Console(stderr=True, highlight=False)
    bar = Progress(BarColumn(BAR_WIDTH), text, console=console, auto_refresh=False, redirect_stdout=False)
    bar.add_task("", total=None)
    return bar
