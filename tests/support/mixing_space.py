"""A small space with an operator choice: a slot whose blocks pool, convolve or gate, with tensors of their own.

Codes have gaps, and even and odd blocks share a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import SOURCE, BlockSpec, Choice, Op, OpList, SearchSpace, Slot
from search_spaces.graph import Shape
from search_spaces.space import Genotypes
from supernets import NetworkFamily, register_family

SIDE, CLASSES = 8, 4
KINDS = ("pool", "conv", "gate")
CODES = (0, 3, 7)
PARITIES = ("even", "odd")


@dataclass(frozen=True)
class Stem:
    """A convolution that halves the side."""

    width: int

    def ops(self) -> tuple[Op, ...]:
        ops = OpList((3, SIDE, SIDE))
        ops.conv("conv", SOURCE, self.width, kernel=3, stride=2)
        return ops.ops


@dataclass(frozen=True)
class Mixer:
    """A residual block of one kind; of all kinds it is the union, which no network has.

    A convolution shares its projection with a gate; ``taps`` and ``hidden`` are of one kind alone.
    """

    width: int
    hidden: int
    kinds: tuple[str, ...]

    def ops(self) -> tuple[Op, ...]:
        (kind,) = self.kinds
        shape = (self.width, SIDE // 2, SIDE // 2)
        ops = OpList(shape)
        if kind == "pool":
            mixed = ops.append("pool", "pool", [SOURCE], shape, function="average", kernel=3)
        elif kind == "conv":
            depthwise = ops.depthwise_conv("depthwise", SOURCE, kernel=3)
            mixed = ops.conv("project", depthwise, self.width)
        else:
            hidden = ops.activation("relu", ops.conv("expand", SOURCE, self.hidden), "relu")
            mixed = ops.conv("project", ops.conv("reduce", hidden, self.width), self.width)
        ops.add("sum", SOURCE, mixed)
        return ops.ops


@dataclass(frozen=True)
class Head:
    """The mean over the map, then a linear layer."""

    width: int
    classes: int

    def ops(self) -> tuple[Op, ...]:
        ops = OpList((self.width, SIDE // 2, SIDE // 2))
        pooled = ops.append("pool", "pool", [SOURCE], (self.width,), function="global", kernel=SIDE // 2)
        ops.linear("classifier", pooled, self.classes)
        return ops.ops


class MixingSpace(SearchSpace):
    """Kinds may differ in even and odd blocks; a gate needs 12 channels, with fewer `repair` makes it a convolution.

    Choices that a network does not use are at their first value.
    """

    name = "mixing"
    image_side = SIDE

    def __init__(self, classes: int | None = None) -> None:
        self.classes = classes or CLASSES

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        return (
            Choice("width", (8, 12, 16)),
            Choice("depth", (1, 2, 3)),
            Choice("ratio", (1, 2)),
            Choice("even", CODES, KINDS),
            Choice("odd", CODES, KINDS),
        )

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        rows = [
            Slot(f"body.{number}", ("width", "ratio", PARITIES[number % 2]), "depth", number, number + 1, row="body")
            for number in range(3)
        ]
        return (Slot("stem", ("width",)), *rows, Slot("head", ("width",)))

    def block(self, slot: str, values: Mapping[str, int]) -> BlockSpec:
        width = values["width"]
        if slot in ("stem", "head"):
            return Stem(width) if slot == "stem" else Head(width, self.classes)
        kind = KINDS[CODES.index(values[PARITIES[int(slot[-1]) % 2]])]
        return Mixer(width, values["ratio"] * width if kind == "gate" else 0, (kind,))

    def shared_blocks(self) -> Iterator[tuple[str, BlockSpec]]:
        for name, spec in self.blocks(self.largest):
            yield name, Mixer(16, 32, KINDS) if isinstance(spec, Mixer) else spec

    def repair(self, genotypes: Genotypes) -> Genotypes:
        repaired = genotypes.copy()
        narrow = self.values(repaired, "width") < 12
        for parity in PARITIES:
            column = self.columns[parity]
            is_gate = self.values(repaired, parity) == CODES[KINDS.index("gate")]
            repaired[narrow & is_gate, column] = KINDS.index("conv")
        repaired[self.values(repaired, "depth") == 1, self.columns["odd"]] = 0  # there is no odd block
        gates = [self.values(repaired, parity) == CODES[KINDS.index("gate")] for parity in PARITIES]
        repaired[~np.any(gates, axis=0), self.columns["ratio"]] = 0  # which a gate alone has
        return repaired

    def input_shape(self, values: Mapping[str, int]) -> Shape:
        return (3, SIDE, SIDE)


class StemModule(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 2, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        output: Tensor = self.conv(x_BCHW)
        return output


class MixerModule(nn.Module):
    def __init__(self, width: int, hidden: int, kinds: tuple[str, ...]) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        if "conv" in kinds:
            self.depthwise = nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False)
        if "gate" in kinds:
            self.expand = nn.Conv2d(width, hidden, 1, bias=False)
            self.reduce = nn.Conv2d(hidden, width, 1, bias=False)
        if "conv" in kinds or "gate" in kinds:
            self.project = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        (kind,) = self.kinds  # a union is never run
        if kind == "pool":
            return x_BCHW + F.avg_pool2d(x_BCHW, 3, 1, 1)
        mixed = self.depthwise(x_BCHW) if kind == "conv" else self.reduce(self.expand(x_BCHW).relu())
        output: Tensor = x_BCHW + self.project(mixed)
        return output


class HeadModule(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        output: Tensor = self.classifier(x_BCHW.mean(dim=(2, 3)))
        return output


MODULES: dict[str, type[nn.Module]] = {"Stem": StemModule, "Mixer": MixerModule, "Head": HeadModule}


class MixingNetwork(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.input_side = config["input_side"]
        self.block_names = [block["name"] for block in config["blocks"]]
        for block in config["blocks"]:
            sizes = {name: value for name, value in block.items() if name not in ("name", "kind")}
            _place(self, block["name"], MODULES[block["kind"]](**sizes))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        for name in self.block_names:
            x_BCHW = self.get_submodule(name)(x_BCHW)
        return x_BCHW


def _place(parent: nn.Module, name: str, module: nn.Module) -> None:
    row, _, number = name.partition(".")
    if not number:
        parent.add_module(name, module)
        return
    if row not in dict(parent.named_children()):
        parent.add_module(row, nn.Module())
    parent.get_submodule(row).add_module(number, module)


class MixingFamily(NetworkFamily):
    source_file = __file__
    class_name = "MixingNetwork"

    def build_block(self, spec: Any) -> nn.Module:
        return MODULES[type(spec).__name__](**asdict(spec))

    def build_network(self, config: Mapping[str, Any]) -> nn.Module:
        return MixingNetwork(config)

    def axes(self, spec: Any) -> Mapping[str, str]:
        return AXES[type(spec).__name__]

    def sizes(self, spec: Any) -> Mapping[str, int]:
        return {"embed": spec.width, **({"hidden": spec.hidden} if isinstance(spec, Mixer) else {})}

    def prepare(self, x_BCHW: Any, input_side: int) -> Any:
        return x_BCHW


AXES: dict[str, Mapping[str, str]] = {
    "Stem": {"conv.weight": "embed . . ."},
    "Mixer": {
        "depthwise.weight": "embed . . .",
        "expand.weight": "hidden embed . .",
        "reduce.weight": "embed hidden . .",
        "project.weight": "embed embed . .",
    },
    "Head": {"classifier.weight": ". embed", "classifier.bias": "."},
}
register_family(MixingSpace, MixingFamily())
