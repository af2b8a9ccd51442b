"""Training a supernet, or one network, in a run folder."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import RunError, UsageError
from nas.evaluate import SupernetEvaluator
from nas.files import write_json
from nas.networks import resolve_network
from nas.progress import Progress, StageStarted, ignore
from nas.run import Run, next_run_folder
from nas.settings import check_same, recorded_settings
from search_spaces import Architecture, SearchSpace, SingleSpace, find_architecture, get_space, space_names

if TYPE_CHECKING:
    from supernets.data import ImageData
    from supernets.progressive import PhaseCost
    from supernets.supernet import Supernet
    from supernets.training_settings import TrainingSettings

CHECKPOINTS = "checkpoints"
SUPERNET_POLICY, SINGLE_POLICY = "sandwich", "uniform"
DEFAULTS: dict[str, Any] = {
    "space": "elastic-mini",
    "data": "digits",
    "epochs": None,
    "budget_seconds": None,
    "seed": 0,
    "architecture": None,
    "progressive": False,
    "policy": None,
}


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
        phases: What an image cost in each phase of the training, as `supernets.progressive.PhaseCost`.
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


def train(
    space: str | None = None,
    data: str | None = None,
    *,
    arch: str | None = None,
    progressive: bool = False,
    policy: str | None = None,
    epochs: int | None = None,
    budget_seconds: float | None = None,
    seed: int | None = None,
    output: Path | str | None = None,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train the supernet of a space, or one network from scratch, on images.

    Args:
        space: Name of the search space; that of ``arch``, else ``elastic-mini``, unless given.
        data: ``digits``, a folder of images, or a dataset of timm.data; ``digits`` unless given.
        arch: Train this network alone: anything of a space that `nas.networks.resolve_network` understands, or with
            ``space`` a name or text of that space.
        progressive: Begin on large patches, see `supernets.progressive`.
        policy: Which networks a step trains, see `supernets.sampling`: ``sandwich`` unless given, ``uniform``,
            ``complexity-aware``, ``conflict-aware``, or a registered one.
        epochs: Passes over the training images.
        budget_seconds: Time to train for, in place of ``epochs``.
        seed: Of weights, networks and images.
        output: Run folder; ``runs/<space>-supernet-<n>`` or ``runs/<space>-network-<n>`` unless given.
        resume: Go on in ``output``. Whatever is not given is taken from there, whatever is given must agree.
        force: Throw away what ``output`` holds first.
        device: For example ``cuda``; the first GPU if there is one, else the CPU.
        progress: Receives `nas.progress.StageStarted`, one `supernets.progressive.PhaseCost` for each phase where
            training has several, and `supernets.trainer.TrainingProgress`.

    Raises:
        UsageError: Both ``epochs`` and ``budget_seconds`` are given, there is nothing to resume, ``arch`` is no
            network of a space or not of ``space``, or ``arch`` comes with a ``policy`` that would train others.
        UnknownNameError: There is no such space, network or policy.
        SearchSpaceError: ``progressive``, and the space has no patch embedding whose stride can change.
        RunError: The folder cannot be used.
        DataError: The images cannot be used.
    """
    if epochs is not None and budget_seconds is not None:
        raise UsageError("both `epochs` and `budget_seconds` are given, expected one of them")
    given: dict[str, Any] = {
        "space": space,
        "data": data,
        "epochs": epochs,
        "budget_seconds": budget_seconds,
        "seed": seed,
        "architecture": None,
        "progressive": progressive or None,
        "policy": policy,
    }
    if arch is not None:
        architecture = find_network(arch, space)
        given |= {"space": architecture.space, "architecture": architecture.to_dict()}
    recorded = _recorded(output, given) if resume else None
    chosen = recorded or {name: value for name, value in given.items() if value is not None}
    settings = {**DEFAULTS, **{name: chosen[name] for name in DEFAULTS if name in chosen}}

    from supernets.data import load_data

    found = _space(settings["space"], settings["architecture"])
    training = training_settings(settings["epochs"], settings["budget_seconds"], settings["seed"])
    is_single = settings["architecture"] is not None
    settings["policy"] = _policy(settings["policy"], is_single)
    training = replace(training, policy=settings["policy"], progressive=bool(settings["progressive"]))
    found.lower(found.largest, coarseness=2 if training.progressive else 1)  # fails before anything is written
    images = load_data(settings["data"], found.image_side)
    kind = "network" if is_single else "supernet"
    folder = Path(output) if output is not None else next_run_folder(f"{settings['space']}-{kind}")
    document = {"command": "train", **settings}
    with Run(folder, document, seed=settings["seed"], resume=resume, force=force) as run:
        single = found.architecture if isinstance(found, SingleSpace) else None
        result, _ = train_in_run(run, settings["space"], images, training, device, progress or ignore, single)
        write_json(run.path / "training.json", result.to_dict())
    return result


