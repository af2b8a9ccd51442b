"""A supernet whose shared tensors are those of a timm model that exists already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import get_space
from search_spaces.timm_models import PREFIX, TimmReference, TimmSpace
from supernets.errors import CheckpointError
from supernets.supernet import Supernet
from supernets.timm_models.chain import create
from supernets.timm_models.export import from_timm_names

PRETRAINED = "pretrained"
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
"""Files of a folder that a model was exported to, by timm, by us or by a hub."""


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
    """

    supernet: Supernet
    tells_classes: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    first_convolution: str
    license: str | None


def load_timm_supernet(
    name: str, weights: str | Path | None = None, classes: int | None = None, image_side: int | None = None
) -> Supernet:
    """The supernet of the networks inside a timm model; its largest network is that model.

    Args and errors are those of `load_original`.
    """
    return load_original(name, weights, classes, image_side).supernet


def load_original(
    name: str, weights: str | Path | None = None, classes: int | None = None, image_side: int | None = None
) -> Original:
    """A timm model as a supernet, with what is known of its weights.

    Args:
        name: Name of the model, as ``NAME`` or ``NAME?argument=value``.
        weights: ``pretrained`` for those that timm downloads, or a file: safetensors, or a PyTorch file that holds
            nothing but tensors; or a folder with ``model.safetensors``. A ``config.json`` beside the file, as timm
            writes it, says how images are normalised; else they are as for timm's own weights. None draws them at
            random.
        classes: Number of classes to tell apart; None takes the model's own. A classifier for another number is drawn
            at random.
        image_side: Side in pixels of the image; None takes the model's own.

    Raises:
        UnknownNameError: timm has no such model.
        TimmModelError: It cannot be made elastic, or not for such images.
        CheckpointError: The weights cannot be read or downloaded, or are of another model.
    """
    reference = TimmReference.parse(name)
    if image_side is not None:
        arguments = {**dict(reference.arguments), "img_size": image_side}
        reference = TimmReference(reference.name, tuple(sorted(arguments.items())), reference.order)
    space = get_space(f"{PREFIX}:{reference.text}", classes)
    assert isinstance(space, TimmSpace)
    supernet = Supernet(space)
    tells_classes = False
    if weights is not None:
        model, tells_classes = _loaded(reference, weights, space.classes)
        load_timm_weights(supernet, model.state_dict())
    facts = _facts(reference, weights)
    return Original(
        supernet.eval(),
        tells_classes,
        tuple(facts["mean"]),
        tuple(facts["std"]),
        facts["first_conv"],
        facts.get("license") if weights is not None else None,
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
        raise CheckpointError(f"weights for `{supernet.space.name}`: {_first_difference(error)}") from error


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
    file = _weights_file(Path(weights)).with_name(CONFIG_FILE)
    try:
        beside = json.loads(file.read_text(encoding="utf-8"))
        given = {**beside.get("image", {}), **beside.get("pretrained_cfg", {})}
        found = {name: given[name] for name in ("mean", "std", "license") if name in given}
    except FileNotFoundError:
        return facts
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"`{file}` cannot be read: {error}", hint="expected timm's `config.json`") from error
    return facts | found


def _weights_file(path: Path) -> Path:
    return path / WEIGHTS_FILE if path.is_dir() else path


def _loaded(reference: TimmReference, weights: str | Path, classes: int) -> tuple[nn.Module, bool]:
    """The model with its weights, and whether its classifier came with them."""
    if weights == PRETRAINED:
        try:
            model = create(reference, None, classes, pretrained=True)
            return model, getattr(model, "pretrained_cfg", {}).get("num_classes") == classes
        except OSError as error:
            raise CheckpointError(
                f"pretrained weights of timm model `{reference.name}` cannot be downloaded: {error}",
                hint="download them elsewhere and name the file with `--weights`",
            ) from error
    model = create(reference, None, classes)
    state = _read(_weights_file(Path(weights)), model)
    tells_classes = True
    expected = model.state_dict()
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier", "head")
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    for key in [key for key in state if key.rpartition(".")[0] in names]:
        if key not in expected:
            del state[key]
        elif state[key].shape != expected[key].shape:
            state[key] = expected[key]  # a classifier for other classes: drawn at random
            tells_classes = False
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"weights `{weights}` are not those of timm model `{reference.name}`: {_first_difference(error)}",
            hint="give the file of this model, with the arguments that it was made with",
        ) from error
    return model, tells_classes


def _read(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a file, renamed and resized by the model's own code in timm; nothing is unpickled but tensors."""
    import sys

    from timm.models import load_state_dict

    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise CheckpointError(f"weights `{path}`: found {found}, expected a file of weights")
    try:
        state: dict[str, Any] = load_state_dict(str(path), weights_only=True)
        state = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
        convert = getattr(sys.modules[_defining_class(model).__module__], "checkpoint_filter_fn", None)
        return dict(convert(state, model) if convert is not None and state else state)
    except Exception as error:  # readers and converters raise whatever a foreign file makes them trip over
        raise CheckpointError(
            f"weights `{path}` cannot be read: {_first_difference(error)}",
            hint="expected safetensors, or a PyTorch file that holds nothing but tensors",
        ) from error


def _defining_class(model: nn.Module) -> type:
    return next(base for base in type(model).__mro__ if base.__module__.startswith("timm.models."))


def _first_difference(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 and lines[0].startswith("Error(s)") else lines[0]) if lines else repr(error)


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
