"""Equalised layer norms: channels of very different size are rescaled, and the next weights in return.

One range for a whole tensor is set by its largest channel, and the outputs of layer norms have channels that are a
hundred times the others. A factor per channel goes into the gain and the shift of the norm, its inverse into the
weights that read it, so that the network computes what it did (Xiao et al., "SmoothQuant: Accurate and Efficient
Post-Training Quantization for Large Language Models", ICML 2023, arXiv 2211.10438). `equalise_shift` moves channels
to a common middle too (Li et al., "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision
Transformers", ICCV 2023, arXiv 2212.08254), which suits runtimes with zero points alone.

Legend of tensor suffixes: B batch, `*` any further dimensions, C channels of a norm, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nas.quantisation.watching import BATCH, LAYERS, LayerMode

STRENGTH = 0.85
"""Share of the difference between channels that moves from activations to weights."""
_SAME_CHANNELS = frozenset(
    "contiguous dropout clone to float type_as alias roll detach __getitem__ select narrow unbind split chunk view"
    " reshape flatten unflatten permute transpose movedim swapaxes mean".split()
)
"""Operators that move or average numbers; where their channels went is checked."""
_PADDING = frozenset(("pad", "constant_pad_nd"))


@dataclass
class Norm:
    """A layer norm whose readers are weighted layers alone.

    Attributes:
        weight: Its gain ``(C,)``.
        bias: Its shift ``(C,)``.
        low: Smallest number of each channel of its output ``(C,)``.
        high: Largest number of each channel of its output ``(C,)``.
        readers: Weights of the layers that read it, each with its bias.
        is_closed: Whether nothing else reads it.
        is_padded: Whether zeros are put beside its output before layers read it.
    """

    weight: Tensor
    bias: Tensor
    low: Tensor
    high: Tensor
    readers: dict[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    is_closed: bool = True
    is_padded: bool = False


def equalise(network: nn.Module, images_BCHW: Tensor, strength: float = STRENGTH) -> list[str]:
    """Rescale the channels of layer norms in place.

    Args:
        network: In evaluation mode.
        images_BCHW: Images to find the sizes of channels on.
        strength: 0 leaves activations as they are, 1 makes their channels equal.

    Returns:
        Names of the gains that changed.
    """
    changed = []
    for name, norm in find_norms(network, images_BCHW).items():
        sizes_C = torch.maximum(norm.low.abs(), norm.high.abs()).clamp(min=1e-6)
        weights_C = _sizes_of_columns(norm).clamp(min=1e-6)
        factors_C = (strength * sizes_C.log() - (1 - strength) * weights_C.log()).exp()
        _divide(norm, _centred(factors_C))
        changed.append(name)
    return changed


def equalise_shift(network: nn.Module, images_BCHW: Tensor) -> list[str]:
    """Give the channels of layer norms one range in place, by scale and by shift.

    Returns:
        Names of the gains that changed; norms without a shift, and those whose readers have none, are left alone.
    """
    changed = []
    for name, norm in find_norms(network, images_BCHW).items():
        biases = [bias for _, bias in norm.readers.values()]
        if norm.is_padded or any(not isinstance(bias, nn.Parameter) for bias in biases):
            continue
        spans_C = (norm.high - norm.low).clamp(min=1e-6)
        middles_C = (norm.high + norm.low) / 2
        factors_C = _centred(spans_C)
        with torch.no_grad():
            for weight, bias in norm.readers.values():
                assert bias is not None  # checked above
                bias += weight.flatten(2).sum(dim=2) @ middles_C if weight.ndim > 2 else weight @ middles_C
            norm.bias -= middles_C
        _divide(norm, factors_C)
        changed.append(name)
    return changed


@torch.no_grad()
def find_norms(network: nn.Module, images_BCHW: Tensor) -> dict[str, Norm]:
    """The layer norms with gain and shift of a network whose output goes to weighted layers alone, by their gains."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    merged: dict[str, Norm] = {}
    once: Counter[int] = Counter()
    for some_BCHW in torch.split(images_BCHW, BATCH):
        mode = _NormMode(network)
        mode.run(network, some_BCHW)
        once = mode.weights
        for norm in mode.found:
            name = names.get(id(norm.weight))
            if name is None or id(norm.bias) not in names:
                continue
            known = merged.setdefault(name, norm)
            known.low, known.high = torch.minimum(known.low, norm.low), torch.maximum(known.high, norm.high)
            known.is_closed &= norm.is_closed
    return {
        name: norm
        for name, norm in merged.items()
        if norm.is_closed
        and norm.readers
        and once[id(norm.weight)] == 1
        and all(once[id(weight)] == 1 and id(weight) in names for weight, _ in norm.readers.values())
    }


