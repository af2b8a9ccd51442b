"""What a finish starts from: the network, and the weights that it may inherit."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import RunError, UsageError
from nas.evaluation.compensation import Compensation
from nas.evaluation.fidelity import chosen_without_labels
from nas.runs.folder import IMPORT, ORIGINAL_NAME, RunFolder, checkpoint_digest, recorded_settings, supernet_checkpoint
from nas.runs.front import load_front
from nas.runs.settings import WITHOUT_LABELS
from nas.training.request import find_network
from search_spaces import Architecture

if TYPE_CHECKING:
    from torch import nn

    from supernets.checkpoint import CheckpointMetadata
    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet


@dataclass(frozen=True)
class Source:
    """A network by name or from a run.

    Attributes:
        architecture: The network.
        checkpoint: The file with weights that it can inherit; None where there is none.
        data: The images that those were trained on; None for those that the checkpoint names.
        card: What is known of the network, for its model card: predicted latency and where that comes from, and the
            model of one's own that it came out of.
        compensation: How the search made up for what it cut; None for not at all.
        seed: Seed of the images that it did so on.
    """

    architecture: Architecture
    checkpoint: Path | None = None
    data: str | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    compensation: Compensation | None = None
    seed: int = 0

    @property
    def uses_labels(self) -> bool:
        """Whether the classes of the images may be looked at."""
        return self.card.get("labels") != WITHOUT_LABELS

    @property
    def makes_up(self) -> bool:
        """Whether something is done about what the search cut."""
        return self.compensation is not None or not self.uses_labels

    def chosen(self, supernet: Supernet, images: ImageData) -> nn.Module:
        """The network cut out of a search's weights, with what was cut made up for as the search does it.

        Args:
            supernet: The weights.
            images: Images whose training part is solved on.
        """
        if not self.uses_labels:
            return chosen_without_labels(supernet, images, self.architecture, self.seed, self.compensation).network
        assert self.compensation is not None, "something that makes up for what was cut"
        return self.compensation.chosen(supernet, images, self.architecture, self.seed).network

    @property
    def original(self) -> Path | None:
        """The file with the model that the network lies in, as it was before it was trained; None without one."""
        path = None if self.checkpoint is None else self.checkpoint.with_name(ORIGINAL_NAME)
        return path if path is not None and path.exists() else None


@dataclass(frozen=True)
class Inherited:
    """Trained weights that hold the network.

    Attributes:
        supernet: A supernet of the network's space, or the network alone, on the CPU.
        metadata: What its checkpoint says about itself.
        digest: Digest of the checkpoint, to notice one that changed.
    """

    supernet: Supernet
    metadata: CheckpointMetadata
    digest: str

    @property
    def is_alone(self) -> bool:
        """Whether the weights are those of the one network."""
        return self.supernet.space.architecture is not None

    @property
    def is_imported(self) -> bool:
        """Whether others trained the weights, so that the images may be of other classes."""
        return "imported" in self.metadata

    def classifier_rows(self, images: ImageData) -> list[int] | None:
        """Which of the classes that imported weights tell are those of the images; None where one is not among them."""
        from supernets.data.known_classes import class_rows, imagenet_names, is_of_imagenet
        from supernets.errors import DataError

        if not is_of_imagenet(self.metadata["data"]):
            return list(range(images.classes)) if images.classes == self.metadata["classes"] else None
        try:
            return class_rows(imagenet_names(), images.class_names, images.source)
        except DataError:
            return None


def find_source(run: Path | None, pick: str | None, arch: str | None) -> Source:
    """What ``nas finish RUN``, ``nas finish RUN --arch A`` and ``nas finish --arch A`` are about.

    Args:
        run: Run folder of a search, of a supernet's training, or of one network's.
        pick: Member of a search's front, as in `nas.SearchResult.pick`.
        arch: The network where ``run`` holds a supernet or is None, as `nas.networks.resolve.resolve_network`
            understands it.

    Raises:
        UsageError: What is given does not name one network.
        RunError: The folder holds no run, or one without a result.
        UnknownNameError: There is no such network.
    """
    if run is None:
        if arch is None:
            raise UsageError("no network to finish", hint="name a run folder, or a network as `--arch space/name`")
        if pick is not None:
            raise UsageError(
                f"pick `{pick}` without a run folder", hint=f"for example `nas finish RUN --pick {shlex.quote(pick)}`"
            )
        return Source(find_network(arch, None))
    settings = recorded_settings(run)
    if settings is None:
        raise RunError(f"`{run}` holds no run", hint="name the folder of a search or of a training")
    if settings.get("command") == "search":
        if arch is not None:
            raise UsageError(
                f"`{run}` holds a search, found network `{arch}`", hint="name one of its front by `--pick`"
            )
        return _of_search(run, pick, settings)
    if pick is not None:
        raise UsageError(f"`{run}` holds no search, found pick `{pick}`", hint="leave `--pick` out")
    return _of_training(run, arch, settings)


def load_inherited(checkpoint: Path) -> Inherited:
    """The weights in a checkpoint, with everything that is trained.

    Raises:
        CheckpointError: They are gone or damaged.
    """
    from supernets.checkpoint import load_supernet

    supernet, metadata = load_supernet(checkpoint, to_train=True)
    return Inherited(supernet, metadata, checkpoint_digest(checkpoint))


def take_over(inherited: Inherited, network: Supernet, make: Callable[[Architecture], nn.Module] | None = None) -> None:
    """Put the inherited weights of a network into ``network``, its own space of one.

    Where it computes on larger or smaller images its family fits them, see `supernets.NetworkFamily.fit_weights`.
    Imported weights are taken over by `take_over_imported`.

    Args:
        inherited: Trained weights that hold the network.
        network: The space of one.
        make: Maker of the network out of the inherited weights; None takes them as they are.

    Raises:
        SupernetError: They are those of another network, or of another number of classes.
    """
    from supernets.errors import SupernetError

    space = network.space
    if inherited.supernet.space.classes != space.classes:
        raise SupernetError(
            f"inherited weights tell {inherited.supernet.space.classes} classes, the images have {space.classes}",
            hint="give the images that the weights were trained on, or start from scratch",
        )
    assert space.architecture is not None, "a space of one"
    weights = (make or inherited.supernet.extract)(space.architecture).state_dict()
    network.network.load_state_dict(network.family.fit_weights(weights, network.network))


def take_over_imported(inherited: Inherited, network: Supernet, images: ImageData, seed: int) -> None:
    """Put imported weights of a network into its own space of one, with a classifier for the classes of the images.

    Where the weights tell all of these classes, their rows of the classifier are taken; else one is fitted to the
    network's features of the training images.

    Args:
        inherited: Imported weights that hold the network.
        network: The space of one, made for the classes of the images.
        images: At its side.
        seed: Decides which training images choose the fitted classifier's weight decay.
    """
    from nas.evaluation.classifier import refit_classifier
    from nas.evaluation.evaluators import calibration_batches
    from supernets.batch_norm import reestimate_batch_norm
    from supernets.family import classifier_tensors

    space = network.space
    assert space.architecture is not None, "a space of one"
    weights = dict(inherited.supernet.extract(space.architecture).state_dict())
    rows, own = inherited.classifier_rows(images), network.network.state_dict()
    for name in classifier_tensors(space):
        weights[name] = own[name] if rows is None else weights[name][rows]
    network.network.load_state_dict(weights)
    if rows is None:
        reestimate_batch_norm(network.network, calibration_batches(images, seed))
        refit_classifier(network, images, seed)


def _of_search(run: Path, pick: str | None, settings: Mapping[str, Any]) -> Source:
    result = load_front(run)
    member = result.pick(pick)
    card: dict[str, Any] = {
        "latency": {target: asdict(latency) for target, latency in member.latency.items()},
        "sources": result.sources,
    }
    if result.source_model is not None:
        card["source_model"] = result.source_model
    if settings.get("labels") == WITHOUT_LABELS:
        card["labels"] = WITHOUT_LABELS
    checkpoint, compensation = RunFolder(run).find_weights(), Compensation.of(settings)
    return Source(member.architecture, checkpoint, settings.get("data"), card, compensation, settings.get("seed", 0))


def _of_training(run: Path, arch: str | None, settings: Mapping[str, Any]) -> Source:
    if settings.get("command") not in ("train", "finish", IMPORT):
        raise RunError(f"`{run}` holds a `{settings.get('command')}` run, expected a search or a training")
    own, checkpoint, data = settings.get("architecture"), supernet_checkpoint(run), settings.get("data")
    if own is not None:
        if arch is not None:
            raise UsageError(f"`{run}` holds one network, found network `{arch}`", hint="leave one of the two out")
        return Source(Architecture.from_dict(own), checkpoint, data, settings.get("card", {}))
    if arch is None:
        raise UsageError(
            f"`{run}` holds a supernet, expected one network",
            hint=f"search it with `nas search --supernet {shlex.quote(str(run))}`, or name a network by `--arch`",
        )
    return Source(find_network(arch, settings["space"]), checkpoint, data, settings.get("card") or {})
