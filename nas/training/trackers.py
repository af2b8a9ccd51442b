"""Experiment trackers by name: TensorBoard, Weights & Biases, MLflow and Trackio; other packages bring theirs.

Each is imported when it is asked for. The entry points are `nas.trackers`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from nas.errors import MissingDependencyError
from nas.runs.folder import CHECKPOINTS
from search_spaces.plugins import Registry

TRAINING, SEARCH = "training", "search"
"""Series of points: steps of a training, and networks that a search evaluated."""
PROJECT = "nas"
FOLDER = "tensorboard"


class Tracker(ABC):
    """One session of a run in a tracker.

    Args:
        run: The run folder, whose name the session is given.
        settings: What the run was asked, ready for JSON.

    Attributes:
        module: The Python module that it needs.
        requirement: What ``pip install`` gets that by.
        remedy: What helps where it cannot be started.
    """

    module: ClassVar[str]
    requirement: ClassVar[str]
    remedy: ClassVar[str] = "leave `--track` out"

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        self.run = run

    @classmethod
    def check(cls) -> None:
        """Make sure that the package is there.

        Raises:
            MissingDependencyError: It is not.
        """
        try:
            importlib.import_module(cls.module)
        except ImportError as error:
            raise MissingDependencyError(
                f"`{cls.module}` is not installed, which the run was to be tracked with",
                hint=f"pip install '{cls.requirement}'",
            ) from error

    @abstractmethod
    def log(self, series: str, step: int, values: Mapping[str, float]) -> None:
        """Add a point to a series; a resumed run may repeat steps."""

    @abstractmethod
    def close(self) -> None:
        """End the session."""


class TensorBoard(Tracker):
    """Event files in the run folder, a folder for each series."""

    module, requirement = "torch.utils.tensorboard", "nas-vit[tensorboard]"

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(run, settings)
        self._writers: dict[str, Any] = {}

    def log(self, series: str, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.log`; what an earlier session wrote about steps that are done again is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        if series not in self._writers:
            folder = self.run / CHECKPOINTS / FOLDER / ("" if series == TRAINING else series)
            self._writers[series] = SummaryWriter(str(folder), purge_step=step)
        for name, value in values.items():
            self._writers[series].add_scalar(name, value, step)

    def close(self) -> None:
        """As `Tracker.close`."""
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases(Tracker):
    """Weights & Biases. Every session is a run of its own, in the group of the run folder's name."""

    module, requirement = "wandb", "nas-vit[wandb]"
    remedy = "`wandb login`, or WANDB_MODE=offline to send it later"

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        super().__init__(run, settings)
        folder = run / CHECKPOINTS  # what a new run in this folder takes away
        folder.mkdir(parents=True, exist_ok=True)
        self._session = wandb.init(
            project=PROJECT, name=run.name, group=run.name, dir=str(folder), config=dict(settings)
        )
        for series in (TRAINING, SEARCH):
            self._session.define_metric(f"{series}/*", step_metric=f"{series}/step")

    def log(self, series: str, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.log`."""
        self._session.log(_named(series, {"step": step, **values}))

    def close(self) -> None:
        """As `Tracker.close`."""
        self._session.finish()


class MLflow(Tracker):
    """MLflow, at MLFLOW_TRACKING_URI, else in the folder that MLflow chooses itself."""

    module, requirement = "mlflow", "nas-vit[mlflow]"
    remedy = "check MLFLOW_TRACKING_URI"

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        import mlflow

        super().__init__(run, settings)
        mlflow.set_experiment(PROJECT)
        mlflow.start_run(run_name=run.name)
        mlflow.log_params({name: value for name, value in settings.items() if value is not None})

    def log(self, series: str, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.log`."""
        import mlflow

        mlflow.log_metrics(_named(series, values), step=step)

    def close(self) -> None:
        """As `Tracker.close`."""
        import mlflow

        mlflow.end_run()


class Trackio(Tracker):
    """Trackio, on this machine unless its own settings say otherwise."""

    module, requirement = "trackio", "nas-vit[trackio]"

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        import trackio

        super().__init__(run, settings)
        trackio.init(project=PROJECT, name=run.name, config=dict(settings))

    def log(self, series: str, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.log`."""
        import trackio

        trackio.log(_named(series, {"step": step, **values}))

    def close(self) -> None:
        """As `Tracker.close`."""
        import trackio

        trackio.finish()


def _named(series: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{series}/{name}": value for name, value in values.items()}


TRACKERS: Registry[type[Tracker]] = Registry(
    "tracker",
    "nas.trackers",
    {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow, "trackio": Trackio},
)
get_tracker = TRACKERS.get
