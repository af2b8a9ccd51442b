"""Spaces of the networks inside a timm model: narrower, shallower, on smaller images, with the model's own weights.

This file knows sizes only. What a model consists of comes as an `Outline` from whoever can build it, and the operators
of a block from a registered lowering, so that importing this stays free of torch.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.errors import SearchSpaceError
from search_spaces.graph import Op, Shape
from search_spaces.space import Choice, Genotypes, SearchSpace, Slot

PREFIX = "timm"
HUB = ("hf-hub:", "hf_hub:")
OTHER_NAMES = (f"{PREFIX}:", f"{PREFIX}/", *(f"{hub}{PREFIX}/" for hub in HUB))
"""What people write before the name of a timm model."""
NO_ARGUMENTS = {
    **dict.fromkeys(
        ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
        "it chooses weights, which are no part of a network",
    ),
    **dict.fromkeys(("features_only", "out_indices"), "the model would give no logits"),
    **dict.fromkeys(("scriptable", "exportable", "no_jit", "device", "dtype"), "it does not change the network"),
}
"""Arguments of ``timm.create_model`` that make no sense here, and why."""
COLOURS = "in_chans"
SIDE, PATCH, TOKENS, DEPTH, WIDTH = "input.side", "input.patch", "tokens.r", "depth", "embed"
MERGED, MERGING = "merged", "tokens."
"""Axis of the patches that are merged into another each time, and what the names of the parts that do so begin with."""
PATCH_ARGUMENT = "patch_size"
LEAST_GRID = 2
"""Fewest patches along a side of the image."""
ORDER, MERGE, NO_MERGE = "order", "merge", "none"


class TimmModelError(SearchSpaceError):
    """A timm model that cannot be made elastic, or a reference to one that cannot be read."""


@dataclass(frozen=True)
class TimmReference:
    """A timm model with the arguments that it is created with, as ``NAME?argument=value&argument=value``.

    Attributes:
        name: A name of ``timm.list_models()``.
        arguments: Arguments of ``timm.create_model`` by name, sorted.
        order: Numbers of the removable blocks from most to least important; empty for the default of the space.
        merges: Whether tokens may be merged; ``merge=none`` where not, so that patches stay on their grid.
    """

    name: str
    arguments: tuple[tuple[str, Any], ...] = ()
    order: tuple[int, ...] = ()
    merges: bool = True

    @classmethod
    def parse(cls, text: str) -> TimmReference:
        """Read what `text` writes.

        Raises:
            TimmModelError: The text has another form.
        """
        if text.startswith(HUB) and not text.startswith(OTHER_NAMES):
            raise TimmModelError(
                f"timm model `{text}`: found a model of somebody else, expected one of `hf-hub:timm/NAME`",
                hint="name the timm model that it is, and give its weights as a file: `--model NAME --weights FILE`",
            )
        name, _, query = plain_name(text).partition("?")
        listed = [pair.partition("=")[::2] for pair in query.split("&")] if query else []
        pairs = dict(listed)
        if len(pairs) < len(listed):
            raise TimmModelError(f"timm model `{text}`: an argument is given twice")
        order, merge = pairs.pop(ORDER, ""), pairs.pop(MERGE, "")
        if merge not in ("", NO_MERGE):
            raise TimmModelError(f"timm model `{text}`: argument `{MERGE}` is {merge}, expected {NO_MERGE}")
        if not name or not all(re.fullmatch(r"\w+", key) and value for key, value in pairs.items()):
            raise TimmModelError(
                f"timm model `{text}`: found another form than `NAME?argument=value&argument=value`",
                hint="for example `vit_tiny_patch16_224?img_size=96`",
            )
        for key, value in pairs.items():
            if key in NO_ARGUMENTS:
                raise TimmModelError(
                    f"timm model `{name}`: argument `{key}`: {NO_ARGUMENTS[key]}",
                    hint="leave it out; `nas search --model NAME --weights FILE` begins with weights of your own",
                )
            if key == COLOURS and value != "3":
                raise TimmModelError(
                    f"timm model `{name}`: argument `{key}` is {value}, expected 3: networks here compute on colour"
                    " images; grey ones are read as colour images",
                    hint="leave it out",
                )
        pairs.pop(COLOURS, None)
        if order and not re.fullmatch(r"\d+(\.\d+)*", order):
            raise TimmModelError(
                f"timm model `{text}`: order is `{order}`, expected numbers of blocks with points in between"
            )
        numbers = tuple(int(number) for number in order.split(".")) if order else ()
        return cls(name, tuple(sorted((key, _value(value)) for key, value in pairs.items())), numbers, not merge)

    @property
    def text(self) -> str:
        """The canonical form."""
        pairs = [
            f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
            for key, value in self.arguments
        ]
        if self.order:
            pairs.append(f"{ORDER}={'.'.join(map(str, self.order))}")
        if not self.merges:
            pairs.append(f"{MERGE}={NO_MERGE}")
        return self.name + ("?" + "&".join(pairs) if pairs else "")

    def on_patches(self, side: int) -> TimmReference:
        """The same model made for square patches of another side in pixels."""
        arguments = dict(self.arguments) | {PATCH_ARGUMENT: side}
        return replace(self, arguments=tuple(sorted(arguments.items())))

    @property
    def model(self) -> str:
        """The canonical form without the order of blocks, which does not change what a block is."""
        return TimmReference(self.name, self.arguments).text


def plain_name(text: str) -> str:
    """A timm model without what people write before its name: ``timm/``, ``hf-hub:timm/`` or the kind of space."""
    return text.removeprefix(next((prefix for prefix in OTHER_NAMES if text.startswith(prefix)), ""))


def _value(text: str) -> Any:
    try:
        value = json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text
    if isinstance(value, list) and all(isinstance(entry, (bool, int, float, str)) for entry in value):
        return tuple(value)
    return value if isinstance(value, (bool, int, float, str)) else text


@dataclass(frozen=True)
class TimmBlock:
    """The size of one part of a timm model: its stem, one of its blocks, a step between stages or its head.

    Attributes:
        model: A `TimmReference.model`, on the patches of the network.
        part: Name of the part in that model, or of the first of all parts that are equal to it.
        side: Side in pixels of the image that the network computes on.
        classes: Number of classes to tell apart.
        sizes: ``(axis, active size)`` of every searchable axis.
    """

    model: str
    part: str
    side: int
    classes: int
    sizes: tuple[tuple[str, int], ...]

    def ops(self) -> tuple[Op, ...]:
        """The part's operators, from the registered lowering."""
        return () if self.does_nothing else _lowered(self)

    @property
    def does_nothing(self) -> bool:
        """Whether the part is one that merges tokens, and merges none."""
        return self.part.startswith(MERGING) and not dict(self.sizes)[MERGED]


