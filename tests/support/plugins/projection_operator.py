"""The small space with an operator choice, with one operator more: a projection, whose tensor others have too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor, nn

from search_spaces import SOURCE, BlockSpec, Choice, Op, OpList
from tests.support.mixing_space import AXES, CODES, KINDS, MODULES, PARITIES, SIDE, Mixer, MixingSpace

CODE = 9


@dataclass(frozen=True)
class Projection:
    width: int

    def ops(self) -> tuple[Op, ...]:
        ops = OpList((self.width, SIDE // 2, SIDE // 2))
        ops.add("sum", SOURCE, ops.conv("project", SOURCE, self.width))
        return ops.ops


class ProjectionModule(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        output: Tensor = x_BCHW + self.project(x_BCHW)
        return output


MODULES["Projection"] = ProjectionModule
AXES["Projection"] = {"project.weight": "embed embed . ."}


class MoreMixingSpace(MixingSpace):
    name = "more-mixing"

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        *sizes, even, odd = super().choices
        values, labels = (*CODES, CODE), (*KINDS, "projection")
        return (*sizes, replace(even, values=values, labels=labels), replace(odd, values=values, labels=labels))

    def block(self, slot: str, values: Mapping[str, int]) -> BlockSpec:
        if slot.startswith("body") and values[PARITIES[int(slot[-1]) % 2]] == CODE:
            return Projection(values["width"])
        return super().block(slot, values)

    def shared_blocks(self) -> Iterator[tuple[str, BlockSpec]]:
        for name, spec in self.blocks(self.largest):
            yield name, Mixer(16, 32, KINDS) if isinstance(spec, Projection) else spec
