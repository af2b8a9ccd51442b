"""Finishing a network for fewer bits: what it then computes, stages without training, and training in them.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, arXiv 1712.05877: numbers are rounded in the forward pass, and gradients pass through the rounding. The
teacher is the network itself in fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from latency_tables.onnx_quantised import CALIBRATION_IMAGES
from nas.errors import UsageError
from nas.evaluation.evaluators import calibration_batches
from nas.events import Progress, StageProgress, ignore
from nas.exporting.kept import NETWORK, assignment_of
from nas.quantisation.adaptive_rounding import adaptive_rounding
from nas.quantisation.bias_correction import bias_correction
from nas.quantisation.clip import clip
from nas.quantisation.evaluated import OrderedQuantisation, Wanted, integer_mode
from nas.quantisation.fake import FakeQuantisation
from nas.quantisation.relu_mlp import gelus_of, relu_mlp
from nas.quantisation.watching import names_in_order
from nas.runs.folder import FINISHED, RunFolder
from search_spaces import Architecture, SearchSpace
from search_spaces.timm_models import PREFIX, TimmReference

if TYPE_CHECKING:
    from latency_tables.onnx_quantised import Precision
    from supernets.checkpoint import CheckpointMetadata
    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet
    from supernets.training.settings import TrainingSettings

INT8, MIXED = "int8", "mixed"
QUANTISED = (INT8, "w4", "w2", MIXED)
"""What a network can be finished for."""
EPOCHS = 2
CLIP, BIAS_CORRECTION, ADAPTIVE_ROUNDING = "clip", "bias_correction", "adaptive_rounding"
STAGES = (CLIP, BIAS_CORRECTION, ADAPTIVE_ROUNDING)
"""What is tried before training, in this order."""


def wanted_precisions(quantise: str, run: Path | str | None, pick: str | None) -> Wanted:
    """What layers are to compute in.

    Args:
        quantise: One of `QUANTISED`.
        run: The run that is finished, which keeps the precisions of ``mixed``.
        pick: The network of its front.

    Raises:
        UsageError: There is no such choice, or nobody has chosen precisions for ``mixed``.
    """
    if quantise not in QUANTISED:
        raise UsageError(f"`quantise` is {quantise!r}, expected {', '.join(f'`{name}`' for name in QUANTISED)}")
    if quantise != MIXED:
        return cast("Precision", quantise)
    folder = None if run is None else RunFolder(Path(run))
    name = pick or ("knee" if folder is None or folder.architecture is None else NETWORK)
    found = None if folder is None else assignment_of(folder.path, name)
    if found is None:
        finished = None if folder is None or pick else folder.path / FINISHED
        is_chosen = finished is not None and assignment_of(finished, NETWORK) is not None
        raise UsageError(
            f"`quantise` is `{MIXED}`, but nobody has chosen precisions for the layers of network `{name}`",
            f"of the network that the search finished they are: `nas finish {finished} --quantise {MIXED}`"
            if is_chosen
            else f"nas quantise {run or 'RUN'}" + (" --pick PICK" if name != NETWORK else ""),
        )
    return found


def stages_of(wanted: Wanted) -> tuple[str, ...]:
    """Names of the stages that are tried before training, in order; none where weights have 8 bits or more."""
    return STAGES if {"w4", "w2"}.intersection([wanted] if isinstance(wanted, str) else wanted.values()) else ()


@dataclass(frozen=True)
class FewerBits:
    """A network alone that computes in fewer bits from now on; its layer norms are equalised first.

    Attributes:
        network: The network, in a space of its own, on its device.
        module: The same as a module, which stages change.
        original: As it was in fp32.
        teacher: Who teaches it in fp32.
        images: Training images ``(B, C, H, W)`` as it takes them.
        mode: What its layers compute in.
    """

    network: Supernet
    module: nn.Module
    original: nn.Module
    teacher: nn.Module
    images: Tensor
    mode: FakeQuantisation

    @classmethod
    def of(
        cls, network: Supernet, images: ImageData, seed: int, wanted: Wanted, teacher: nn.Module | None = None
    ) -> FewerBits:
        """Have a network compute in fewer bits.

        Args:
            network: The network, in a space of its own, on its device.
            images: Images whose training part ranges are found on.
            seed: Seed of the choice of images.
            wanted: What its layers compute in.
            teacher: Who teaches it; None for itself in fp32.
        """
        from supernets.batch_norm import reestimate_batch_norm

        batches = [x_BCHW.to(network.device) for x_BCHW in calibration_batches(images, seed)]
        assert network.space.architecture is not None, "a network alone"
        module = network.extract(network.space.architecture).eval()
        reestimate_batch_norm(module, batches)
        original = copy.deepcopy(module)
        mode = integer_mode(module, batches[0], wanted)
        order = names_in_order(module, batches[0][:1])
        network.network.load_state_dict(module.state_dict())
        network.mode = lambda: OrderedQuantisation(mode, order)
        return cls(network, module, original, teacher or original, torch.cat(batches), mode)

    def apply(self, stage: str, seed: int, progress: Progress) -> None:
        """Put the network through a stage.

        Args:
            stage: One of `STAGES`.
            seed: Seed of the order of images.
            progress: Told how many blocks are done.
        """
        if stage == CLIP:
            clip(self.module, self.images[:CALIBRATION_IMAGES], self.mode.precisions)
        elif stage == BIAS_CORRECTION:
            bias_correction(self.module, self.original, self.images[:CALIBRATION_IMAGES], self.mode)
        else:

            def tell(done: int, total: int) -> None:
                progress(StageProgress(stage, done, total))

            adaptive_rounding(self.module, self.original, self.images, self.mode, seed=seed, tell=tell)
        self.network.network.load_state_dict(self.module.state_dict())

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go back to earlier weights."""
        self.network.load_state_dict(weights)
        self.module.load_state_dict(self.network.network.state_dict())


