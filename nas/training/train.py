"""Training a supernet, or one network, from what a user asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from nas.errors import UsageError
from nas.events import Progress, ignore
from nas.runs.run import next_run_folder
from nas.training.options import checked_options
from nas.training.request import DEFAULTS, TrainingRequest, find_network
from nas.training.session import TrainResult, train_together
from nas.training.tensorboard import check_installed

Launcher = Literal["ray"]


def train(
    space: str | None = None,
    data: str | None = None,
    *,
    arch: str | None = None,
    progressive: bool = False,
    policy: str | None = None,
    recipe: str | None = None,
    image_size: int | None = None,
    options: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    budget_seconds: float | None = None,
    seed: int | None = None,
    validate: Sequence[str] | None = None,
    tensorboard: bool = False,
    launcher: Launcher | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    output: Path | str | None = None,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train the supernet of a space, or one network from scratch, on images.

    Processes that `torchrun` starts train together, each on its part of every batch: all call this with the same
    arguments, and the first one writes. All return the same result.

    Args:
        space: Name of the search space; that of ``arch``, else ``elastic-mini``, unless given.
        data: ``digits``, ``glyphs``, a folder of images, or a dataset of timm.data; ``digits`` unless given.
        arch: Train this network alone: anything of a space that `nas.networks.resolve.resolve_network` understands, or
            with ``space`` a name or text of that space.
        progressive: Begin on large patches, see `supernets.training.progressive`.
        policy: Which networks a step trains, see `supernets.sampling`: ``uniform``, ``sandwich``, ``complexity-aware``,
            ``conflict-aware``, ``multi-architecture``, or a registered one. Unless given that of ``recipe``, else
            ``uniform`` for ``budget_seconds`` and ``sandwich`` for ``epochs``.
        recipe: ``elasticvit``, ``resnas`` or ``resnas-finetune``: the settings that the paper trained with, see
            `supernets.training.recipes`.
        image_size: Side in pixels of the images, for spaces whose networks can be had for others; the space's own
            unless given.
        options: Other settings by name, see `supernets.training.settings.TrainingSettings`; they come before those of
            the recipe.
        epochs: Passes over the training images.
        budget_seconds: Time to train for, in place of ``epochs``.
        seed: Of weights, networks and images.
        validate: Names of subnets whose accuracy on the search part of the images is taken during training, for example
            ``smallest``; how often is the option ``validate_every_epochs``.
        tensorboard: Whether to write TensorBoard events too.
        launcher: ``ray`` starts ``workers`` processes on a Ray cluster.
        workers: Number of processes that ``launcher`` starts.
        ray_address: Of the cluster, as `ray.init` takes it; a cluster of this machine alone unless given.
        output: Run folder; ``runs/<space>-supernet-<n>`` or ``runs/<space>-network-<n>`` unless given.
        resume: Go on in ``output``. Whatever is not given is taken from there, whatever is given must agree.
        force: Throw away what ``output`` holds first.
        device: For example ``cuda``; the first GPU if there is one, else the CPU.
        progress: Receives `nas.events.StageStarted`, one `supernets.training.progressive.PhaseCost` for each phase
            where training has several, `TrainingProgress` and `Validation` of
            `supernets.training.events`.

    Raises:
        UsageError: Both ``epochs`` and ``budget_seconds`` are given, there is nothing to resume, ``arch`` is no
            network of a space or not of ``space``, ``arch`` comes with a ``policy`` that would train others, an option
            is not known, or ``workers`` come without ``launcher``.
        UnknownNameError: There is no such space, network, policy or recipe.
        SearchSpaceError: ``progressive``, and the space has no patch embedding whose stride can change; or its networks
            have no stochastic depth, or are for images of one size.
        TrainingError: A setting is out of range, or does not suit the space.
        RunError: The folder cannot be used.
        DataError: The images cannot be used.
        MissingDependencyError: ``tensorboard`` or ``launcher``, and the package is not installed.
        WorkerLostError: One of several processes is gone.
    """
    if epochs is not None and budget_seconds is not None:
        raise UsageError("both `epochs` and `budget_seconds` are given, expected one of them")
    if tensorboard:
        check_installed()
    given: dict[str, Any] = {
        "space": space,
        "data": data,
        "epochs": epochs,
        "budget_seconds": budget_seconds,
        "seed": seed,
        "architecture": None,
        "progressive": progressive or None,
        "policy": policy,
        "recipe": recipe,
        "image_size": image_size,
    }
    if arch is not None:
        architecture = find_network(arch, space)
        given |= {"space": architecture.space, "architecture": architecture.to_dict()}

    request = TrainingRequest(given, checked_options(options or {}), validate, output, resume, force, tensorboard)
    if launcher is not None or workers is not None:
        return _launch(launcher, request, workers, ray_address, progress or ignore)
    return train_together(request, device, progress or ignore)


def _launch(
    launcher: Launcher | None,
    request: TrainingRequest,
    workers: int | None,
    ray_address: str | None,
    progress: Progress,
) -> TrainResult:
    if launcher is None or workers is None:
        missing, found = ("launcher", "workers") if launcher is None else ("workers", "launcher")
        raise UsageError(
            f"`{found}` without `{missing}`, expected both or neither",
            hint="for example `nas train --launcher ray --workers 2`, or `torchrun --nproc-per-node 2 -m nas train`",
        )
    if launcher != "ray":
        raise UsageError(f"launcher `{launcher}` is not known, expected `ray`")
    from nas.training.ray import train_on_ray

    given, output = dict(request.given), request.output
    if given["data"] is not None and Path(given["data"]).exists():
        given["data"] = str(Path(given["data"]).absolute())
    if output is None:
        kind = "supernet" if given["architecture"] is None else "network"
        output = next_run_folder(f"{given['space'] or DEFAULTS['space']}-{kind}")
    return train_on_ray(
        replace(request, given=given, output=str(Path(output).absolute())), workers, progress, ray_address
    )
