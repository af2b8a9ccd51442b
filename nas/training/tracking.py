"""What a run reports, sent to experiment trackers as well; the run folder stays the record."""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.errors import NasError
from nas.events import Notice, Progress, TrialFinished
from nas.training.trackers import SEARCH, TRAINING, Tracker, get_tracker

Point = tuple[str, int, dict[str, float]]
"""Name of a series, step, and values by name."""


def check_trackers(names: Sequence[str]) -> None:
    """Make sure that trackers can be used, before anything is spent.

    Raises:
        UnknownNameError: There is no such tracker.
        MissingDependencyError: Its package is not installed.
    """
    for name in names:
        get_tracker(name).check()


@contextlib.contextmanager
def tracked(
    names: Sequence[str], run: Path, settings: Mapping[str, Any], progress: Progress, every: int = 1
) -> Iterator[Progress]:
    """A `Progress` that passes everything on to ``progress``, and what belongs on a curve to trackers.

    A tracker that fails while the run goes on is left out from then on, which the run is told of.

    Args:
        names: Trackers, see `nas.training.trackers`.
        run: The run folder.
        settings: What the run was asked, ready for JSON.
        progress: Receives everything.
        every: Steps of a training between two points.

    Raises:
        NasError: A tracker cannot be started.
    """
    open_trackers: dict[str, Tracker] = {}
    try:
        for name in dict.fromkeys(names):
            check_trackers([name])
            try:
                with _quiet_output():
                    open_trackers[name] = get_tracker(name)(run, settings)
            except Exception as error:  # each package raises classes of its own
                raise NasError(
                    f"tracker `{name}` cannot be started: {_first_line(error)}", get_tracker(name).remedy
                ) from error

        def follow(event: object) -> None:
            if (point := _point(event, every)) is not None:
                for name in list(open_trackers):
                    try:
                        with _quiet_output():
                            open_trackers[name].log(*point)
                    except Exception as error:  # a run of days does not end with its tracker
                        del open_trackers[name]
                        progress(Notice(f"tracker `{name}` is left out from now on: {_first_line(error)}"))
            progress(event)

        yield follow if open_trackers else progress
    finally:
        for name, tracker in open_trackers.items():
            try:
                with _quiet_output():
                    tracker.close()
            except Exception as error:
                progress(Notice(f"tracker `{name}` did not end well: {_first_line(error)}"))


def _point(event: object, every: int) -> Point | None:
    """The point of a curve that an event is; None where it is none."""
    from supernets.training.events import TrainingProgress, Validation

    if isinstance(event, TrainingProgress) and (event.step % every == 0 or event.step == event.total_steps):
        names = ("loss", "learning_rate", "images_per_second")
        return TRAINING, event.step, {name: getattr(event, name) for name in names}
    if isinstance(event, Validation):
        return TRAINING, event.step, {f"accuracy/{name}": accuracy for name, accuracy in event.accuracy.items()}
    if isinstance(event, TrialFinished):
        trial = event.trial
        known = {
            "infeasible": event.infeasible,
            "front_size": event.front_size,
            **trial.objectives,
            **{f"latency/{target}": latency.ms for target, latency in trial.latency.items()},
        }
        found = {re.sub(r"[^\w./-]", "/", name): float(value) for name, value in known.items() if math.isfinite(value)}
        return SEARCH, event.evaluated, found
    return None


def _quiet_output() -> contextlib.AbstractContextManager[Any]:
    """Trackers talk; standard output carries data alone."""
    return contextlib.redirect_stdout(sys.stderr)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
