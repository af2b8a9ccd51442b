"""Training a supernet, or one network, from what a user asks."""

from __future__ import annotations

from pathlib import Path

from nas.errors import UsageError
from nas.runs.run import next_run_folder
from nas.runs.settings import Given, verb
from nas.training.request import run_settings
from nas.training.session import TrainResult, train_together
from nas.training.settings import TrainSettings
from nas.training.tracking import check_trackers


@verb(TrainSettings)
def train(given: Given) -> TrainResult:
    """Train the supernet of a space, or one network from scratch, on images.

    Processes that `torchrun` starts train together, each on its part of every batch: all call this with the same
    arguments, and the first one writes. All return the same result.

    Returns:
        Where the weights are, and their accuracy.

    Raises:
        UsageError: Both ``epochs`` and ``budget_seconds`` are given, there is nothing to resume, ``arch`` is no
            network of a space or not of ``space``, ``arch`` comes with a ``policy`` that would train others, an option
            is not known, or ``workers`` come without ``launcher``.
        UnknownNameError: There is no such space, network, policy, recipe or tracker.
        SearchSpaceError: ``progressive``, and the space has no patch embedding whose stride can change; or its networks
            have no stochastic depth, or are for images of one size.
        TrainingError: A setting is out of range, or does not suit the space.
        RunError: The folder cannot be used.
        DataError: The images cannot be used.
        MissingDependencyError: ``track``, ``tensorboard`` or ``launcher``, and the package is not installed.
        WorkerLostError: One of several processes is gone.
    """
    check_trackers([*given.get("track", ()), *(["tensorboard"] if given.get("tensorboard") else [])])
    return _launch(given) if {"launcher", "workers"} & given.keys() else train_together(given)


def _launch(given: Given) -> TrainResult:
    """Train with processes that are started here."""
    if not {"launcher", "workers"} <= given.keys():
        missing, found = ("launcher", "workers") if "launcher" not in given else ("workers", "launcher")
        raise UsageError(
            f"`{found}` without `{missing}`, expected both or neither",
            hint="for example `nas train --launcher ray --workers 2`, or `torchrun --nproc-per-node 2 -m nas train`",
        )
    if given["launcher"] != "ray":
        raise UsageError(f"launcher `{given['launcher']}` is not known, expected `ray`")
    from nas.training.ray import train_on_ray

    settings = run_settings(given)
    folder = settings.folder or next_run_folder(settings.folder_name)
    given = {**given, "output": str(folder.absolute())}
    if settings.arch is not None and "arch" in given:
        given["arch"] = settings.arch
    if "data" in given and Path(given["data"]).exists():
        given["data"] = str(Path(given["data"]).absolute())
    return train_on_ray(given)
