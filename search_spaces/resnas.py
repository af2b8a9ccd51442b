"""The ViT-ResNAS family of spaces: `resnas-tiny`, `resnas-small`, `resnas-mini` for 32-pixel images, and `resnas`.

Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", 2021, arXiv 2109.00642;
choices and published networks as in its reference implementation. Three stages of transformer layers, each with one
embedding width; heads and hidden channels are chosen layer by layer, and some layers may be missing. `resnas` holds
the hand-designed ViT-Res-Tiny and what is smaller, and knows the published networks of the other spaces by name.

A missing layer's heads and hidden channels stand at their smallest, so that architectures are equal exactly when they
are the same layers of the supernet. A layer that a search brings back therefore begins at its smallest; in the
reference it has what it had before. Published lists name the layers that are there and not which are missing; here the
last ones that may be missing are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.errors import ArchitectureError
from search_spaces.graph import Shape
from search_spaces.resnas_blocks import ConvStem, Head, PatchEmbed, Reduction, ResnasBlock, TransformerLayer
from search_spaces.resnas_definitions import Published, ResnasDefinition
from search_spaces.space import Choice, Genotypes, SearchSpace, Slot


class ResnasSpace(SearchSpace):
    """A space of the ViT-ResNAS family.

    Args:
        definition: The space's stages and candidate values.
        classes: Number of classes to tell apart; None takes the definition's.
        others: Further spaces of the family whose published networks can be named in this one.
        alone: Stochastic depth grows over the layers of this network; over those of the largest one where None.

    Raises:
        ArchitectureError: The image's side is no multiple of what the network reduces it by.
    """

    def __init__(
        self,
        definition: ResnasDefinition,
        classes: int | None = None,
        others: tuple[ResnasDefinition, ...] = (),
        alone: Architecture | None = None,
    ) -> None:
        self.definition = definition
        self.name = definition.name
        self.description = definition.description
        self.image_side = definition.image_side
        self.classes = classes or definition.classes
        self._others = others
        self._alone = alone
        reduced = definition.patch_pixels << len(definition.stages) - 1
        if definition.image_side % reduced:
            raise ArchitectureError(
                f"space `{self.name}`: found images of {definition.image_side} pixels, expected a multiple of {reduced}"
            )

    def variant(
        self,
        *,
        image_side: int | None = None,
        drop_path: float = 0.0,
        patch_classifier: bool = False,
        alone: Architecture | None = None,
    ) -> ResnasSpace:
        """The space with the same architectures, whose networks compute on other images or are trained otherwise.

        Args:
            image_side: Side of the image in pixels; the definition's where None.
            drop_path: Rate of stochastic depth of the last layer.
            patch_classifier: Whether training also classifies patches.
            alone: Stochastic depth grows over the layers of this network; over those of the largest one where None.

        Raises:
            ArchitectureError: The image's side is no multiple of what the network reduces it by.
        """
        definition = replace(
            self.definition,
            image_side=image_side or self.definition.image_side,
            drop_path=drop_path,
            patch_classifier=patch_classifier,
        )
        return ResnasSpace(definition, self.classes, self._others, alone)

    # -- choices -------------------------------------------------------------------------------------------------

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The stages' widths, then heads, hidden channels and presence of each layer."""
        stages = list(enumerate(self.definition.stages, start=1))
        choices = [Choice(f"stage{number}.width", stage.widths) for number, stage in stages]
        for number, stage in stages:
            for layer, may_miss in enumerate(stage.may_miss):
                name = f"stage{number}.{layer}"
                choices += [Choice(f"{name}.heads", stage.heads), Choice(f"{name}.hidden", stage.hidden)]
                choices += [Choice(f"{name}.present", (0, 1))] * may_miss
        return tuple(choices)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Stem, patch embedding, stages with a reduction in front of the second and third, head."""
        slots = [Slot("stem", ())] * (self.definition.stem_width > 0) + [Slot("patch", ("stage1.width",))]
        for number, stage in enumerate(self.definition.stages, start=1):
            width = f"stage{number}.width"
            if number > 1:
                slots.append(Slot(f"reduce{number}", (f"stage{number - 1}.width", width)))
            for layer, may_miss in enumerate(stage.may_miss):
                name = f"stage{number}.{layer}"
                present = (f"{name}.present",) * may_miss
                slots.append(Slot(name, (width, f"{name}.heads", f"{name}.hidden", *present)))
        return (*slots, Slot("head", (f"stage{len(self.definition.stages)}.width",)))

    def block(self, slot: str, values: Mapping[str, int]) -> ResnasBlock | None:
        """The block in ``slot``; ``values`` holds at least the slot's choices. None for a layer that is missing."""
        definition, tokens = self.definition, self.definition.class_tokens
        stem_width, last = definition.stem_width, len(definition.stages)
        if slot == "stem":
            return ConvStem(definition.image_side, stem_width)
        if slot == "patch":
            side = self.stage_side(1) * definition.patch
            return PatchEmbed(side, stem_width or 3, values["stage1.width"], definition.patch, tokens)
        if slot == "head":
            width, side = values[f"stage{last}.width"], self.stage_side(last)
            return Head(side, width, self.classes, tokens, definition.patch_classifier)
        if slot.startswith("reduce"):
            number = int(slot.removeprefix("reduce"))
            in_width, width = values[f"stage{number - 1}.width"], values[f"stage{number}.width"]
            return Reduction(self.stage_side(number - 1), in_width, width, tokens)
        if not values.get(f"{slot}.present", 1):
            return None
        stage, _, _ = slot.partition(".")
        number = int(stage.removeprefix("stage"))
        return TransformerLayer(
            side=self.stage_side(number),
            width=values[f"{stage}.width"],
            heads=values[f"{slot}.heads"],
            head_width=definition.stages[number - 1].head_width,
            hidden=values[f"{slot}.hidden"],
            class_tokens=tokens,
            drop_path=self._drop_paths.get(slot, 0.0),
        )

    def stage_side(self, number: int) -> int:
        """Side of the map of patches in stage ``number``, counted from 1."""
        return self.definition.image_side // self.definition.patch_pixels >> number - 1

    @cached_property
    def _drop_paths(self) -> Mapping[str, float]:
        """Stochastic depth of each layer by slot."""
        there = {} if self._alone is None else dict(self._alone.settings)
        layers = [
            name
            for number, stage in enumerate(self.definition.stages, start=1)
            for name in (f"stage{number}.{layer}" for layer in range(len(stage.may_miss)))
            if there.get(f"{name}.present", 1)
        ]
        return dict(zip(layers, np.linspace(0, self.definition.drop_path, len(layers)).tolist(), strict=True))

    def input_shape(self, values: Mapping[str, int]) -> Shape:
        """``(3, side, side)`` of the image that the network computes on."""
        return (3, self.image_side, self.image_side)

    # -- populations ---------------------------------------------------------------------------------------------

    def repair(self, genotypes: Genotypes) -> Genotypes:
        """Put what a missing layer would have to its smallest.

        A layer that may be missing is so, too, directly behind a missing one; in the spaces of this module no two such
        layers are neighbours.
        """
        repaired: Genotypes = genotypes.copy()
        for number, stage in enumerate(self.definition.stages, start=1):
            there_n = np.ones(len(genotypes), dtype=np.int8)
            for layer, may_miss in enumerate(stage.may_miss):
                if not may_miss:
                    there_n = np.ones(len(genotypes), dtype=np.int8)
                    continue
                columns = [self.columns[f"stage{number}.{layer}.{part}"] for part in ("heads", "hidden", "present")]
                there_n = there_n & repaired[:, columns[-1]]
                repaired[:, columns] *= there_n[:, None]
        return repaired

    def sample(self, count: int, generator: np.random.Generator) -> Genotypes:
        """Draw ``count`` genotypes ``[count, c]``: every choice uniformly, so that a layer is missing half of the time.

        This is the reference's distribution; it is not uniform over the architectures, most of which have all layers.
        """
        drawn = generator.integers(0, self.cardinalities, size=(count, len(self.choices)))
        return self.repair(drawn.astype(np.int8))

    # -- published networks --------------------------------------------------------------------------------------

    @cached_property
    def named(self) -> Mapping[str, Architecture]:
        """The published networks of this space."""
        return {name: self._published(network) for name, network in self.definition.named.items()}

    @cached_property
    def related(self) -> Mapping[str, Architecture]:
        """The published networks of other spaces of the family."""
        spaces = [ResnasSpace(definition, self.classes) for definition in self._others]
        return {name: architecture for space in spaces for name, architecture in space.named.items()}

    def _published(self, network: Published) -> Architecture:
        values = dict(self.smallest.settings)
        for number, (stage, width, layers) in enumerate(
            zip(self.definition.stages, network.widths, network.layers, strict=True), start=1
        ):
            optional = [layer for layer, may_miss in enumerate(stage.may_miss) if may_miss]
            missing = optional[len(optional) - (len(stage.may_miss) - len(layers)) :]
            there = [layer for layer in range(len(stage.may_miss)) if layer not in missing]
            values[f"stage{number}.width"] = width
            values |= {f"stage{number}.{layer}.present": layer not in missing for layer in optional}
            for layer, (heads, hidden) in zip(there, layers, strict=True):
                values |= {f"stage{number}.{layer}.heads": heads, f"stage{number}.{layer}.hidden": hidden}
        return self.from_values({name: int(value) for name, value in values.items()})
