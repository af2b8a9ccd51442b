"""Which tensors of a file are those of a model, whatever they are wrapped in and whoever named them.

Every dictionary of tensors in the file, without what may stand in front of its names, is read in each layout that it
could be of, and renamed and resized by the model's own code in timm. The first reading that gives every tensor of the
model and leaves nothing over that belongs to it is the answer.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from supernets.timm_models.layouts import FOREIGN, TIMM, Layout

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What PyTorch puts into names when a module is compiled, sharded or recomputed."""
NOT_WEIGHTS = ("optim", "scheduler", "scaler", "loss", "amp")
"""Beginnings of what else a training saves with tensors inside."""
DEEPEST = 4
LEAST_SHARE = 0.3
"""Share of the model's names that a beginning must stand in front of to be tried."""
OUTER = {"head": 0, "classifier": 0, "cls_classifier": 0, "fc": 0, "linear": 0}
OUTER |= {"head_dist": 1, "distillation_classifier": 1}
"""Classifiers that stand beside a backbone, and which of the model's classifiers each is."""
NO_PART = ("mask_token", "decoder", "pre_logits")
"""Beginnings of names that pretraining leaves behind, and no network computes with."""
SHOWN = 4


@dataclass(frozen=True)
class Reading:
    """One way to read a file as the weights of a model.

    Attributes:
        place: Where in the file, in words.
        tensors: Those of the model without its classifier, by the model's names.
        classifier: Those of the classifier that stand in the file, of any shape, by the model's names.
        missing: Names of the model that the file does not have.
        unfit: Tensors of another shape, of whole numbers or not finite, in words.
        surplus: Names that the model has no place for, though they would change what it computes.
    """

    place: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    classifier: Mapping[str, Tensor] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether these are the model's weights."""
        return not (self.missing or self.unfit or self.surplus)

    def differences(self) -> str:
        """What is wrong with it, in words."""
        kinds = (("missing", self.missing), ("unfit", self.unfit), ("without a place in the model", self.surplus))
        return ", ".join(f"{len(names)} {kind} ({listed(names)})" for kind, names in kinds if names)


def read(content: Mapping[str, Any], model: nn.Module, classifiers: Sequence[str]) -> tuple[Reading, list[str]]:
    """The best way to read what a file holds as a model's weights, and the places that were tried or left alone.

    Args:
        content: What the file holds, tensors and dictionaries of tensors among it.
        model: A model of timm.
        classifiers: Names of its layers that tell classes.

    Returns:
        The first reading that fits, with the other networks in the file that would have; else the nearest one, with
        all places that were tried.
    """
    places = sorted(_places(content, set(model.state_dict())), key=lambda place: place.rank)
    best, wrong = Reading("nothing", missing=tuple(model.state_dict())), sys.maxsize
    for place in places:
        reading = place.read(model, classifiers)
        if reading.fits:
            others = [other.words for other in places if not other.names & place.names and other.votes >= place.votes]
            return reading, list(dict.fromkeys(others))
        count = len(reading.missing) + len(reading.unfit) + len(reading.surplus)
        if count < wrong:
            best, wrong = reading, count
    return best, list(dict.fromkeys(place.words for place in places))


def describe(content: Mapping[str, Any]) -> str:
    """What a file holds, in words."""
    parts = []
    for path, tensors in _states(content):
        common = _common_beginning(tensors)
        names = f"whose names begin with `{common}`" if common else f"such as {listed(list(tensors)[:2])}"
        parts.append(f"{f'`{path}` with ' if path else ''}{len(tensors)} tensors, {names}")
    return "; ".join(parts) or f"no tensors by name, only {listed([str(name) for name in content]) or 'nothing'}"


