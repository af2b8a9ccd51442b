"""The AutoFormer family of spaces: `autoformer-tiny`, `-small`, `-base`, `-mini`, and `prenas-tiny`, `-small`, `-base`.

Sources: Chen et al., "AutoFormer", ICCV 2021, arXiv 2107.00651; Wang et al., "PreNAS", ICML 2023, arXiv 2304.14636. A
plain vision transformer of one width; heads and feed-forward ratio are chosen block by block, and a network of depth n
has the first n blocks of the supernet. PreNAS trained a supernet of the same shape on the networks of a list alone, so
its spaces hold no others.

Heads and ratio of a block that is not there stand at their smallest, so that equal networks are equal architectures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.autoformer_blocks import AutoformerBlock, AutoformerLayer, Head
from search_spaces.autoformer_definitions import HEAD_WIDTH, AutoformerDefinition
from search_spaces.errors import ArchitectureError
from search_spaces.graph import Shape
from search_spaces.resnas_blocks import PatchEmbed
from search_spaces.space import BlockSpec, Choice, Genotypes, SearchSpace, Slot


class AutoformerSpace(SearchSpace):
    """A space of the AutoFormer family.

    Args:
        definition: The space's candidate values.
        classes: Number of classes to tell apart; None takes the definition's.
    """

    def __init__(self, definition: AutoformerDefinition, classes: int | None = None) -> None:
        self.definition = definition
        self.name = definition.name
        self.description = definition.description
        self.image_side = definition.image_side
        self.classes = classes or definition.classes

    # -- choices -------------------------------------------------------------------------------------------------

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """Width and depth, then heads and feed-forward ratio of each block."""
        choices = [Choice("width", self.definition.widths), Choice("depth", self.definition.depths)]
        for number in range(self.definition.depths[-1]):
            choices.append(Choice(f"blocks.{number}.heads", self._candidates("heads", number)))
            choices.append(Choice(f"blocks.{number}.ratio", self._candidates("ratio", number)))
        return tuple(choices)

    def _candidates(self, part: str, number: int) -> tuple[int, ...]:
        """What a block may have of ``heads`` or ``ratio`` in networks of any width."""
        definition = self.definition
        if not definition.lists:
            return definition.heads if part == "heads" else definition.ratios
        return tuple(sorted({value for width in definition.widths for value in self._listed(width, part, number)}))

    def _listed(self, width: int, part: str, number: int) -> tuple[int, ...]:
        """What a block of networks of a width may have, after the list; nothing where those have no such block."""
        listed = self.definition.lists[width]
        blocks = listed.heads if part == "heads" else listed.ratios
        return blocks[number] if number < len(blocks) else ()

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Patch embedding, blocks, head."""
        blocks = []
        for number in range(self.definition.depths[-1]):
            may_miss = ("depth",) * (number >= self.definition.depths[0])
            blocks.append(
                Slot(f"blocks.{number}", ("width", f"blocks.{number}.heads", f"blocks.{number}.ratio", *may_miss))
            )
        return (Slot("patch", ("width",)), *blocks, Slot("head", ("width",)))

    def block(self, slot: str, values: Mapping[str, int]) -> AutoformerBlock | None:
        """The block in ``slot``; ``values`` holds at least the slot's choices. None for one beyond the depth."""
        definition, width = self.definition, values["width"]
        side = definition.image_side // definition.patch
        if slot == "patch":
            return PatchEmbed(definition.image_side, 3, width, definition.patch, class_tokens=1)
        if slot == "head":
            return Head(side, width, self.classes)
        number = int(slot.removeprefix("blocks."))
        if number >= values.get("depth", definition.depths[0]):
            return None
        return AutoformerLayer(
            side, width, values[f"{slot}.heads"], HEAD_WIDTH, hidden=width * values[f"{slot}.ratio"] // 10
        )

    def shared_blocks(self) -> Iterator[tuple[str, BlockSpec]]:
        """The blocks that hold the shared tensors: each as large as any network has it."""
        largest = tuple((choice.name, choice.values[-1]) for choice in self.choices)
        return self.blocks(Architecture(self.name, self.version, largest))

    def input_shape(self, values: Mapping[str, int]) -> Shape:
        """``(3, side, side)`` of the image that the network computes on."""
        return (3, self.image_side, self.image_side)

    # -- populations ---------------------------------------------------------------------------------------------

    def repair(self, genotypes: Genotypes) -> Genotypes:
        """Put what a block beyond the depth would have to its smallest."""
        repaired: Genotypes = genotypes.copy()
        depths = self.values(repaired, "depth")
        for number in range(self.definition.depths[0], self.definition.depths[-1]):
            for part in ("heads", "ratio"):
                repaired[depths <= number, self.columns[f"blocks.{number}.{part}"]] = 0
        return repaired

    def sample(self, count: int, generator: np.random.Generator) -> Genotypes:
        """Draw ``count`` genotypes ``[count, c]``: every choice uniformly, then made valid.

        This is the reference's distribution, so that shallow networks, of which there are fewer, are as likely as deep
        ones.
        """
        drawn = generator.integers(0, self.cardinalities, size=(count, len(self.choices)))
        return self.repair(drawn.astype(np.int8))

    # -- published networks --------------------------------------------------------------------------------------

    @cached_property
    def named(self) -> Mapping[str, Architecture]:
        """The published networks of this space."""
        smallest = dict(self.smallest.settings)
        return {name: self.from_values({**smallest, **values}) for name, values in self.definition.named.items()}

    def from_text(self, text: str) -> Architecture:
        """The architecture ``width;depth;heads;ratios``, heads and ratios of the blocks with blanks or commas between.

        Raises:
            ArchitectureError: It is of another form, or no network of the space.
        """
        parts = [part.replace(",", " ").split() for part in text.split(";")]
        try:
            (width,), (depth,), heads, ratios = parts
            values = {**dict(self.smallest.settings), "width": int(width), "depth": int(depth)}
            for number, (count, ratio) in enumerate(zip(heads, ratios, strict=True)):
                values[f"blocks.{number}.heads"] = int(count)
                values[f"blocks.{number}.ratio"] = round(10 * float(ratio))
            if len(heads) != int(depth):
                raise ValueError
        except (ValueError, OverflowError):
            raise ArchitectureError(
                f"space `{self.name}`: found `{text[:60]}`, expected `width;depth;heads;ratios` with heads and ratio of"
                f" each block, for example `{self._text(self.smallest)}`"
            ) from None
        return self.from_values(values)

    @staticmethod
    def _text(architecture: Architecture) -> str:
        """What `from_text` reads."""
        blocks = range(architecture["depth"])
        heads = " ".join(f"{architecture[f'blocks.{number}.heads']}" for number in blocks)
        ratios = " ".join(f"{architecture[f'blocks.{number}.ratio'] / 10:g}" for number in blocks)
        return f"{architecture['width']};{architecture['depth']};{heads};{ratios}"


class PrenasSpace(AutoformerSpace):
    """A space of the networks that PreNAS trained: what a network may be depends on its width."""

    def repair(self, genotypes: Genotypes) -> Genotypes:
        """Move every choice to the nearest value that the list has for the network's width."""
        repaired: Genotypes = genotypes.copy()
        for row, width in enumerate(self.definition.widths):
            is_of_width = repaired[:, self.columns["width"]] == row
            for choice in self.choices[1:]:
                column = self.columns[choice.name]
                repaired[is_of_width, column] = self._nearest(choice, width)[repaired[is_of_width, column]]
        return super().repair(repaired)

    def _nearest(self, choice: Choice, width: int) -> Genotypes:
        """For each value of a choice, the index of the nearest that networks of a width may have."""
        if choice.name == "depth":
            allowed = self.definition.lists[width].depths
        else:
            _, number, part = choice.name.split(".")
            allowed = self._listed(width, part, int(number)) or choice.values[:1]
        nearest = [min(allowed, key=lambda candidate: abs(candidate - value)) for value in choice.values]
        return np.array([choice.values.index(value) for value in nearest], dtype=np.int8)
