"""Training a supernet, or one network, in a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas.errors import UsageError
from nas.evaluation.evaluators import SupernetEvaluator
from nas.events import Progress, StageStarted, ignore
from nas.records.files import write_json
from nas.runs.run import Run, next_run_folder
from nas.training.options import checked_options
from nas.training.request import (
    DEFAULTS,
    TrainingRequest,
    check_named_teachers,
    check_random_weights,
    default_policy,
    find_network,
    find_space,
    form_to_train,
    load_images,
    run_settings,
    trainer_settings,
)
from nas.training.tensorboard import FOLDER as TENSORBOARD_FOLDER
from nas.training.tensorboard import EventWriter, check_installed
from search_spaces import Architecture, SearchSpace, SingleSpace, get_space

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet
    from supernets.training.distributed import Workers
    from supernets.training.progressive import PhaseCost
    from supernets.training.settings import TrainingSettings
    from supernets.training.targets import Teach

Launcher = Literal["ray"]
CHECKPOINTS = "checkpoints"
SUBNETS = ("smallest", "middle", "largest")


@dataclass(frozen=True)
class TrainResult:
    """A trained supernet, or a trained network.

    Attributes:
        run: The run folder.
        checkpoint: The file with the weights.
        steps: Optimiser steps in all.
        epochs: Passes over the training images.
        seconds: Time trained, over all sessions.
        accuracy: On the search part of the images, in [0, 1]: of the supernet's smallest, middle and largest network,
            or of the one ``network``.
        architecture: Of the one network; None for a supernet.
        phases: What an image cost in each phase of the training, as `supernets.training.progressive.PhaseCost`.
    """

    run: Path
    checkpoint: Path
    steps: int
    epochs: float
    seconds: float
    accuracy: dict[str, float]
    architecture: Architecture | None
    phases: tuple[PhaseCost, ...]

    def to_dict(self) -> dict[str, Any]:
        """What ``training.json`` holds."""
        return {
            "schema": 1,
            "run": str(self.run),
            "checkpoint": str(self.checkpoint.relative_to(self.run)),
            "steps": self.steps,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "accuracy": self.accuracy,
            "architecture": None if self.architecture is None else self.architecture.to_dict(),
            "phases": [asdict(phase) for phase in self.phases],
        }


@dataclass(frozen=True)
class Start:
    """What a training begins with in place of random weights.

    Attributes:
        supernet: Its tensors are trained.
        teach: A teacher beside the labels; None for none.
    """

    supernet: Supernet
    teach: Teach | None = None


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
    if launcher is not None or workers is not None:
        arguments = {
            **{name: value for name, value in given.items() if name not in ("architecture", "progressive")},
            "arch": arch,
            "progressive": progressive,
            "options": dict(options or {}),
            "validate": None if validate is None else list(validate),
            "tensorboard": tensorboard,
            "output": None if output is None else str(Path(output).absolute()),
            "resume": resume,
            "force": force,
        }
        return _launch(launcher, arguments, workers, ray_address, progress or ignore)
    if arch is not None:
        architecture = find_network(arch, space)
        given |= {"space": architecture.space, "architecture": architecture.to_dict()}

    from supernets.training.distributed import join_workers

    request = TrainingRequest(given, checked_options(options or {}), validate, output, resume, force, tensorboard)
    with join_workers(choose_device(device)) as team:
        if not team.is_first:
            return _train_beside(team, progress or ignore)
        return _train_first(request, team, progress or ignore)


@dataclass(frozen=True)
class _Plan:
    """What is trained, and where; JSON-ready through `asdict`, to tell the other processes."""

    settings: dict[str, Any]
    run: str
    is_resumed: bool
    seed: int


def _train_first(request: TrainingRequest, team: Workers, progress: Progress) -> TrainResult:
    """Train in the process that writes."""
    settings = run_settings(request)
    found = find_space(settings)
    training = trainer_settings(settings)
    # What cannot be trained fails here, before anything is written.
    form_to_train(found, training, found.image_side)
    found.lower(found.largest, coarseness=2 if training.progressive else 1)
    _networks(found, settings["validate"])
    check_named_teachers(training)
    check_random_weights(training)
    images = load_images(settings, found, training)
    kind = "supernet" if settings["architecture"] is None else "network"
    output = request.output
    folder = Path(output) if output is not None else next_run_folder(f"{settings['space']}-{kind}")
    document = {"command": "train", **settings}
    with (
        Run(folder, document, seed=settings["seed"], resume=request.resume, force=request.force) as run,
        ExitStack() as stack,
    ):
        if request.tensorboard:
            events = run.path / CHECKPOINTS / TENSORBOARD_FOLDER
            progress = stack.enter_context(EventWriter(events, progress, training.log_every_steps))
        team.of_first(asdict(_Plan(settings, str(run.path), run.is_resumed, settings["seed"])))
        result, _ = _train(
            run.path,
            run.is_resumed,
            settings["space"],
            images,
            training,
            team,
            progress,
            found.architecture,
            settings["validate"],
        )
        write_json(run.path / "training.json", result.to_dict())
    return result


def _train_beside(team: Workers, progress: Progress) -> TrainResult:
    """Train in a process beside the one that writes."""
    plan = _Plan(**team.of_first(None))
    found = find_space(plan.settings)
    training = trainer_settings(plan.settings)
    images = load_images(plan.settings, found, training)
    folder, name = Path(plan.run), plan.settings["space"]
    result, _ = _train(folder, plan.is_resumed, name, images, training, team, progress, found.architecture, ())
    return result


def train_in_run(
    run: Run,
    space: str,
    images: ImageData,
    training: TrainingSettings,
    device: str | None,
    progress: Progress,
    architecture: Architecture | None = None,
    start: Start | None = None,
) -> tuple[TrainResult, Supernet]:
    """Train, or finish training, the supernet of an open run folder, or the one network ``architecture``."""
    import torch

    from supernets.training.distributed import Workers

    team = Workers(device=torch.device(choose_device(device)))
    return _train(run.path, run.is_resumed, space, images, training, team, progress, architecture, (), start)


def _train(
    folder: Path,
    is_resumed: bool,
    space: str,
    images: ImageData,
    training: TrainingSettings,
    team: Workers,
    progress: Progress,
    architecture: Architecture | None,
    validate: Sequence[str],
    start: Start | None = None,
) -> tuple[TrainResult, Supernet]:
    """Train with a team, and judge what came out."""
    from supernets.checkpoint import load_supernet
    from supernets.supernet import Supernet
    from supernets.training.progressive import phase_costs, training_phases
    from supernets.training.trainer import train_supernet

    progress(StageStarted("training", training.budget_seconds))
    found = get_space(space, classes=images.classes)
    if architecture is not None:
        found = SingleSpace(found, architecture)
    found = form_to_train(found, training, images.image_side)
    phases = phase_costs(found, found.largest, training_phases(training.progressive))
    if len(phases) > 1:
        for phase in phases:
            progress(phase)
    supernet = (Supernet(found, seed=training.seed) if start is None else start.supernet).to(team.device)
    outcome = train_supernet(
        supernet,
        images,
        training,
        folder / CHECKPOINTS,
        resume=is_resumed,
        progress=progress,
        notify=progress,
        validate=_Validator(_networks(found, validate), images, training.seed) if validate else None,
        teach=None if start is None else start.teach,
        workers=team,
    )
    accuracy: dict[str, float] = {}
    if team.is_first:
        if training.ema_decay is not None:
            supernet, _ = load_supernet(outcome.checkpoint, team.device)
        networks = _networks(found, SUBNETS if architecture is None else ())
        accuracy = _Validator(networks or {"network": found.largest}, images, training.seed)(supernet)
    result = TrainResult(
        run=folder,
        checkpoint=outcome.checkpoint,
        steps=outcome.steps,
        epochs=outcome.epochs,
        seconds=outcome.seconds,
        accuracy=team.of_first(accuracy),
        architecture=architecture,
        phases=tuple(phases),
    )
    return result, supernet


@dataclass(frozen=True)
class _Validator:
    """Accuracy of some subnets on the search part of the images, each with BatchNorm statistics of its own."""

    networks: Mapping[str, Architecture]
    images: ImageData
    seed: int

    def __call__(self, supernet: Supernet) -> dict[str, float]:
        evaluator = SupernetEvaluator(supernet, self.images, self.seed)
        return {name: evaluator.evaluate(network, self.seed).objective for name, network in self.networks.items()}


def _networks(space: SearchSpace, names: Sequence[str]) -> dict[str, Architecture]:
    """Networks of a space by name; that of a space of one goes by any name of a size."""
    if space.architecture is not None and names:
        return {"network": space.architecture}
    return {name: space.find(name) for name in names}


def training_settings(epochs: int | None, budget_seconds: float | None, seed: int) -> TrainingSettings:
    """Settings of a supernet's training, with the trainer's own defaults for what is None."""
    from supernets.training.settings import TrainingSettings

    policy = default_policy(budget_seconds)
    if epochs is None:
        return TrainingSettings(budget_seconds=budget_seconds, seed=seed, policy=policy)
    return TrainingSettings(epochs=epochs, seed=seed, policy=policy)


def choose_device(device: str | None) -> str:
    """``device``, or the first GPU if there is one, else the CPU."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def supernet_checkpoint(path: Path) -> Path:
    """The checkpoint of a run folder, or the checkpoint itself."""
    from supernets.checkpoint import CHECKPOINT_NAME

    return path / CHECKPOINTS / CHECKPOINT_NAME if path.is_dir() else path


def _launch(
    launcher: Launcher | None,
    arguments: dict[str, Any],
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

    for name in ("data", "arch"):
        if arguments[name] is not None and Path(arguments[name]).exists():
            arguments[name] = str(Path(arguments[name]).absolute())
    if arguments["output"] is None:
        space = arguments["space"] or (find_network(arguments["arch"], None).space if arguments["arch"] else None)
        kind = "supernet" if arguments["arch"] is None else "network"
        arguments["output"] = str(next_run_folder(f"{space or DEFAULTS['space']}-{kind}"))
    return train_on_ray(arguments, workers, progress, ray_address)
