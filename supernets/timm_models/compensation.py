"""Networks cut out of a trained one, put right without training: what was cut is made up for by what is left.

Every linear layer that reads something narrower is solved anew by ridge regression on some hundred images, without
labels and without gradients, see `supernets.least_squares`. Two variants:

- ``sequential``: layer by layer, from what the sliced network really feeds it to what the whole network had there. What
  a branch adds to the residual stream also makes up for blocks that are left out behind it.
- ``prefix``: hidden units and heads that are cut are predicted from those that are left, as they are in the whole
  network; the prediction is folded into the layer that reads them. Statistics are taken once for all networks.

Related: Nova et al., "Gradient-Free Structured Pruning with Unlabeled Data", ICML 2023, arXiv 2303.04185; Frantar and
Alistarh, "SparseGPT", ICML 2023, arXiv 2301.00774, whose layers are solved one by one as well.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, M drawn rows (tokens), I inputs, O outputs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Architecture
from search_spaces.timm_models import PATCH, SIDE, TOKENS, TimmBlock, TimmSpace
from supernets.errors import DataError
from supernets.least_squares import ALPHA, DegenerateError, ridge_change
from supernets.narrowing import make_narrowing
from supernets.supernet import Supernet
from supernets.timm_models.branches import (
    BEHIND_NORMS,
    FUSED,
    Reading,
    in_front_of_attention,
    replayed,
    seen_inputs,
)
from supernets.timm_models.calibration_rows import CalibrationRows, are_enough
from supernets.timm_models.prefix import Predictions

SEQUENTIAL, PREFIX, NONE = "sequential", "prefix", "none"
VARIANTS = (SEQUENTIAL, PREFIX, NONE)
FAMILIES = (
    "vision_transformer",
    "eva",
    "beit",
    "cait",
    "vision_transformer_relpos",
    "swin_transformer",
    "swin_transformer_v2",
)
"""Families of timm models whose layers are solved; those of others are left as they are."""
IMAGES, LEAST_IMAGES = 512, 32
REMEMBERED_BYTES = 1 << 30
"""What flows behind the first blocks of networks is kept up to this size."""
REPLAYED_BYTES = 1 << 28
"""What flows into a writer is kept up to this size, and computed twice above."""
SCALES = {"attn": ("ls1.gamma", "gamma_1"), "mlp": ("ls2.gamma", "gamma_2")}
"""Branches of blocks behind norms, and what the block may scale them by."""


@dataclass
class _Whole:
    """What the whole network has at drawn rows.

    Attributes:
        inputs: Inputs ``(M, I)`` of layers, by part and path.
        middle: The residual stream ``(M, O)`` behind the attention of a block, in the order of that attention.
        entering: What flows into a part, ``(M, O)``.
        ends: The layers whose outputs are what flows out of their part.
    """

    inputs: dict[tuple[str, str], list[Tensor]] = field(default_factory=dict)
    middle: dict[str, list[Tensor]] = field(default_factory=dict)
    entering: dict[str, list[Tensor]] = field(default_factory=dict)
    ends: set[tuple[str, str]] = field(default_factory=set)


@dataclass(frozen=True)
class _State:
    """A network up to some part: the tensors of its parts so far, and what flows out of the last one."""

    weights: tuple[Mapping[str, Tensor], ...]
    flow: list[Tensor]

    @cached_property
    def bytes(self) -> int:
        """Memory of what flows."""
        return sum(map(_bytes, self.flow))


class Compensator:
    """Makes the networks of a timm model's supernet, compensated; those that merge tokens are solved without merging.

    Args:
        supernet: Trained weights, whose largest network is what all others are to be like.
        images_BCHW: Normalised images.
        variant: One of `VARIANTS`.
        alpha: Damping, see `supernets.least_squares`.

    Raises:
        DataError: There are fewer than 32 images.
        ValueError: There is no such variant.
    """

    def __init__(
        self, supernet: Supernet, images_BCHW: Tensor, variant: str = SEQUENTIAL, alpha: float = ALPHA
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"compensation `{variant}`: expected one of {', '.join(VARIANTS)}")
        if len(images_BCHW) < LEAST_IMAGES and variant != NONE:
            raise DataError(
                f"compensation on {len(images_BCHW)} images, expected {LEAST_IMAGES} or more",
                hint="give more training images, or leave it out with `--set compensation=none`",
            )
        space = supernet.space.base
        is_known = isinstance(space, TimmSpace) and space.outline.family in FAMILIES
        self.variant, self.alpha, self.images = variant if is_known else NONE, alpha, len(images_BCHW)
        self._supernet = supernet.eval()
        self._rows = CalibrationRows(self._supernet, images_BCHW)
        self._wholes: dict[Architecture, _Whole] = {}
        self._states: OrderedDict[tuple[object, ...], _State] = OrderedDict()
        self._predictions = Predictions(self._supernet, self._rows, alpha)

    @torch.no_grad()
    def __call__(self, architecture: Architecture) -> nn.Module:
        """The network as an ordinary module of its own, compensated, in evaluation mode.

        Raises:
            DegenerateError: Activations are not finite; the message names the block.
        """
        network = self._supernet.extract(architecture).eval()
        if self.variant == NONE or architecture == self._supernet.space.largest:
            return network
        if dict(architecture.settings).get(TOKENS):
            network.load_state_dict(self(replace(architecture, settings=_unmerged(architecture))).state_dict())
            return network
        if self.variant == PREFIX:
            self._predictions.fold_into(network, architecture)
        else:
            self._solve_in_order(network, architecture)
        return network

    # -- in order ------------------------------------------------------------------------------------------------

    def _solve_in_order(self, network: nn.Module, architecture: Architecture) -> None:
        side = dict(architecture.settings)[SIDE]
        uncut = self._uncut(architecture)
        whole = self._whole(uncut)
        blocks = list(self._supernet.space.blocks(architecture))
        following = [name for name, _ in blocks[1:]] + [""]
        keys = [(*blocks[: number + 1], following[number]) for number in range(len(blocks))]
        known = max((number for number, key in enumerate(keys) if key in self._states), default=-1)
        state = _State((), [self._supernet.family.prepare(x_BCHW, side) for x_BCHW in self._rows.images])
        if known >= 0:
            state = self._states[keys[known]]
            self._states.move_to_end(keys[known])
            for (name, _), weights in zip(blocks, state.weights, strict=False):
                network.get_submodule(name).load_state_dict(weights)
        all_blocks = dict(self._supernet.space.blocks(uncut))
        is_whole = [
            spec == all_blocks[name] and following[number] == _next(list(all_blocks), name)
            for number, (name, spec) in enumerate(blocks)
        ]
        for number in range(known + 1, len(blocks)):
            name, spec = blocks[number]
            assert isinstance(spec, TimmBlock)
            part = network.get_submodule(name)
            if all(is_whole[: number + 1]):
                flow = [part(x) for x in state.flow]
            else:
                flow = self._solve_part(part, name, spec, state.flow, whole, following[number])
            weights = {key: tensor.clone() for key, tensor in part.state_dict().items()}
            state = _State((*state.weights, weights), flow)
            self._remember(keys[number], state)

    def _solve_part(
        self, part: nn.Module, name: str, spec: TimmBlock, flow: list[Tensor], whole: _Whole, following: str
    ) -> list[Tensor]:
        known: dict[str, list[Tensor]] = {}
        for group in self._rows.layers(name, part, flow[0]):
            first = group[0]
            to_stream = _adds_to_stream(part, first)
            watched = list(dict.fromkeys(reading.watched for reading in group))
            if to_stream and first.branch == "mlp":
                watched.append("norm2")
            rows: dict[str, list[Tensor]] = {path: [] for path in watched}
            stream, kept = [], []
            for number, x in enumerate(flow):
                with replayed(part, {path: inputs[number] for path, inputs in known.items()}):
                    seen = seen_inputs(part, watched, x)
                for path in watched:
                    rows[path].append(self._rows.drawn(seen[path], number))
                if to_stream and first.branch == "attn":
                    stream.append(self._rows.drawn(in_front_of_attention(part, x), number))
                if first.ends_its_branch and len(flow) * _bytes(seen[first.watched]) <= REPLAYED_BYTES:
                    kept.append(seen[first.watched])
            for reading in group:
                a_MI = torch.cat(rows[reading.watched])
                if not reading.branch and not are_enough(a_MI):
                    continue  # a classifier sees one row of an image, and would learn these images by heart
                is_end = (name, reading.path) in whole.ends and following
                if to_stream or is_end:
                    width = part.get_submodule(reading.path).get_parameter("weight").shape[0]
                    target = whole.middle[name] if reading.branch == "attn" else whole.entering[following]
                    wanted_MO = torch.cat(target)[:, :width]
                    if to_stream:
                        wanted_MO = wanted_MO - torch.cat(stream or rows["norm2"])
                        wanted_MO = _unscaled(part, reading.branch, wanted_MO)
                else:
                    wanted_MO = self._whole_outputs(name, spec, reading, whole)
                self._solve(part, name, reading, a_MI, wanted_MO)
            if kept:
                known[first.path] = kept
        outputs = []
        for number, x in enumerate(flow):
            with replayed(part, {path: inputs[number] for path, inputs in known.items()}):
                outputs.append(part(x))
        return outputs

    def _solve(self, part: nn.Module, name: str, reading: Reading, a_MI: Tensor, wanted_MO: Tensor) -> None:
        """Give a layer the weights that bring it closest to what is wanted."""
        weight_OI = part.get_submodule(reading.path).get_parameter("weight")
        for rows, bias in _bias_rows(part, reading.path):
            error_MO = wanted_MO[:, rows] - a_MI @ weight_OI[rows].T
            if bias is not None:
                error_MO -= bias
            try:
                change_OI, change_O = ridge_change(a_MI, error_MO, self.alpha, intercept=bias is not None)
            except DegenerateError as error:
                raise DegenerateError(f"block `{name}`: {error}") from error
            weight_OI[rows] += change_OI.to(weight_OI)
            if bias is not None:
                bias += change_O.to(bias)

    def _whole_outputs(self, name: str, spec: TimmBlock, reading: Reading, whole: _Whole) -> Tensor:
        """The outputs of a layer in the whole network, those that the sliced one has."""
        part, family = self._supernet.network.get_submodule(name), self._supernet.family
        weight_OI = part.get_submodule(reading.path).get_parameter("weight")
        full, active = family.sizes(self._rows.full_block(name)), family.sizes(spec)
        wanted_MO = torch.cat(whole.inputs[name, reading.path]) @ weight_OI.T
        for rows, bias in _bias_rows(part, reading.path):
            if bias is not None:
                wanted_MO[:, rows] += bias
        narrowing = make_narrowing(f". {reading.rows}", tuple(wanted_MO.shape), full, active)
        return narrowing.narrow(wanted_MO)

    def _remember(self, key: tuple[object, ...], state: _State) -> None:
        self._states[key] = state
        while len(self._states) > 1 and sum(kept.bytes for kept in self._states.values()) > REMEMBERED_BYTES:
            self._states.popitem(last=False)

    # -- the whole network ---------------------------------------------------------------------------------------

    def _uncut(self, architecture: Architecture) -> Architecture:
        """The whole network on images and patches of an architecture."""
        seen = {name: value for name, value in architecture.settings if name in (SIDE, PATCH)}
        return replace(architecture, settings=tuple((dict(self._supernet.space.largest.settings) | seen).items()))

    def _whole(self, uncut: Architecture) -> _Whole:
        if uncut not in self._wholes:
            self._wholes[uncut] = self._run_whole(uncut)
        return self._wholes[uncut]

    def _run_whole(self, uncut: Architecture) -> _Whole:
        space, family, found = self._supernet.space, self._supernet.family, _Whole()
        network, side = self._supernet.network, dict(uncut.settings)[SIDE]
        if uncut != space.largest:
            network = self._supernet.extract(uncut).eval()
        for number, x_BCHW in enumerate(self._rows.images):
            x = family.prepare(x_BCHW, side)
            for name in self._rows.parts:
                x = self._run_whole_part(network.get_submodule(name), name, x, number, found)
        return found

    def _run_whole_part(self, part: nn.Module, name: str, x: Tensor, number: int, found: _Whole) -> Tensor:
        layers = [reading for group in self._rows.layers(name, part, x) for reading in group]
        is_residual = type(part).__name__ in BEHIND_NORMS
        seen: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        watched = {reading.watched for reading in layers if not _adds_to_stream(part, reading)}
        watched |= {"norm2"} if is_residual else set()

        def watch(path: str) -> Any:
            def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                seen[path], outputs[path] = inputs[0], output

            return hook

        handles = [part.get_submodule(path).register_forward_hook(watch(path)) for path in watched]
        try:
            output: Tensor = part(x)
        finally:
            for handle in handles:
                handle.remove()
        for reading in layers:
            if reading.watched in watched:
                found.inputs.setdefault((name, reading.path), []).append(
                    self._rows.drawn(seen[reading.watched], number)
                )
            if not reading.branch and outputs[reading.watched] is output:
                found.ends.add((name, reading.path))
        if is_residual:
            middle = in_front_of_attention(part, seen["norm2"].reshape(x.shape))
            found.middle.setdefault(name, []).append(self._rows.drawn(middle, number))
        found.entering.setdefault(name, []).append(self._rows.drawn(x, number))
        return output


def _unmerged(architecture: Architecture) -> tuple[tuple[str, int], ...]:
    return tuple((name, 0 if name == TOKENS else value) for name, value in architecture.settings)


def _adds_to_stream(part: nn.Module, reading: Reading) -> bool:
    """Whether what a layer gives is added to the residual stream of a block behind norms."""
    return type(part).__name__ in BEHIND_NORMS and reading.writes and reading.branch in SCALES


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _next(names: Sequence[str], name: str) -> str:
    place = names.index(name) + 1
    return names[place] if place < len(names) else ""


def _bias_rows(part: nn.Module, path: str) -> list[tuple[slice, Tensor | None]]:
    """The rows of a layer's weight, and the bias of each stretch; timm keeps some biases beside the layer."""
    layer = part.get_submodule(path)
    bias = layer._parameters.get("bias")
    owner, _, leaf = path.rpartition(".")
    beside = part.get_submodule(owner)._parameters
    if bias is None and leaf == FUSED and beside.get("q_bias") is not None:
        third = layer.get_parameter("weight").shape[0] // 3
        return [
            (slice(0, third), beside["q_bias"]),
            (slice(third, 2 * third), None),
            (slice(2 * third, None), beside["v_bias"]),
        ]
    return [(slice(None), bias)]


def _unscaled(part: nn.Module, branch: str, stream_MO: Tensor) -> Tensor:
    """What a writer has to give for what is wanted on the residual stream behind the scale of its branch."""
    for name in SCALES[branch]:
        owner, _, leaf = name.rpartition(".")
        scale_O = part.get_submodule(owner)._parameters.get(leaf) if owner in ("", *part._modules) else None
        if scale_O is not None:
            return torch.where(scale_O == 0, torch.zeros_like(stream_MO), stream_MO / scale_O)
    return stream_MO
