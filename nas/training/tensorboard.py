"""TensorBoard events beside ``training.jsonl``, which stays the record."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from nas.errors import MissingDependencyError
from nas.events import Progress

FOLDER = "tensorboard"


class EventWriter:
    """Writes what a training reports as TensorBoard events, and passes it on; use it as a context manager.

    Args:
        folder: Where events are written.
        progress: Receives everything.
        every: Steps between two points of a curve.

    Raises:
        MissingDependencyError: The package `tensorboard` is not installed.
    """

    def __init__(self, folder: Path, progress: Progress, every: int) -> None:
        check_installed()
        self._folder, self._progress, self._every = folder, progress, every
        self._writer: Any = None

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def __call__(self, event: object) -> None:
        """Write one event down, where it belongs on a curve."""
        from supernets.training.events import TrainingProgress, Validation

        if isinstance(event, TrainingProgress) and (event.step % self._every == 0 or event.step == event.total_steps):
            self._add(
                event.step,
                {
                    "loss": event.loss,
                    "learning_rate": event.learning_rate,
                    "images_per_second": event.images_per_second,
                },
            )
        elif isinstance(event, Validation):
            self._add(event.step, {f"accuracy/{name}": accuracy for name, accuracy in event.accuracy.items()})
        self._progress(event)

    def _add(self, step: int, values: dict[str, float]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What an earlier session wrote about steps that are done again is dropped.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)


def check_installed() -> None:
    """Make sure that events can be written.

    Raises:
        MissingDependencyError: The package `tensorboard` is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "TensorBoard events need the package `tensorboard`, which is not installed",
            hint="pip install 'nas-vit[tensorboard]'",
        ) from error
