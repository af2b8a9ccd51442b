"""The passes through an untrained network that scores share. None of them changes the network.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from nas.errors import EvaluationError
from nas.scores.observer import Activation, Norms, Observer, Residual

HALVES = 2

Gradients = tuple[dict[str, Tensor], ...]
"""For each half of the images, the gradient of every weight by name."""


@dataclass(frozen=True)
class Half:
    """What one half of the images left behind; tensors stay part of the autograd graph unless said otherwise.

    Attributes:
        loss: Mean cross-entropy towards random labels.
        activations: Detached.
        residuals: From input to output.
    """

    loss: Tensor
    activations: tuple[Activation, ...]
    residuals: tuple[Residual, ...]


@dataclass(frozen=True)
class ForwardPass:
    """A forward pass in two halves, in training mode without dropout: batch norms use the statistics of the half.

    Attributes:
        weights: Weights of convolutions and linear layers by name, leaves of the autograd graph.
        halves: What each half left behind.
    """

    weights: dict[str, Tensor]
    halves: tuple[Half, ...]

    def gradients(self) -> Gradients:
        """The gradient of each half's loss for every weight that takes part in it."""
        return tuple(_gradients(half.loss, self.weights, keep_graph=True) for half in self.halves)


@dataclass(frozen=True)
class LinearisedPass:
    """Gradients of the sum of outputs for an image of ones, every parameter replaced by its absolute value (float64).

    Attributes:
        weights: Weights of convolutions and linear layers that have a gradient, by name, all positive.
        gradients: Gradients of the parameters, by name.
        attention_layers: Names of the modules that compute attention.
    """

    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]
    attention_layers: frozenset[str]

    def is_attention(self, weight: str) -> bool:
        """Whether a weight belongs to an attention layer."""
        return any(weight.startswith(f"{layer}.") for layer in self.attention_layers)


def draw(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network as its own constructor initialises it. The global random state is left as it was.

    Building anew takes no longer than initialising anew, and needs no rule for what no ``reset_parameters`` covers.
    """
    with torch.random.fork_rng(devices=_used_gpus()):
        torch.manual_seed(seed)
        return build()


def noise(module: nn.Module, shape: tuple[int, ...], seed: int, images_BCHW: Tensor | None) -> Tensor:
    """The images given, or Gaussian noise of ``shape``, where the network's weights are."""
    device = next(module.parameters(), torch.empty(0)).device
    if images_BCHW is None:
        images_BCHW = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return images_BCHW.to(device)


def forward_pass(module: nn.Module, images_BCHW: Tensor, seed: int) -> ForwardPass:
    """Run images ``(B, C, H, W)``; ``seed`` draws the labels.

    Raises:
        EvaluationError: The network fails or overflows; the message names the layer.
    """
    parameters = _leaves(module, lambda value: value)
    generator = torch.Generator("cpu").manual_seed(seed)
    halves = []
    with _training_without_dropout(module):
        for x_BCHW in images_BCHW.tensor_split(HALVES):
            observer = Observer(module, norms="batch")
            buffers = {name: value.clone() for name, value in module.named_buffers()}
            logits_BK = observer.run(partial(_call, module, {**parameters, **buffers}, x_BCHW))
            labels_B = torch.randint(logits_BK.shape[1], (len(x_BCHW),), generator=generator, device="cpu")
            loss = F.cross_entropy(logits_BK, labels_B.to(logits_BK.device))
            halves.append(Half(loss, tuple(observer.activations), tuple(observer.residuals)))
    return ForwardPass(_weights(parameters), tuple(halves))


def linearised_pass(module: nn.Module, input_shape: tuple[int, int, int], *, keep_norms: bool) -> LinearisedPass:
    """Run one image of ones through the network with positive parameters.

    Args:
        module: The network.
        input_shape: ``(C, H, W)``.
        keep_norms: Keep norms (batch norms with their running statistics) and attention as they are. Otherwise norms
            are left out, and attention weighs all positions alike, as it would for an image whose patches are all
            the same: without norms its logits would grow without bound.

    Raises:
        EvaluationError: The network fails or overflows; the message names the layer.
    """
    parameters = _leaves(module, lambda value: value.double().abs())
    buffers = {
        name: value.double() if value.is_floating_point() else value.clone() for name, value in module.named_buffers()
    }
    ones_BCHW = torch.ones(1, *input_shape, dtype=torch.float64, device=next(iter(parameters.values())).device)
    norms: Norms = "running" if keep_norms else "none"
    observer = Observer(module, norms, notes_features=False, evens_attention=not keep_norms)
    with _training_without_dropout(module):
        outputs_BK = observer.run(partial(_call, module, {**parameters, **buffers}, ones_BCHW))
    weights = _weights(parameters)
    gradients = _gradients(outputs_BK.sum(), weights, keep_graph=False)
    used = {name: weights[name].detach() for name in gradients}
    return LinearisedPass(used, gradients, frozenset(observer.attention_layers))


def _leaves(module: nn.Module, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Leaves of a new autograd graph by name; a parameter that stands in two places is one leaf under two names."""
    leaves: dict[int, Tensor] = {}
    named: dict[str, Tensor] = {}
    for prefix, part in module.named_modules():
        for name, value in part.named_parameters(recurse=False, remove_duplicate=False):
            if id(value) not in leaves:
                leaves[id(value)] = change(value.detach()).requires_grad_()
            named[f"{prefix}.{name}" if prefix else name] = leaves[id(value)]
    return named


def _call(module: nn.Module, tensors: dict[str, Tensor], images_BCHW: Tensor) -> Any:
    # Ties are ours: `functional_call`'s own do not put back what stood in a module that is used in two places.
    return functional_call(module, tensors, (images_BCHW,), tie_weights=False)


def _weights(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels: not gains of norms, biases, embeddings of positions or class tokens."""
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in parameters.items():
        if name.rpartition(".")[2] == "weight" and value.ndim > 1 and id(value) not in seen:
            weights[name] = value
            seen.add(id(value))
    if not weights:
        raise EvaluationError("the network has no weights of convolutions or linear layers")
    return weights


def _gradients(of: Tensor, weights: dict[str, Tensor], *, keep_graph: bool) -> dict[str, Tensor]:
    found = torch.autograd.grad(of, list(weights.values()), retain_graph=keep_graph, allow_unused=True)
    return {name: gradient for name, gradient in zip(weights, found, strict=True) if gradient is not None}


@contextmanager
def _training_without_dropout(module: nn.Module) -> Iterator[None]:
    """Training mode, since in evaluation mode some networks keep tensors from one call to the next."""
    modes = {part: part.training for part in module.modules()}
    for part in modes:
        part.training = "drop" not in type(part).__name__.lower()
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=_used_gpus()):
            torch.manual_seed(0)  # what is random in spite of everything at least repeats itself
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _used_gpus() -> list[int]:
    is_used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return list(range(torch.cuda.device_count())) if is_used else []
