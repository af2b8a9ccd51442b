"""The spaces `mixers` and `mixers-mini`: pyramids whose token mixer is a choice, two in turn in every stage.

The field says token mixer: "MetaFormer Is Actually What You Need for Vision", arXiv 2111.11418. Mixers are those of
Swin (2103.14030), PVT (2102.12122), PVTv2 (2106.13797), LITv2 (2205.13213), L2ViT (2501.16182) and PoolFormer, beside a
depthwise convolution and none at all; feed-forward networks are also RePaViT's (2505.21847). docs/mixers.md has all of
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.graph import Shape
from search_spaces.mixers_blocks import (
    ENTRIES,
    FEED_FORWARDS,
    MIXERS,
    STEMS,
    WITHOUT_HEADS,
    Entry,
    FeedForward,
    Head,
    Mixer,
    MixersBlock,
    Stem,
    low_heads,
)
from search_spaces.mixers_definitions import SUBSTITUTES, MixersDefinition, Network
from search_spaces.space import Choice, Genotypes, SearchSpace, Slot

POSITIONS = ("none", "cpe")
PARITIES = ("mixer", "mixer_odd")
"""Choices of the mixer of layers 0, 2, .. and of layers 1, 3, .. of a stage."""


def _kinds(name: str, catalogue: tuple[str, ...], offered: tuple[str, ...]) -> Choice:
    """An unordered choice among some of a catalogue's kinds."""
    return Choice(name, tuple(catalogue.index(kind) for kind in offered), offered)


