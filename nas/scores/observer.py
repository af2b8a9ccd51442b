"""Watches a network run: activations, residual sums and attention, whatever modules or functions they come from.

Legend of tensor suffixes: B batch, C channels, H and W rows and columns, N tokens, `*` any of those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nas.errors import EvaluationError

ACTIVATIONS = frozenset(
    "relu relu_ relu6 hardtanh hardtanh_ leaky_relu leaky_relu_ prelu rrelu elu elu_ selu selu_ celu celu_ gelu silu"
    " hardswish mish softplus tanh tanh_".split()
)
"""Gates (sigmoid, hard-sigmoid) and softmax are not among them."""

_WEIGHTED = {"linear": "linear", "conv1d": "conv", "conv2d": "conv", "conv3d": "conv"}
_NORMS = frozenset(("layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm"))
_DROPOUTS = frozenset(("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"))
_SUMS = frozenset(("add", "add_", "__add__", "__iadd__"))
_ATTENTION = frozenset(("softmax", "scaled_dot_product_attention"))

Norms = Literal["batch", "running", "none"]
"""How norms compute: batch norms with statistics of the batch or with running ones, or none at all."""


@dataclass(frozen=True)
class Activation:
    """One call of an activation function, in full, detached.

    Attributes:
        layer: Where it was called.
        before: Its input, channels last, ``(B, ..., C)``.
        after: Its output, channels last, ``(B, ..., C)``.
    """

    layer: str
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Residual:
    """A sum of two feature maps of equal shape, as residual connections make it.

    Attributes:
        layer: Where it was computed.
        tensor: Part of the autograd graph, in the network's own layout.
        channel_axis: Which of its dimensions holds the channels.
    """

    layer: str
    tensor: Tensor
    channel_axis: int


class Observer(TorchFunctionMode):
    """Notes what the operators of a network see while it runs; needs no module to be of a known class.

    Args:
        network: The network that will run.
        norms: How its norms compute.
        notes_features: Whether activations and residuals are kept.
        evens_attention: Whether attention weighs all positions alike, whatever queries and keys say.

    Dropout is left out. Batch norms never update their running statistics.
    """

    def __init__(
        self, network: nn.Module, norms: Norms, *, notes_features: bool = True, evens_attention: bool = False
    ) -> None:
        super().__init__()
        self.activations: list[Activation] = []
        self.residuals: list[Residual] = []
        self.attention_layers: set[str] = set()
        self._network = network
        self._modules = dict(network.named_modules())
        self._norms = norms
        self._notes_features = notes_features
        self._evens_attention = evens_attention
        self._running: list[str] = []  # names of the modules whose `forward` is on the stack
        self._last_weighted = "conv"
        self._sums: list[tuple[str, Tensor]] = []

    def run(self, call: Callable[[], Any]) -> Tensor:
        """What ``call``, which runs the network, gives.

        Raises:
            EvaluationError: It raises, or gives no finite logits ``(B, K)``; the message names the layer.
        """
        with self._attached(), self:
            try:
                logits = call()
            except Exception as error:
                reason = " ".join(str(error).split())
                raise EvaluationError(f"{self._layer()} fails with {type(error).__name__}: {reason}") from error
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise EvaluationError(f"the network gives {found}, expected logits of shape (images, classes)")
        if not torch.isfinite(logits).all():
            raise EvaluationError(f"numbers overflow, first in the output of {self._first_overflow()}")
        return logits

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator, and note what scores need of it."""
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in _DROPOUTS:
            return args[0]
        if name in _NORMS and self._norms == "none":
            return args[0]
        if name == "batch_norm":
            return self._batch_norm(*args, **options)
        if name in _ATTENTION:
            self._note_attention(args[0])
            options.update({"dropout_p": 0.0} if "dropout_p" in options else {})
            if self._evens_attention:
                return _even_attention(name, args, options)
        if name in ACTIVATIONS and self._notes_features:
            return self._activation(func, args, options)
        output = func(*args, **options)
        if name in _WEIGHTED:
            self._last_weighted = _WEIGHTED[name]
            self._sums.append((self._layer(), output.detach().sum()))  # looked at only where the logits overflow
        elif name in _SUMS and self._notes_features and _is_residual(*args[:2]):
            self.residuals.append(Residual(self._layer(), output, self._channel_axis(output)))
        return output

    def _activation(self, func: Any, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
        is_in_place = func.__name__.endswith("_") or any(value is True for value in (*args[1:], *options.values()))
        before = args[0].detach()
        before = before.clone() if is_in_place else before
        output = func(*args, **options)
        axis = self._channel_axis(before)
        self.activations.append(Activation(self._layer(), before.movedim(axis, -1), output.detach().movedim(axis, -1)))
        return output

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if self._norms == "batch" or running_mean is None:
            return F.batch_norm(x, None, None, weight, bias, True, momentum, eps)
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)

    def _note_attention(self, logits: Tensor) -> None:
        """The innermost running module with weights, unless it is the network itself, is an attention layer."""
        if logits.ndim < 3:
            return
        for name in reversed(self._running):
            if name and any(True for _ in self._modules[name].parameters()):
                self.attention_layers.add(name)
                return

    def _channel_axis(self, x: Tensor) -> int:
        """A map's sides are equal and its channels usually are not; where that is no help the last layer decides."""
        if x.ndim != 4:
            return x.ndim - 1 if x.ndim == 3 else 1
        _, first, middle, last = x.shape
        if first == middle != last:
            return 3
        if middle == last != first:
            return 1
        return 3 if self._last_weighted == "linear" else 1

    def _layer(self) -> str:
        if not self._running or not self._running[-1]:
            return "the network itself"
        name = self._running[-1]
        return f"layer `{name}` ({type(self._modules[name]).__name__})"

    def _first_overflow(self) -> str:
        return next((layer for layer, total in self._sums if not torch.isfinite(total)), "the last layer")

    @contextmanager
    def _attached(self) -> Iterator[None]:
        def enter(name: str) -> Callable[..., None]:
            return lambda *_: self._running.append(name)

        handles = [
            handle
            for name, module in self._modules.items()
            for handle in (
                module.register_forward_pre_hook(enter(name)),
                module.register_forward_hook(lambda *_: self._leave()),
            )
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _leave(self) -> None:
        self._running.pop()


def _even_attention(name: str, args: Sequence[Any], options: Mapping[str, Any]) -> Tensor:
    if name == "scaled_dot_product_attention":
        query, _, value = (*args, *(options[key] for key in ("query", "key", "value") if key in options))[:3]
        mean: Tensor = value.mean(dim=-2, keepdim=True)
        return mean.expand(*query.shape[:-1], value.shape[-1])
    axis = options["dim"] if "dim" in options else args[1]
    return torch.full_like(args[0], 1 / args[0].shape[axis])


def _is_residual(first: Any, second: Any) -> bool:
    """Position embeddings and biases are no residuals: they have no batch dimension of their own."""
    return (
        isinstance(first, Tensor)
        and isinstance(second, Tensor)
        and first.shape == second.shape
        and first.ndim >= 3
        and first.requires_grad
        and second.requires_grad
    )
