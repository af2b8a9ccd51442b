"""The linear layers of a part that read something which networks narrow, in the order in which they run.

A *branch* is an attention or a feed-forward network: *readers* project what comes in, a *writer* projects what goes
back to the residual stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from supernets.axes import parse_axes

READERS = ("qkv", "q_proj", "k_proj", "v_proj", "gate", "q", "k", "v", "kv", "fc1", "fc1_g", "fc1_x", "w0", "w1")
WRITERS = ("proj", "fc2", "w2")
BEHIND_NORMS = ("Block", "RelPosBlock", "LayerScaleBlock", "SwinTransformerBlock", "EvaBlock")
"""Blocks of timm that add ``scale * branch(norm(x))`` to x, first of ``attn``, then of ``mlp``."""
FUSED = "qkv"
"""A projection that some layers of timm apply without calling it; all apply it to what comes in."""


@dataclass(frozen=True)
class Reading:
    """One linear layer of a part.

    Attributes:
        path: Path in the part.
        watched: Path of the module whose input is the layer's.
        rows: Axes of its outputs.
        columns: Axes of its inputs.
        branch: Path of the branch; empty for a layer outside of any.
        writes: Whether it is the writer of the branch.
    """

    path: str
    watched: str
    rows: str
    columns: str
    branch: str = ""
    writes: bool = False

    @property
    def ends_its_branch(self) -> bool:
        """Whether nothing of the branch runs behind it, as in attentions and feed-forward networks of blocks."""
        return self.writes and self.branch.rpartition(".")[2] in ("attn", "mlp")


def readings(part: nn.Module, axes: Mapping[str, str], x: Tensor) -> list[list[Reading]]:
    """The layers of a part that can be solved anew, those that read the same together, in the order of running.

    Args:
        part: Part of the whole network.
        axes: Axis description of its tensors.
        x: Something that may flow in.
    """
    found = [reading for path, layer in part.named_modules() for reading in _reading(part, path, layer, axes)]
    watched = list(dict.fromkeys(reading.watched for reading in found))
    order = {path: number for number, path in enumerate(seen_inputs(part, watched, x))}
    groups: dict[str, list[Reading]] = {}
    for reading in found:
        if reading.watched in order:
            together = f"{reading.branch} readers" if reading.branch and not reading.writes else reading.path
            groups.setdefault(together, []).append(reading)
    return sorted(groups.values(), key=lambda group: min(order[reading.watched] for reading in group))


def _reading(part: nn.Module, path: str, layer: nn.Module, axes: Mapping[str, str]) -> Iterator[Reading]:
    if not isinstance(layer, nn.Linear) or f"{path}.weight" not in axes:
        return
    rows, columns = re.findall(r"\([^)]*\)|\S+", axes[f"{path}.weight"])
    row_names, column_names = ({axis.name for axis in parse_axes(words)[0]} - {""} for words in (rows, columns))
    if not column_names or row_names & column_names:  # reads what never changes, or mixes heads
        return
    owner, _, leaf = path.rpartition(".")
    in_branch = (
        bool(owner)
        and leaf in READERS + WRITERS
        and any(part.get_submodule(owner)._modules.get(name) is not None for name in WRITERS)
    )
    yield Reading(
        path, owner if leaf == FUSED else path, rows, columns, owner if in_branch else "", in_branch and leaf in WRITERS
    )


class _Seen(Exception):
    """Everything that is watched has been seen."""


def seen_inputs(part: nn.Module, paths: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """What flows into modules of a part, in the order of running; nothing is run behind the last of them."""
    seen: dict[str, Tensor] = {}

    def watch(path: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.setdefault(path, inputs[0])
            if len(seen) == len(paths):
                raise _Seen

        return hook

    handles = [part.get_submodule(path).register_forward_pre_hook(watch(path)) for path in paths]
    try:
        part(x)
    except _Seen:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen


def in_front_of_attention(block: nn.Module, x: Tensor) -> Tensor:
    """What is on the residual stream as its attention sees it: in windows and shifted, where it looks at windows."""
    norm = block._modules["norm1"]
    block._modules["norm1"] = nn.Identity()
    try:
        return seen_inputs(block, ("attn",), x)["attn"]
    finally:
        block._modules["norm1"] = norm


@contextmanager
def replayed(part: nn.Module, inputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Branches that run no further back than their writers, on inputs that are known.

    Args:
        part: The part.
        inputs: What flows into writers, by their path.
    """
    branches = []
    for path, x in inputs.items():
        branch, writer = part.get_submodule(path.rpartition(".")[0]), part.get_submodule(path)
        branch.forward = lambda *_, writer=writer, x=x, **__: writer(x)
        branches.append(branch)
    try:
        yield
    finally:
        for branch in branches:
            del branch.forward