Lowering = Callable[[TimmBlock], tuple[Op, ...]]
_lowering: list[Lowering] = []


def register_lowering(lowering: Lowering) -> None:
    """Say what gives the operators of a part; a later one takes the place of an earlier one."""
    _lowering[:] = [lowering]
    _lowered.cache_clear()


@lru_cache(maxsize=1 << 16)
def _lowered(block: TimmBlock) -> tuple[Op, ...]:
    if not _lowering:
        raise SearchSpaceError(
            f"the operators of timm model `{block.model}` are unknown: no lowering is registered; `get_space` brings it"
        )
    return _lowering[0](block)


@dataclass(frozen=True)
class PartOutline:
    """What a space must know about one part.

    Attributes:
        name: In the model, for example ``stem``, ``blocks.3``, ``layers.0.downsample``, ``head``.
        same_as: Name of the first of all parts that are equal to this one.
        axes: ``(axis, choice)``: the choice that says how much of each searchable axis is active.
        removable: Name of the depth choice that may leave the part out; empty where none may.
    """

    name: str
    same_as: str
    axes: tuple[tuple[str, str], ...]
    removable: str = ""


@dataclass(frozen=True)
class Outline:
    """What is searchable in a model.

    Attributes:
        reference: The model.
        choices: In genotype order; the last value of each is the model's own size.
        parts: From input to output.
        fixed: What is not searchable, and why, in words.
        family: Name of the adapter.
        most_merged: Largest value of the choice of merged tokens by side of the image, on the model's own patches.
    """

    reference: TimmReference
    choices: tuple[Choice, ...]
    parts: tuple[PartOutline, ...]
    classes: int
    fixed: tuple[str, ...] = ()
    family: str = ""
    most_merged: Mapping[int, int] = field(default_factory=dict)