def untrained_checkpoint(
    network: Supernet, inherited: CheckpointMetadata, training: TrainingSettings, folder: Path
) -> Path:
    """Write the checkpoint that a training would leave which changed nothing.

    Args:
        network: The network, in a space of its own.
        inherited: What the checkpoint says about itself that its weights came from.
        training: How it would have been trained.
        folder: Where to write.
    """
    from supernets.checkpoint import CHECKPOINT_NAME, save_checkpoint

    space = network.space
    assert space.architecture is not None, "a network alone"
    metadata = {
        **inherited,
        "architecture": space.architecture.to_dict(),
        "space": space.name,
        "version": space.version,
        "image_side": space.image_side,
        "settings": training.to_dict(),
    }
    path = folder / CHECKPOINT_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, network, {}, cast("CheckpointMetadata", metadata))
    return path


def in_relu(architecture: Architecture) -> Architecture:
    """The same network with ReLU in place of GELU.

    Raises:
        UsageError: Its space has no such networks.
    """
    if not architecture.space.startswith(f"{PREFIX}:"):
        raise UsageError(
            f"`relu`: networks of space `{architecture.space}` keep their activation, expected one of a timm model",
            hint="leave `--relu` out",
        )
    reference = TimmReference.parse(architecture.space)
    arguments = {**dict(reference.arguments), "act_layer": "relu"}
    changed = replace(reference, arguments=tuple(sorted(arguments.items())))
    return replace(architecture, space=f"{PREFIX}:{changed.text}")


def with_relu(
    network: Supernet, space: SearchSpace, images: ImageData, seed: int, progress: Progress = ignore
) -> Supernet:
    """A network alone with ReLU in place of GELU, fitted to what it gave.

    Args:
        network: The network, on its device.
        space: Space of the network with ReLU.
        images: Images whose training part it is fitted on.
        seed: Seed of the choice and of the order of images.
        progress: Told how many pairs of layers are done.

    Raises:
        UsageError: It has no GELU, or another activation would stay in its place.
    """
    from supernets.supernet import Supernet

    assert network.space.architecture is not None, "a network alone"
    module = network.extract(network.space.architecture).eval()
    changed = Supernet(space, seed).to(network.device)
    if not gelus_of(module) or gelus_of(changed.network):
        raise UsageError(f"`relu`: `{network.space.name}` has no GELU that could become one", hint="leave `--relu` out")
    batches = [x_BCHW.to(network.device) for x_BCHW in calibration_batches(images, seed)]
    relu_mlp(
        module, torch.cat(batches), seed=seed, tell=lambda done, total: progress(StageProgress("relu", done, total))
    )
    changed.network.load_state_dict(module.state_dict())
    return changed