def listed(names: Sequence[str]) -> str:
    """The first of some names, in words."""
    return ", ".join(f"`{name}`" for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


@dataclass(frozen=True)
class _Place:
    """Tensors of a file that may be a network's.

    Attributes:
        path: Keys of the dictionary that holds them, with points in between.
        prefix: What stands in front of their names.
        layout: Who named them.
        state: All tensors of the dictionary.
        votes: How many of the names are the model's; for foreign layouts how many there are.
    """

    path: str
    prefix: str
    layout: Layout
    state: Mapping[str, Tensor]
    votes: int

    @property
    def names(self) -> set[str]:
        """The names in the file."""
        return {f"{self.path}/{name}" for name in self.state if name.startswith(self.prefix)}

    @property
    def words(self) -> str:
        """Where this is, for messages."""
        parts = [f"`{self.path}`"] if self.path else []
        parts += [f"the names behind `{self.prefix}`"] if self.prefix else [] if parts else ["all names"]
        return " ".join(parts) + f" as {self.layout.title}"

    @property
    def rank(self) -> tuple[int, int, int]:
        """What is tried first: averages of weights, then teachers, students last; what names more; longer prefixes."""
        text = f"{self.path}.{self.prefix}".lower()
        kinds = (
            re.search(r"(?<![a-z])ema(?![a-z])|averag", text) is not None,
            "teacher" in text,
            "student" not in text,
        )
        return kinds.index(True) if any(kinds) else len(kinds), -self.votes, -len(self.prefix)

    def read(self, model: nn.Module, classifiers: Sequence[str]) -> Reading:
        """These tensors as the model's."""
        inner = {name[len(self.prefix) :]: own for name, own in self.state.items() if name.startswith(self.prefix)}
        try:
            found = dict(_converter(model)(self.layout.rename(inner), model))
        except Exception as error:  # timm's converters raise whatever a foreign file makes them trip over
            lines = str(error).splitlines() or [type(error).__name__]
            return Reading(self.words, missing=tuple(model.state_dict()), unfit=(lines[0],))
        expected = model.state_dict()
        told = [f"{layer}.{kind}" for layer in classifiers for kind in ("weight", "bias")]
        classifier = {name: found[name] for name in told if name in found} or self._outer(classifiers)
        backbone = {name: _resized(name, found[name], expected[name], model) for name in expected if name in found}
        backbone = {name: tensor for name, tensor in backbone.items() if name not in told}
        lacking = [name for name in expected if name not in backbone and name not in told]
        return Reading(
            self.words,
            {name: tensor.to(expected[name].dtype) for name, tensor in backbone.items()},
            {name: tensor.float() for name, tensor in classifier.items()},
            tuple(name for name in lacking if not name.endswith("num_batches_tracked")),
            tuple(_unfit(backbone, expected)),
            tuple(name for name in found if name not in expected and _belongs(name, found[name], model, told)),
        )

    def _outer(self, classifiers: Sequence[str]) -> dict[str, Tensor]:
        """A classifier beside the backbone rather than in it, by the model's names."""
        found = {}
        for name, tensor in self.state.items():
            layer, _, kind = name.rpartition(".")
            before, _, last = layer.rpartition(".")
            is_beside = self.prefix.startswith(f"{before}." if before else "") and not name.startswith(self.prefix)
            number = OUTER.get(last, len(classifiers))
            if is_beside and kind in ("weight", "bias") and number < len(classifiers):
                found[f"{classifiers[number]}.{kind}"] = tensor
        return found


def _places(content: Mapping[str, Any], expected: set[str]) -> Iterator[_Place]:
    for path, state in _states(content):
        for layout in FOREIGN:
            for name in state:
                if name == layout.anchor or name.endswith(f".{layout.anchor}"):
                    prefix = name[: -len(layout.anchor)]
                    yield _Place(path, prefix, layout, state, sum(other.startswith(prefix) for other in state))
        votes = Counter({"": sum(name in expected for name in state), _common_beginning(state): 0})
        for name in state:
            parts = name.split(".")
            ends = [".".join(parts[first:]) for first in range(1, len(parts))]
            votes.update(name[: -len(end)] for end in ends if end in expected)
        for prefix, count in votes.items():
            if count >= LEAST_SHARE * len(expected) or prefix in ("", _common_beginning(state)):
                yield _Place(path, prefix, TIMM, state, count)


def _states(content: Mapping[str, Any], path: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The dictionaries of tensors in a file, without what PyTorch's wrappers put into names."""
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, {_unwrapped(name): tensor for name, tensor in tensors.items()}
    for name, value in content.items():
        is_state = isinstance(name, str) and not name.lower().startswith(NOT_WEIGHTS)
        if isinstance(value, Mapping) and is_state and depth < DEEPEST:
            yield from _states(value, f"{path}.{name}".strip("."), depth + 1)


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _common_beginning(names: Iterable[str]) -> str:
    """What all names begin with, whole words up to a point."""
    common: list[str] = []
    for words in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(words)) > 1:
            break
        common.append(f"{words[0]}.")
    return "".join(common)


def _converter(model: nn.Module) -> Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]:
    """timm's own code that renames and resizes weights of a model's first release."""
    own = next(base for base in type(model).__mro__ if base.__module__.startswith("timm.models."))
    convert = vars(sys.modules[own.__module__]).get("checkpoint_filter_fn")
    if convert is None:
        return lambda state, _: state
    options = {"adapt_layer_scale": True} if "adapt_layer_scale" in inspect.signature(convert).parameters else {}
    return lambda state, network: convert(state, network, **options)


def _resized(name: str, tensor: Tensor, expected: Tensor, model: nn.Module) -> Tensor:
    """Positions of another grid on the model's, where timm's code for the model left them as they were."""
    from timm.layers.patch_embed import PatchEmbed
    from timm.layers.pos_embed import resample_abs_pos_embed

    embedding = dict(model.named_children()).get("patch_embed")
    is_other = name == "pos_embed" and tensor.shape != expected.shape and tensor.shape[::2] == expected.shape[::2]
    if not is_other or not isinstance(embedding, PatchEmbed) or embedding.grid_size is None:
        return tensor
    before = expected.shape[1] - embedding.grid_size[0] * embedding.grid_size[1]
    if before < 0 or round((tensor.shape[1] - before) ** 0.5) ** 2 != tensor.shape[1] - before:
        return tensor
    positions: Tensor = resample_abs_pos_embed(tensor.float(), list(embedding.grid_size), num_prefix_tokens=before)
    return positions


def _unfit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            yield f"{name}: found {tuple(tensor.shape)}, expected {tuple(wanted.shape)}"
        elif wanted.is_floating_point() and not tensor.is_floating_point():
            yield f"{name}: found {str(tensor.dtype).removeprefix('torch.')}, expected floating-point numbers"
        elif not torch.isfinite(tensor.float()).all():
            yield f"{name}: holds numbers that are not finite"


def _belongs(name: str, tensor: Tensor, model: nn.Module, told: Sequence[str]) -> bool:
    """Whether a tensor that the model has no place for would take part in what the network of the file computes."""
    first, _, rest = name.partition(".")
    is_elsewhere = bool(rest) and not hasattr(model, first)  # a decoder, a projector: another part of a training
    is_head = first in OUTER or first in {layer.partition(".")[0] for layer in told}
    is_nothing = name.endswith("bias") and not tensor.any()
    return not (is_elsewhere or is_head or is_nothing or name.startswith(NO_PART) or not tensor.is_floating_point())
