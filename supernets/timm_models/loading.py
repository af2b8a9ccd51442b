"""A supernet whose shared tensors are those of a timm model that exists already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from search_spaces import get_space
from search_spaces.timm_models import PREFIX, TimmReference, TimmSpace
from supernets.errors import CheckpointError
from supernets.supernet import Supernet
from supernets.timm_models.chain import create
from supernets.timm_models.export import from_timm_names
from supernets.timm_models.own_weights import read_into
from supernets.timm_models.weight_files import CONFIG_FILE, PREPROCESSOR_FILE, beside, find_weights

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

PRETRAINED = "pretrained"


@dataclass(frozen=True)
class Original:
    """A timm model as a supernet, and what its weights are.

    Attributes:
        supernet: Supernet whose largest network is the model.
        tells_classes: Whether the weights hold a classifier for the classes that were asked for, so that the model can
            teach; without weights it cannot.
        mean: Means of the three colours, as the weights expect images to be normalised.
        std: Standard deviation of the colours, as the weights expect images to be normalised.
        first_convolution: Name in the model of the layer that sees the colours.
        license: License of the weights; None where nobody says.
        notes: What is worth saying of how the weights were read, a sentence each.
    """

    supernet: Supernet
    tells_classes: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    first_convolution: str
    license: str | None
    notes: tuple[str, ...] = ()


def load_timm_supernet(
    name: str, weights: str | Path | None = None, classes: int | None = None, image_side: int | None = None
) -> Supernet:
    """The supernet of the networks inside a timm model; its largest network is that model.

    Args and errors are those of `load_original`.
    """
    return load_original(name, weights, classes, image_side).supernet


def load_original(
    name: str,
    weights: str | Path | None = None,
    classes: int | None = None,
    image_side: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Original:
    """A timm model as a supernet, with what is known of its weights.

    Args:
        name: Name of the model, as ``NAME`` or ``NAME?argument=value``.
        weights: ``pretrained`` for those that timm downloads; or a file of safetensors or PyTorch, or a folder of timm
            or Hugging Face, as `supernets.timm_models.own_weights.read_into` reads them. A ``config.json`` or
            ``preprocessor_config.json`` beside the file says how images are normalised; else they are as for timm's own
            weights. None draws them at random.
        classes: Number of classes to tell apart; None takes the model's own. A classifier that does not come with the
            weights is drawn at random.
        image_side: Side in pixels of the image; None takes the model's own.
        class_names: Names of the classes in their order, to compare with those beside the weights; None for unknown.

    Raises:
        UnknownNameError: timm has no such model.
        TimmModelError: It cannot be made elastic, or not for such images.
        CheckpointError: The weights cannot be read or downloaded, or are of another model.
    """
    reference = TimmReference.parse(name)
    if image_side is not None:
        arguments = {**dict(reference.arguments), "img_size": image_side}
        reference = replace(reference, arguments=tuple(sorted(arguments.items())))
    space = get_space(f"{PREFIX}:{reference.text}", classes)
    assert isinstance(space, TimmSpace)
    supernet = Supernet(space)
    tells_classes, notes = False, tuple[str, ...]()
    if weights is not None:
        model, tells_classes, notes = _loaded(reference, weights, space.classes, class_names)
        load_timm_weights(supernet, model.state_dict())
    facts = _facts(reference, weights)
    return Original(
        supernet.eval(),
        tells_classes,
        tuple(facts["mean"]),
        tuple(facts["std"]),
        facts["first_conv"],
        facts.get("license") if weights is not None else None,
        notes,
    )


def load_timm_weights(supernet: Supernet, state: Mapping[str, Tensor]) -> None:
    """Put the tensors of a timm model, by timm's names, into the supernet of its space.

    Raises:
        CheckpointError: They do not fit.
    """
    named = from_timm_names(state, supernet.network.state_dict())
    try:
        supernet.network.load_state_dict(named)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise CheckpointError(f"weights for `{supernet.space.name}`: {lines[min(1, len(lines) - 1)]}") from error


def _facts(reference: TimmReference, weights: str | Path | None) -> dict[str, Any]:
    """How the weights expect their images, and under which licence they were given."""
    import timm
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    known = timm.get_pretrained_cfg(reference.name, allow_unregistered=True)
    own = {} if known is None else known.to_dict()  # type: ignore[no-untyped-call]
    facts = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "first_conv": "patch_embed.proj"}
    facts |= {name: own[name] for name in ("mean", "std", "first_conv", "license") if own.get(name) is not None}
    if weights is None or weights == PRETRAINED:
        return facts
    facts.pop("license", None)  # of timm's own weights, not of these
    file = find_weights(Path(weights))
    config, preprocessor = beside(file, CONFIG_FILE), beside(file, PREPROCESSOR_FILE)
    given = {name: preprocessor[f"image_{name}"] for name in ("mean", "std") if f"image_{name}" in preprocessor}
    for part in ("image", "pretrained_cfg"):
        given |= {
            name: value for name, value in dict(config.get(part) or {}).items() if name in ("mean", "std", "license")
        }
    for name in ("mean", "std"):
        colours = given.get(name, facts[name])
        if not isinstance(colours, (list, tuple)) or len(colours) != 3 or not all(map(_is_number, colours)):
            raise CheckpointError(f"`{CONFIG_FILE}` beside `{file}`: `{name}` is {colours!r}, expected three numbers")
    return facts | given


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _loaded(
    reference: TimmReference, weights: str | Path, classes: int, class_names: Sequence[str] | None
) -> tuple[nn.Module, bool, tuple[str, ...]]:
    """The model with its weights, whether its classifier came with them, and what is worth saying."""
    if weights == PRETRAINED:
        try:
            model = create(reference, None, classes, pretrained=True)
            return model, getattr(model, "pretrained_cfg", {}).get("num_classes") == classes, ()
        except OSError as error:
            raise CheckpointError(
                f"pretrained weights of timm model `{reference.name}` cannot be downloaded: {error}",
                hint="download them elsewhere and name the file with `--weights`",
            ) from error
    model = create(reference, None, classes)
    return model, *read_into(model, weights, class_names)


def load_backbone(
    name: str, weights: str | Path
) -> tuple[VisionTransformer, TimmReference, tuple[Sequence[float], Sequence[float]], str | None]:
    """A plain vision transformer of timm without a classifier, for images of any side that its patches divide.

    Args:
        name: As of `load_original`.
        weights: As of `load_original`.

    Returns:
        The model, its name and arguments, means and standard deviations of colours, and the license of the weights.

    Raises:
        TrainingError: It is no plain vision transformer with a class token.
        UnknownNameError, TimmModelError, CheckpointError: As `load_original`.
    """
    from timm.models.vision_transformer import VisionTransformer

    from supernets.training.self_distillation import projections_of

    reference = TimmReference.parse(name)
    with torch.device("meta"):
        projections_of(create(reference, None, 0))
    arguments = {**dict(reference.arguments), "dynamic_img_size": True}
    model, _, _ = _loaded(TimmReference(reference.name, tuple(sorted(arguments.items()))), weights, 0, None)
    assert isinstance(model, VisionTransformer), "what has such projections"
    facts = _facts(reference, weights)
    return model, reference, (facts["mean"], facts["std"]), facts.get("license")


@torch.no_grad()
def reordered(supernet: Supernet, order: tuple[int, ...]) -> Supernet:
    """The same weights over the space that leaves out blocks in another order of importance.

    Args:
        supernet: Supernet of a timm space.
        order: Numbers of the removable blocks, from most to least important.

    Raises:
        TimmModelError: The order does not hold every removable block once.
    """
    assert isinstance(supernet.space, TimmSpace)
    space = get_space(f"{PREFIX}:{supernet.space.with_order(order).text}", supernet.space.classes)
    again = Supernet(space)
    again.load_state_dict(supernet.state_dict())
    return again.to(supernet.device).train(supernet.training)
