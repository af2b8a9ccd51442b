"""Weights that somebody has, read into a model of timm.

Files are found and read by `weight_files`, tensors recognised by `matching`. What follows is here: whether the
classifier is for the classes that are asked for, and whether what shapes do not show agrees.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from supernets.errors import CheckpointError
from supernets.timm_models.matching import describe, listed, read
from supernets.timm_models.weight_files import CONFIG_FILE, beside, find_weights, read_weights


def read_into(
    model: nn.Module, weights: str | Path, class_names: Sequence[str] | None = None
) -> tuple[bool, tuple[str, ...]]:
    """Put weights into a model of timm, whatever they are wrapped in and whoever named them.

    Args:
        model: The model; a classifier that does not come with the weights stays as it is.
        weights: A file, or a folder.
        class_names: Names of the classes in the order that its classifier is to have; None where nobody knows them.

    Returns:
        Whether the weights hold a classifier for these classes, and what is worth saying of the reading.

    Raises:
        CheckpointError: The weights cannot be read, or are of another model.
    """
    file = find_weights(Path(weights))
    content, config = read_weights(file), beside(file, CONFIG_FILE)
    name = str(model.pretrained_cfg["architecture"])  # type: ignore[index]
    _check_config(file, config, model)
    layers = classifier_layers(name)
    reading, others = read(content, model, layers)
    if not reading.fits:
        own = config.get("architecture")
        known = f"its `{CONFIG_FILE}` names `{own}`: give that model" if isinstance(own, str) and own != name else ""
        raise CheckpointError(
            f"weights `{file}` are not those of timm model `{name}`: found {describe(content)}; read as"
            f" {reading.place}: {reading.differences()}",
            hint=known
            or f"give the file of this model, with the arguments it was made with; tried: {'; '.join(others)}",
        )
    notes = (
        [f"`{weights}` holds several networks: {reading.place} was taken, not {', '.join(others)}"] if others else []
    )
    classifier, own_names = dict(reading.classifier), label_names(config)
    if classifier and own_names is not None and class_names is not None:
        classifier, note = _for_classes(classifier, own_names, class_names)
        notes += [f"weights `{weights}`: {note}"] if note else []
    expected = model.state_dict()
    wanted = [key for key in expected if key.rpartition(".")[0] in layers]
    tells = all(key in classifier and classifier[key].shape == expected[key].shape for key in wanted) and bool(wanted)
    model.load_state_dict({**expected, **reading.tensors, **(classifier if tells else {})})
    return tells, tuple(notes)


def classifier_layers(name: str) -> tuple[str, ...]:
    """Names of the layers of a timm model that tell its classes; two where it was distilled by a token."""
    import timm

    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    layers = None if known is None else known.classifier
    return (layers,) if isinstance(layers, str) else tuple(layers or ("head",))


def label_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names of the classes that weights tell apart, from timm's or Hugging Face's ``config.json``; None for none."""
    given = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names") or config.get("id2label")
    if isinstance(given, Mapping):
        try:
            given = [given[key] for key in sorted(given, key=int)]
        except (TypeError, ValueError):
            return None
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        return None
    is_numbered = all(re.fullmatch(r"LABEL_\d+", name) for name in given)  # what transformers writes for no names
    return None if is_numbered or not given else tuple(given)


def rows_of(own: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Where each wanted class stands among a classifier's own; None where one is not there.

    Upper case, spaces, points, underscores and hyphens make no difference where the names stay different.
    """
    for plain in (str, lambda name: re.sub(r"[\W_]+", " ", name).strip().casefold()):
        numbers = {plain(name): number for number, name in enumerate(own)}
        if len(numbers) == len(own) and all(plain(name) in numbers for name in wanted):
            rows = [numbers[plain(name)] for name in wanted]
            if len(set(rows)) == len(rows):
                return rows
    return None


def _for_classes(
    classifier: dict[str, Tensor], own: Sequence[str], wanted: Sequence[str]
) -> tuple[dict[str, Tensor], str]:
    """A classifier's rows in the order of the wanted classes, empty where it knows others; and what to say of it."""
    rows = rows_of(own, wanted)
    if rows is None:
        told = f"the classifier tells other classes ({listed(own)}) than the images have ({listed(wanted)})"
        return {}, f"{told}, so it is left out"
    if rows == list(range(len(own))) or any(len(tensor) != len(own) for tensor in classifier.values()):
        return classifier, ""
    return {
        key: tensor[rows] for key, tensor in classifier.items()
    }, "the classes stand in another order beside them, so the classifier's rows were put in the order of the images'"


def _check_config(file: Path, config: Mapping[str, Any], model: nn.Module) -> None:
    """What shapes do not show: the number of heads, and the activation of CLIP's first release."""
    own = config.get("vision_config", config)
    heads = own.get("num_attention_heads", config.get("model_args", {}).get("num_heads"))
    found = next((vars(module)["num_heads"] for module in model.modules() if "num_heads" in vars(module)), None)
    if isinstance(heads, int) and found is not None and heads != found:
        raise CheckpointError(
            f"weights `{file}`: `{CONFIG_FILE}` says {heads} heads, the model has {found}",
            hint=f"add `num_heads={heads}` to the model's arguments, as `NAME?num_heads={heads}`",
        )
    is_quick = any("QuickGELU" in type(module).__name__ for module in model.modules())
    if own.get("hidden_act") in ("quick_gelu", "gelu") and is_quick != (own["hidden_act"] == "quick_gelu"):
        raise CheckpointError(
            f"weights `{file}`: `{CONFIG_FILE}` says activation `{own['hidden_act']}`, the model has another",
            hint="take timm's model of that activation: those with `quickgelu` in their names have CLIP's",
        )