class _NormMode(LayerMode):
    """Follows the outputs of layer norms to what reads them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.found: list[Norm] = []
        self.weights: Counter[int] = Counter()
        self._origin: dict[int, tuple[Norm, int]] = {}  # of tensors, and which dimension from the end has the channels
        self._alive: list[Any] = []  # so that no other tensor gets the identity of one that was followed

    def layer(self, name: str, function: Any, x: Tensor, weight: Tensor, *others: Any, **options: Any) -> Tensor:
        """Note which norm the layer reads."""
        self.weights[id(weight)] += 1
        known = self._origin.get(id(x))
        if known is not None:
            norm, axis = known
            groups = options.get("groups", others[4] if len(others) > 4 else 1)
            wanted = -1 if function.__name__ == "linear" else 1 - x.ndim
            if axis != wanted or groups != 1:
                norm.is_closed = False
            bias = options.get("bias", others[0] if others else None)
            norm.readers[id(weight)] = (weight, bias)
            norm.is_padded |= function.__name__ != "linear" and any(side > 1 for side in weight.shape[2:])
        return super().layer(name, function, x, weight, *others, **options)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Follow tensors through one operator."""
        name, options = getattr(func, "__name__", ""), dict(kwargs or {})
        result = super().__torch_function__(func, types, args, options)
        if name == "layer_norm":
            self._note_norm(result, *args, **options)
        read = [value for value in _tensors([*args, *options.values()]) if id(value) in self._origin]
        if name in LAYERS or not read or name in ("__get__", "size", "dim"):
            return result
        for source in read:
            norm, axis = self._origin[id(source)]
            followed = [_axis_after(name, source, each, axis, args, options) for each in _tensors([result])]
            if name not in _SAME_CHANNELS | _PADDING or len(read) > 1 or None in followed or not followed:
                norm.is_closed = False
                continue
            norm.is_padded |= name in _PADDING
            for each, where in zip(_tensors([result]), followed, strict=True):
                assert where is not None  # checked above
                self._origin[id(each)] = (norm, where)
                self._alive.append(each)
        return result

    def _note_norm(self, result: Tensor, x: Tensor, shape: Any = None, *rest: Any, **options: Any) -> None:
        shape = options.get("normalized_shape", shape)
        weight, bias = (
            options.get(name, rest[place] if len(rest) > place else None)
            for place, name in enumerate(("weight", "bias"))
        )
        if weight is None or bias is None or weight.ndim != 1:
            return
        self.weights[id(weight)] += 1
        flat_NC = result.detach().flatten(0, -2)
        norm = Norm(weight, bias, flat_NC.amin(dim=0), flat_NC.amax(dim=0))
        self.found.append(norm)
        self._origin[id(result)] = (norm, -1)
        self._alive.append(result)


def _axis_after(
    name: str, before: Tensor, after: Tensor, axis: int, args: Sequence[Any], options: Mapping[str, Any]
) -> int | None:
    """Where the channels of a tensor stand after an operator, counted from the end; None where that is unknown."""
    channels = before.shape[axis]
    if name in ("permute", "transpose", "movedim", "swapaxes"):
        marks = torch.empty(
            tuple(2 if place == before.ndim + axis else 1 for place in range(before.ndim)), device="meta"
        )
        moved = getattr(torch.Tensor, name)(marks, *args[1:], **options)
        return next((place - moved.ndim for place, side in enumerate(moved.shape) if side == 2), None)
    if name in ("view", "reshape", "flatten", "unflatten"):
        if axis == -1:
            return -1 if after.shape[-1] == channels else None
        place = before.ndim + axis
        return place - after.ndim if after.shape[: place + 1] == before.shape[: place + 1] else None
    if name in ("__getitem__", "select", "unbind", "mean"):  # whose result may have fewer dimensions
        return -1 if axis == -1 and after.ndim > 0 and after.shape[-1] == channels else None
    return axis if after.ndim == before.ndim and after.shape[axis] == channels else None


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value)
    return found


def _sizes_of_columns(norm: Norm) -> Tensor:
    """The largest weight that each channel is multiplied by, ``(C,)``."""
    columns = [weight.detach().abs().transpose(0, 1).flatten(1).amax(dim=1) for weight, _ in norm.readers.values()]
    return torch.stack(columns).amax(dim=0)


def _centred(factors_C: Tensor) -> Tensor:
    """Factors whose geometric mean is 1, so that weights keep their size."""
    return (factors_C.log() - factors_C.log().mean()).exp()


@torch.no_grad()
def _divide(norm: Norm, factors_C: Tensor) -> None:
    """Divide the norm's output by factors, and multiply the weights that read it."""
    norm.weight /= factors_C
    norm.bias /= factors_C
    for weight, _ in norm.readers.values():
        weight *= factors_C.reshape(1, -1, *[1] * (weight.ndim - 2))
