"""A timm model as a chain of parts: a stem, blocks, steps between stages, a head.

Every part is a module of one tensor to one tensor. Blocks are timm's own objects. Stem and head are shells: the model
object itself without the children that other parts hold, running the model's own code, so that nothing of a forward
pass is written again here.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn

from supernets.networks.timm_subnet import OLDEST_TIMM
from supernets.timm_models.tables import HEAD_WIDTH, AxesTable

Forward = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Elastic:
    """How one axis can be searched.

    Attributes:
        choice: Name of the choice; parts that name the same one change together.
        values: Candidate sizes in ascending order; the last one is the model's own.
    """

    choice: str
    values: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a model.

    Attributes:
        name: In the chain, and for blocks in the model.
        table: Module of the part and the axes of its tensors.
        elastic: What can be searched, by axis.
        flow: Axis description of the tensor that flows in, batch dimension left out.
        removable: Name of the depth choice that may leave the part out; empty where none may.
        merges: How many times tokens are merged in front of the part, where they are.
        own_path: Path of the part's tensors in the model; empty for shells, whose tensors have the model's own names.
        notes: What is not elastic about the model, in words.
    """

    name: str
    table: AxesTable
    elastic: Mapping[str, Elastic]
    flow: str
    removable: str = ""
    own_path: str = ""
    merges: int = 0
    notes: tuple[str, ...] = ()


class Adapter(ABC):
    """What is known about one family of timm models."""

    family: str
    """Name of the family."""
    model_class: str
    """The class of timm, by its full name, whose models are of the family."""
    any_side = False
    """Whether the model can be made for images of other sides with the same weights but for resized positions."""
    oldest_timm = OLDEST_TIMM
    """The oldest release of timm in which networks of the family compute the same."""

    def claims(self, model: nn.Module) -> bool:
        """Whether the model is of the family."""
        return any(f"{base.__module__}.{base.__qualname__}" == self.model_class for base in type(model).__mro__)

    @abstractmethod
    def parts(self, model: Any) -> list[Part]:
        """The chain of a model; it takes the model apart, whose own forward is of no use afterwards.

        Raises:
            NotElastic: Something in the model has no named axes; the message says what.
        """


def shell(model: nn.Module, keep: Iterable[str], forward: Forward, **in_place_of: nn.Module) -> nn.Module:
    """The model object with some children and parameters only, and another forward.

    Args:
        model: The model.
        keep: Names of its children and parameters to keep; the others become None or an identity.
        forward: Runs the model's own code on what is left.
        in_place_of: Modules to put in place of children.
    """
    kept = set(keep)
    part = copy.copy(model)
    part._modules = {
        name: child if name in kept or child is None else in_place_of.get(name, nn.Identity())
        for name, child in model._modules.items()
    }
    part._parameters = {name: tensor if name in kept else None for name, tensor in model._parameters.items()}
    part._buffers = {name: tensor if name in kept else None for name, tensor in model._buffers.items()}
    part.__class__ = _shell_class(type(model), forward)  # type: ignore[arg-type]
    return part


@cache
def _shell_class(base: type[nn.Module], forward: Forward) -> type[nn.Module]:
    return type(f"{base.__name__}{forward.__name__.strip('_').title().replace('_', '')}", (base,), {"forward": forward})


def width_values(full: int, step: int, finest: int = 8) -> tuple[int, ...]:
    """Up to six widths from half of ``full`` on, multiples of ``step``, or of a half or quarter of it if few are.

    Args:
        full: The model's width.
        step: What the widths should be multiples of, usually the width of a head.
        finest: Smallest step to fall back to; ``step`` itself allows no other.
    """
    shares = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    while True:
        values = tuple(sorted({min(full, max(step, round(full * share / step) * step)) for share in shares}))
        if len(values) >= 4 or step // 2 < finest or full % (step // 2):
            return values if values[-1] == full else (*values, full)
        step //= 2


def count_values(full: int) -> tuple[int, ...]:
    """Up to four numbers of heads, from a quarter of them to all."""
    return tuple(sorted({max(1, -(-full * share // 4)) for share in (1, 2, 3, 4)}))


def hidden_values(full: int) -> tuple[int, ...]:
    """Up to four numbers of hidden units, from a quarter of them to all, multiples of 8 but for the last."""
    values = {max(8, full * share // 4 // 8 * 8) for share in (1, 2, 3)}
    return (*sorted(value for value in values if value < full), full)


def rank_values(full: int) -> tuple[int, ...]:
    """Up to four widths of the heads, from a quarter of their own on, multiples of 8, or of 4 where they are narrow."""
    step = 8 if full > 32 else 4
    return (*sorted({max(step, full * share // 4 // step * step) for share in (1, 2, 3)} - {full}), full)


def narrow_heads(name: str, table: AxesTable) -> dict[str, Elastic]:
    """The width of a block's heads, where it can be searched."""
    if not table.narrow_heads or len(values := rank_values(table.sizes[HEAD_WIDTH])) < 2:
        return {}
    return {HEAD_WIDTH: Elastic(f"{name}.rank", values)}


def depth_values(full: int) -> tuple[int, ...]:
    """Up to six depths, from half of the blocks to all."""
    half = (full + 1) // 2
    return tuple(sorted({round(half + (full - half) * step / 5) for step in range(6)}))
