"""A supernet whose shared tensors are those of a timm model that exists already."""

from __future__ import annotations

from collections.abc import Mapping
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


def load_timm_supernet(
    name: str, weights: str | Path | None = None, classes: int | None = None, image_side: int | None = None
) -> Supernet:
    """The supernet of the networks inside a timm model; its largest network is that model.

    Args:
        name: Of the model, as ``NAME`` or ``NAME?argument=value``.
        weights: ``pretrained`` for those that timm downloads, or a file: safetensors, or a PyTorch file that holds
            nothing but tensors; None draws them at random.
        classes: To tell apart; None takes the model's own. A classifier for another number is drawn at random.
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
    if weights is not None:
        model = _loaded(reference, weights, space.classes)
        load_timm_weights(supernet, model.state_dict())
    return supernet.eval()


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


def _loaded(reference: TimmReference, weights: str | Path, classes: int) -> nn.Module:
    if weights == PRETRAINED:
        try:
            return create(reference, None, classes, pretrained=True)
        except OSError as error:
            raise CheckpointError(
                f"pretrained weights of timm model `{reference.name}` cannot be downloaded: {error}",
                hint="download them elsewhere and name the file with `--weights`",
            ) from error
    model = create(reference, None, classes)
    state = _read(Path(weights), model)
    expected = model.state_dict()
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier", "head")
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    for key in [key for key in state if key.rpartition(".")[0] in names]:
        if key not in expected or state[key].shape != expected[key].shape:
            state[key] = expected[key]  # a classifier for other classes: drawn at random
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"weights `{weights}` are not those of timm model `{reference.name}`: {_first_difference(error)}",
            hint="give the file of this model, with the arguments that it was made with",
        ) from error
    return model


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
        supernet: Of a timm space.
        order: Numbers of the removable blocks, from most to least important.

    Raises:
        TimmModelError: The order does not hold every removable block once.
    """
    assert isinstance(supernet.space, TimmSpace)
    space = get_space(f"{PREFIX}:{supernet.space.with_order(order).text}", supernet.space.classes)
    again = Supernet(space)
    again.load_state_dict(supernet.state_dict())
    return again.to(supernet.device).train(supernet.training)