class MixersSpace(SearchSpace):
    """A space of the family.

    Args:
        definition: The space's stages and candidate values.
        classes: Number of classes to tell apart; None takes the definition's.
    """

    def __init__(self, definition: MixersDefinition, classes: int | None = None) -> None:
        self.definition = definition
        self.name = definition.name
        self.description = definition.description
        self.image_side = definition.image_side
        self.classes = classes or definition.classes
        offered = {kind for stage in definition.stages for kind in stage.mixers}
        self._offered = tuple(kind for kind in MIXERS if kind in offered)
        self.representatives = ("smallest", *self._offered)

    # -- choices -------------------------------------------------------------------------------------------------

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """Input side, stem and head width, then the choices of each stage."""
        definition = self.definition
        choices = [
            Choice("input.side", definition.sides),
            _kinds("stem.kind", STEMS, definition.stems),
            Choice("head_width", definition.head_widths),
        ]
        for number, stage in enumerate(definition.stages, start=1):
            name = f"S{number}"
            choices += [Choice(f"{name}.width", stage.widths), Choice(f"{name}.depth", stage.depths)]
            choices += [_kinds(f"{name}.{parity}", MIXERS, stage.mixers) for parity in PARITIES]
            choices += [
                _kinds(f"{name}.position", POSITIONS, POSITIONS),
                _kinds(f"{name}.ffn", FEED_FORWARDS, definition.ffns),
                Choice(f"{name}.ratio", stage.ratios),
            ]
            choices += [_kinds(f"{name}.entry", ENTRIES, definition.entries)] * (number > 1)
        return tuple(choices)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Stem, stages behind an entry but for the first, head; a layer is a mixer and a feed-forward network."""
        slots = [Slot("stem", ("input.side", "stem.kind", "S1.width"))]
        for number, stage in enumerate(self.definition.stages, start=1):
            name = f"S{number}"
            width, repeats = f"{name}.width", f"{name}.depth"
            if number > 1:
                slots.append(Slot(f"{name}.entry", ("input.side", f"S{number - 1}.width", width, f"{name}.entry")))
            fed = ("input.side", width, f"{name}.ffn", f"{name}.ratio")
            for layer in range(max(stage.depths)):
                mixed = ("input.side", "head_width", width, f"{name}.{PARITIES[layer % 2]}", f"{name}.position")
                for part, choices in (("mixer", mixed), ("ffn", fed)):
                    row = f"{name}.{part}"
                    slots.append(Slot(f"{row}.{layer}", choices, repeats, layer, layer + 1, row))
        return (*slots, Slot("head", ("input.side", f"S{len(self.definition.stages)}.width")))

    def block(self, slot: str, values: Mapping[str, int]) -> MixersBlock | None:
        """The block in ``slot``; ``values`` holds at least the slot's choices. None where nothing mixes tokens."""
        image = values["input.side"]
        if slot == "stem":
            kinds = (STEMS[values["stem.kind"]],)
            return Stem(image, values["S1.width"], self.definition.stem_stride, kinds)
        if slot == "head":
            last = len(self.definition.stages)
            return Head(self.stage_side(last, image), values[f"S{last}.width"], self.classes)
        name, part, *layer = slot.split(".")
        number = int(name[1:])
        side, width = self.stage_side(number, image), values[f"{name}.width"]
        if part == "entry":
            return Entry(2 * side, values[f"S{number - 1}.width"], width, (ENTRIES[values[slot]],))
        if part == "ffn":
            kind, _, share = FEED_FORWARDS[values[f"{name}.ffn"]].partition("repa")
            hidden = width * values[f"{name}.ratio"]
            active = -(-(100 - int(share or 0)) * hidden // 100)
            return FeedForward(side, width, hidden, active, (kind or "repa",))
        kind = MIXERS[values[f"{name}.{PARITIES[int(layer[0]) % 2]}"]]
        if kind == "none":
            return None
        head_width = width if kind in WITHOUT_HEADS else values["head_width"]
        split = _hilo_widths(width, head_width) if kind == "hilo" else (0, 0)
        turned = "hyena_back" if kind == "hyena" and int(layer[0]) % 2 else kind
        parts = (turned, *(("cpe",) if POSITIONS[values[f"{name}.position"]] == "cpe" else ()))
        return replace(self._mixer(number, side, width, head_width), parts=parts, split=split)

    def shared_blocks(self) -> Iterator[tuple[str, MixersBlock]]:
        """For each slot the union of what may stand in it, with every axis at its largest."""
        definition = self.definition
        values = {choice.name: max(choice.values) for choice in self.choices}
        head_width = min(definition.head_widths)
        for slot in self.slots:
            name, _, part = slot.name.partition(".")
            if not part:
                block = self.block(slot.name, values)
                assert block is not None
                yield slot.name, replace(block, kinds=definition.stems) if isinstance(block, Stem) else block
                continue
            number = int(name[1:])
            stage, side = definition.stages[number - 1], self.stage_side(number, values["input.side"])
            width = max(stage.widths)
            if part == "entry":
                yield slot.name, Entry(2 * side, values[f"S{number - 1}.width"], width, definition.entries)
            elif part.startswith("ffn"):
                hidden = width * max(stage.ratios)
                yield slot.name, FeedForward(side, width, hidden, hidden, ("plain", "dw", "repa"))
            else:
                kinds = tuple(kind for kind in stage.mixers if kind != "none")
                pairs = [(each, d) for each in stage.widths for d in definition.head_widths if each % d == 0]
                sizes = [_hilo_widths(*pair) if "hilo" in kinds else (0, 0) for pair in pairs]
                high, low = map(max, *sizes)
                mixer = self._mixer(number, side, width, head_width)
                yield slot.name, replace(mixer, parts=(*kinds, "cpe"), split=(high, low))

    def _mixer(self, number: int, side: int, width: int, head_width: int) -> Mixer:
        reduction = 2 ** (len(self.definition.stages) - number)
        return Mixer(side, width, head_width, (), reduction, self.definition.kernel, self.definition.least)

    def stage_side(self, number: int, image_side: int) -> int:
        """Side of the map of stage ``number``, counted from 1, for images of ``image_side`` pixels."""
        return image_side // self.definition.stem_stride >> number - 1

    def input_shape(self, values: Mapping[str, int]) -> Shape:
        """``(3, side, side)`` of the image that the network computes on."""
        return (3, values["input.side"], values["input.side"])

    # -- populations ---------------------------------------------------------------------------------------------

    def repair(self, genotypes: Genotypes) -> Genotypes:
        """Raise widths that fall; give heads a width that divides all; HiLo with one head is sra.

        A stage of one layer has no other mixer than that one, and one without any mixer no positions.
        """
        repaired: Genotypes = genotypes.copy()
        stages = [(f"S{number}", stage) for number, stage in enumerate(self.definition.stages, start=1)]
        floor_n = np.zeros(len(repaired), dtype=np.int64)
        head_width_n = self.values(repaired, "head_width")
        fits_n = np.ones(len(repaired), dtype=np.bool_)
        for name, stage in stages:
            widths, column = np.array(stage.widths), self.columns[f"{name}.width"]
            repaired[:, column] = np.maximum(repaired[:, column], np.searchsorted(widths, floor_n))
            floor_n = widths[repaired[:, column]]
            fits_n &= floor_n % head_width_n == 0
        repaired[~fits_n, self.columns["head_width"]] = 0
        head_width_n = self.values(repaired, "head_width")
        for name, stage in stages:
            even, odd = (repaired[:, self.columns[f"{name}.{parity}"]] for parity in PARITIES)  # views
            if "hilo" in stage.mixers:
                has_one_head_n = self.values(repaired, f"{name}.width") < 2 * head_width_n
                for mixer_n in (even, odd):
                    mixer_n[has_one_head_n & (mixer_n == stage.mixers.index("hilo"))] = stage.mixers.index("sra")
            alone_n = self.values(repaired, f"{name}.depth") == 1
            odd[alone_n] = even[alone_n]
            none = stage.mixers.index("none")
            repaired[(even == none) & (odd == none), self.columns[f"{name}.position"]] = 0
        return repaired

    def sample(self, count: int, generator: np.random.Generator) -> Genotypes:
        """Draw ``count`` genotypes ``[count, c]``: every choice uniformly, so that kinds are trained alike.

        Widths are drawn from those not below the last, and both mixers of a stage are one with probability one half.
        """
        genotypes = generator.integers(0, self.cardinalities, size=(count, len(self.choices))).astype(np.int8)
        floor_n = np.zeros(count, dtype=np.int64)
        for number, stage in enumerate(self.definition.stages, start=1):
            widths, column = np.array(stage.widths), self.columns[f"S{number}.width"]
            genotypes[:, column] = generator.integers(np.searchsorted(widths, floor_n), len(widths))
            floor_n = widths[genotypes[:, column]]
            even, odd = (self.columns[f"S{number}.{parity}"] for parity in PARITIES)
            genotypes[:, odd] = np.where(generator.random(count) < 0.5, genotypes[:, even], genotypes[:, odd])
        return self.repair(genotypes)

    # -- named networks ------------------------------------------------------------------------------------------

    @cached_property
    def named(self) -> Mapping[str, Architecture]:
        """Published networks, and those with one kind of mixer everywhere."""
        published = {name: self._network(network) for name, network in self.definition.named.items()}
        return {**published, **self.homogeneous}

    @cached_property
    def homogeneous(self) -> Mapping[str, Architecture]:
        """For each kind of mixer the network that has no other, where stages offer it, and else what stands for it."""
        base = self.definition.homogeneous
        networks = {}
        for kind in self._offered:
            candidates = (kind, *SUBSTITUTES.get(kind, ()))
            mixers = [next(each for each in candidates if each in stage.mixers) for stage in self.definition.stages]
            networks[kind] = self._network(replace(base, mixers=tuple((mixer, mixer) for mixer in mixers)))
        return networks

    @cached_property
    def nucleus(self) -> Mapping[str, int]:
        """All but the mixers as in the networks of one kind, whose windows overlap: patches learn far more slowly."""
        (indices,) = self.encode([self.homogeneous[self._offered[0]]]).tolist()
        return {
            choice.name: index
            for choice, index in zip(self.choices, indices, strict=True)
            if choice.name.rpartition(".")[2] not in PARITIES
        }

    def _network(self, network: Network) -> Architecture:
        values: dict[str, int | str] = {
            "input.side": self.image_side,
            "stem.kind": network.stem,
            "head_width": network.head_width,
        }
        stages = zip(network.widths, network.depths, network.mixers, network.ratios, strict=True)
        for number, (width, depth, mixers, ratio) in enumerate(stages, start=1):
            name = f"S{number}"
            position = "none" if set(mixers) == {"none"} else network.position
            values |= {f"{name}.width": width, f"{name}.depth": depth, f"{name}.ratio": ratio}
            values |= {f"{name}.{parity}": mixer for parity, mixer in zip(PARITIES, mixers, strict=True)}
            values |= {f"{name}.position": position, f"{name}.ffn": network.ffn}
            values |= {f"{name}.entry": network.entry} if number > 1 else {}
        return self.from_values(values)


def _hilo_widths(width: int, head_width: int) -> tuple[int, int]:
    """Channels of HiLo's high and of its low heads; none where there is one head."""
    heads = width // head_width
    low = low_heads(heads) if heads > 1 else 0
    return ((heads - low) * head_width, low * head_width) if low else (0, 0)