def train_in_run(
    run: Run,
    space: str,
    images: ImageData,
    training: TrainingSettings,
    device: str | None,
    progress: Progress,
    architecture: Architecture | None = None,
) -> tuple[TrainResult, Supernet]:
    """Train, or finish training, the supernet of an open run folder, or the one network ``architecture``."""
    from supernets.progressive import phase_costs, training_phases
    from supernets.supernet import Supernet
    from supernets.trainer import train_supernet

    progress(StageStarted("training", training.budget_seconds))
    found = get_space(space, classes=images.classes)
    if architecture is not None:
        found = SingleSpace(found, architecture)
    phases = phase_costs(found, found.largest, training_phases(training.progressive))
    if len(phases) > 1:
        for phase in phases:
            progress(phase)
    supernet = Supernet(found, seed=training.seed).to(choose_device(device))
    outcome = train_supernet(
        supernet, images, training, run.path / CHECKPOINTS, resume=run.is_resumed, progress=progress
    )
    evaluator = SupernetEvaluator(supernet, images, training.seed)
    names = ("smallest", "middle", "largest")
    networks = {name: found.find(name) for name in names} if architecture is None else {"network": architecture}
    accuracy = {name: evaluator.evaluate(network, training.seed).objective for name, network in networks.items()}
    result = TrainResult(
        run=run.path,
        checkpoint=outcome.checkpoint,
        steps=outcome.steps,
        epochs=outcome.epochs,
        seconds=outcome.seconds,
        accuracy=accuracy,
        architecture=architecture,
        phases=tuple(phases),
    )
    return result, supernet


def find_network(text: str, space: str | None) -> Architecture:
    """The architecture that ``text`` names, of ``space`` where that is given.

    Raises:
        UsageError: The text names a network that belongs to no space, or to another one.
        UnknownNameError: Nothing goes by the name.
        ArchitectureError: The text holds no valid architecture.
    """
    own_names = space_names()
    prefix = re.split("[/:]", text, maxsplit=1)[0]
    is_elsewhere = (
        text.lstrip().startswith("{") or prefix in own_names or Path(text.rpartition(":")[0] or text).exists()
    )
    if space is not None and not is_elsewhere:
        return find_architecture(f"{space}{':' if '|' in text else '/'}{text}")[1]
    architecture = resolve_network(text).architecture
    if architecture is None:
        raise UsageError(
            f"`{text}` belongs to no search space, expected a network that is built and trained here",
            hint="name one as `space/name`, or give a JSON file or a run folder",
        )
    if space is not None and space not in (prefix, architecture.space):
        raise UsageError(f"network `{text}` is of space `{architecture.space}`, found space `{space}`")
    return architecture


def training_settings(epochs: int | None, budget_seconds: float | None, seed: int) -> TrainingSettings:
    """Training settings with the trainer's own defaults for what is None."""
    from supernets.training_settings import TrainingSettings

    if epochs is None:
        return TrainingSettings(budget_seconds=budget_seconds, seed=seed)
    return TrainingSettings(epochs=epochs, seed=seed)


def choose_device(device: str | None) -> str:
    """``device``, or the first GPU if there is one, else the CPU."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def supernet_checkpoint(path: Path) -> Path:
    """The checkpoint of a run folder, or the checkpoint itself."""
    from supernets.checkpoint import CHECKPOINT_NAME

    return path / CHECKPOINTS / CHECKPOINT_NAME if path.is_dir() else path


def _space(name: str, architecture: dict[str, Any] | None) -> SearchSpace:
    space = get_space(name)
    return space if architecture is None else SingleSpace(space, space.parse(architecture))


def _policy(name: str | None, is_single: bool) -> str:
    """The sampling policy of a training, also of one that was recorded before there was a choice."""
    if name is None:
        return SINGLE_POLICY if is_single else SUPERNET_POLICY
    if is_single and name != SINGLE_POLICY:
        raise UsageError(
            f"policy `{name}` chooses networks, but one network is to be trained alone",
            hint="leave `--policy` out, or train the supernet of the space",
        )
    return name


def _recorded(output: Path | str | None, given: dict[str, Any]) -> dict[str, Any] | None:
    if output is None:
        raise UsageError("`resume` without `output`, expected the run folder to go on in")
    folder = Path(output)
    recorded = recorded_settings(folder)
    if recorded is None:
        return None
    if recorded.get("command") != "train":
        raise RunError(f"run folder `{folder}` holds a `{recorded.get('command')}` run, expected a training")
    recorded["policy"] = _policy(recorded.get("policy"), recorded.get("architecture") is not None)
    for name, value in given.items():
        if value is not None:
            check_same(folder, name, recorded.get(name), value)
    return recorded