class TimmSpace(SearchSpace):
    """The networks inside one timm model; the largest one is the model itself.

    A depth of d keeps the d most important of the removable blocks, in the model's own order. Sizes of blocks that are
    left out are put to the largest value, so that equal networks are equal genotypes. Patches that do not divide the
    side of the image are put to the next smaller ones that do, at last to the model's own. Tokens are merged on the
    model's own patches alone, and no more of them than there are.

    Args:
        outline: What is searchable in the model.
    """

    version = 4  # 1 had no widths of heads, 2 no sides of patches, 3 no merged tokens
    older_version = 3

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self.name = f"{PREFIX}:{outline.reference.text}"
        self.description = f"the networks inside {outline.reference.name} ({outline.family})"
        self.classes = outline.classes
        self.image_side = outline.choices[0].values[-1]
        self._parts = {part.name: part for part in outline.parts}
        self._rank = {name: rank for name, rank in self._ranks()}

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Input side, side of patches, merged tokens, widths, depths, then the sizes of every block."""
        return self.outline.choices

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """A slot for every part of the model."""
        common = [name for name in (SIDE, PATCH) if name in self.columns]
        return tuple(
            Slot(
                part.name,
                tuple(dict.fromkeys(common + [part.removable] * bool(part.removable) + [*dict(part.axes).values()])),
            )
            for part in self.outline.parts
        )

    def block(self, slot: str, values: Mapping[str, int]) -> TimmBlock | None:
        """The part in ``slot``; None where the depth leaves it out, or patches or merging do not fit the side."""
        part = self._parts[slot]
        values = {PATCH: self._own_patch, TOKENS: 0, **values}  # versions before had neither
        side, patch = values[SIDE], values[PATCH]
        if not self._fits(side, patch) or not self._can_merge(side, patch, values[TOKENS]):
            return None
        if part.removable and self._rank[slot] >= values[part.removable]:
            return None
        sizes = tuple((axis, values[choice]) for axis, choice in part.axes)
        return TimmBlock(self.reference(values).model, part.same_as, values[SIDE], self.classes, sizes)

    def reference(self, values: Mapping[str, int]) -> TimmReference:
        """The model on the patches of a network with these values."""
        own, patch = self.outline.reference, values.get(PATCH, self._own_patch)
        return own if patch == self._own_patch else own.on_patches(patch)

    def updated(self, architecture: Architecture) -> Architecture:
        """The same network in this version; one of the version before merges no tokens."""
        if (architecture.space, architecture.version) != (self.name, self.older_version):
            return architecture
        settings = dict(architecture.settings)
        if self._merged:
            settings.setdefault(TOKENS, 0)
        ordered = {choice.name: settings[choice.name] for choice in self.choices if choice.name in settings}
        return Architecture(self.name, self.version, tuple((ordered | settings).items()))

    def input_shape(self, values: Mapping[str, int]) -> Shape:
        """``(3, side, side)`` of the image that the network computes on."""
        return (3, values[SIDE], values[SIDE])

    def repair(self, genotypes: Genotypes) -> Genotypes:
        """Put sizes of blocks that the depth leaves out to the largest value, patches and merging to what fits."""
        repaired: Genotypes = genotypes.copy()
        sides = self.choices[self.columns[SIDE]].values
        for number, patch in enumerate(self._patches[:-1]):
            unfit = [not self._fits(side, patch) for side in sides]
            wrong = np.array(unfit)[repaired[:, self.columns[SIDE]]] & (repaired[:, self.columns[PATCH]] == number)
            repaired[wrong, self.columns[PATCH]] += 1
        for number, merged in enumerate(self._merged[:-1]):
            unfit = [not self._can_merge(side, self._own_patch, merged) for side in sides]
            wrong = np.array(unfit)[repaired[:, self.columns[SIDE]]]
            if self._patches:
                wrong |= self.values(repaired, PATCH) != self._own_patch
            repaired[wrong & (repaired[:, self.columns[TOKENS]] == number), self.columns[TOKENS]] += 1
        for part in self.outline.parts:
            own = [choice for choice in dict(part.axes).values() if choice.startswith(f"{part.name}.")]
            if part.removable and own:
                columns = [self.columns[choice] for choice in own]
                absent = np.flatnonzero(self.values(repaired, part.removable) <= self._rank[part.name])
                repaired[absent[:, None], columns] = self.cardinalities[columns].astype(np.int8) - 1
        return repaired

    @cached_property
    def smallest(self) -> Architecture:
        """The architecture with every choice at its smallest value; side and patches make the fewest tokens."""
        genotypes = np.zeros((1, len(self.choices)), dtype=np.int8)
        sides = self.choices[self.columns[SIDE]].values
        numbers = itertools.product(range(len(sides)), range(len(self._patches)))
        pairs = [(s, p) for s, p in numbers if self._fits(sides[s], self._patches[p])]
        if pairs:
            fewest = min(pairs, key=lambda pair: sides[pair[0]] // self._patches[pair[1]])
            genotypes[0, [self.columns[SIDE], self.columns[PATCH]]] = fewest
        return self.decode(self.repair(genotypes))[0]

    def sample(self, count: int, generator: np.random.Generator) -> Genotypes:
        """Draw ``count`` genotypes ``[count, c]``: every choice uniformly, then those of absent blocks made canonical.

        Not uniform over the networks: shallow ones, of which there are fewer, are as likely as deep ones.
        """
        drawn = generator.integers(0, self.cardinalities, size=(count, len(self.choices)))
        return self.repair(drawn.astype(np.int8))

    @cached_property
    def _patches(self) -> tuple[int, ...]:
        """Sides of patches, descending; none where they are not searched."""
        return self.choices[self.columns[PATCH]].values if PATCH in self.columns else ()

    @property
    def _merged(self) -> tuple[int, ...]:
        """Numbers of merged tokens, descending to none; none where they are not searched."""
        return self.choices[self.columns[TOKENS]].values if TOKENS in self.columns else ()

    @property
    def _own_patch(self) -> int:
        return self._patches[-1] if self._patches else 0

    def _fits(self, side: int, patch: int) -> bool:
        """Whether patches divide the side of an image, or are the model's own."""
        return patch == self._own_patch or is_divided(side, patch)

    def _can_merge(self, side: int, patch: int, merged: int) -> bool:
        """Whether there are tokens enough for merging so many."""
        return not merged or (patch == self._own_patch and merged <= self.outline.most_merged.get(side, 0))

    def _ranks(self) -> Iterator[tuple[str, int]]:
        """The rank of every removable part: how many parts of its depth choice are more important."""
        names: dict[str, list[str]] = {}
        for part in self.outline.parts:
            if part.removable:
                names.setdefault(part.removable, []).append(part.name)
        given = self.outline.reference.order
        if given and (len(names) != 1 or sorted(given) != list(range(len(next(iter(names.values())))))):
            found = ", ".join(f"{len(parts)} removable by `{depth}`" for depth, parts in names.items()) or "none"
            raise TimmModelError(
                f"timm model `{self.outline.reference.name}`: an order of {len(given)} blocks, expected every number"
                f" from 0 once for one depth choice, found blocks: {found}"
            )
        for parts in names.values():
            order = given or spread_order(len(parts))
            yield from ((parts[number], rank) for rank, number in enumerate(order))

    def with_order(self, order: tuple[int, ...]) -> TimmReference:
        """The reference of the same space with another order of importance of its blocks."""
        return replace(self.outline.reference, order=order)

    def kept_blocks(self, architecture: Architecture) -> list[str]:
        """Names of the removable parts that an architecture has, in the model's order."""
        return [name for name, _ in self.blocks(architecture) if self._parts[name].removable]


def is_divided(side: int, patch: int) -> bool:
    """Whether patches make up an image, with several along its side."""
    return side % patch == 0 and side // patch >= LEAST_GRID


def spread_order(count: int) -> tuple[int, ...]:
    """The numbers 0 to count - 1 so that every prefix lies spread out: ends first, then the middles of the widest gaps.

    The order of blocks where nothing is known about their importance.
    """
    order = [0, count - 1][:count]
    while len(order) < count:
        ends = sorted(order)
        start, end = max(pairwise(ends), key=lambda gap: gap[1] - gap[0])
        order.append((start + end) // 2)
    return tuple(order)
