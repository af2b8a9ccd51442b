"""Condition number of the neural tangent kernel of an untrained network on a few images; smaller is better.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921. For each image
n, ``g_n`` is the gradient of ``s_n``, the sum of the pooled features in front of the last norm, by all parameters
whose name contains ``weight`` and that receive one. The kernel is the Gram matrix ``g_n . g_m``, the score the ratio
of its largest and smallest eigenvalue, averaged over draws of the weights.

No gradient of length P is ever kept: a backward pass over the batch gives each layer the gradient of its output,
from which the layer's gradients per image follow in one product; their Gram matrix is added up and they are thrown
away. Weights that are not used by an ordinary linear, convolution or norm layer get one backward pass per image.

Deviations: without images of the user's own the batch is standard normal noise; BatchNorm, which As-ViT's networks do
not have, normalises by the batch's statistics but is not differentiated through them, so that images stay apart;
layers' Gram matrices are of single precision as in the reference, but added up in double.

Shape letters: B batch, C channels, H and W sides, K inputs and O outputs of a layer, T positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas.errors import EvaluationError
from nas.scores.features import Build, draw_network, first_overflow, pooled_features_before_norm

BATCH = 16
REPEATS = 5


@dataclass(frozen=True)
class NtkCondition:
    """The score of one network; smaller is better.

    Attributes:
        value: Mean over the repeats; NaN where one of them has no condition number.
        repeats: One value per initialisation.
        failure: Why the first repeat without a condition number has none; empty where all have one.
    """

    value: float
    repeats: tuple[float, ...]
    failure: str = ""


@dataclass(frozen=True)
class Kernel:
    """A neural tangent kernel.

    Attributes:
        gram_BB: Products of the images' gradients, double precision.
        parameters: Length of the gradients: numbers in the parameters that count.
    """

    gram_BB: Tensor
    parameters: int


def ntk_condition_number(
    build: Build,
    *,
    image_side: int | None = None,
    images_BCHW: Tensor | None = None,
    seed: int,
    repeats: int = REPEATS,
) -> NtkCondition:
    """The expected condition number of a network's neural tangent kernel.

    Args:
        build: Makes a freshly initialised network; called once per repeat.
        image_side: Side in pixels of the noise images, where no others are given.
        images_BCHW: Images to use for all repeats instead; the paper takes 16.
        seed: Seed of noise and weights; repeat ``r`` uses ``seed + r``, and all repeats the same images. The global
            random state is left as it was.
        repeats: Initialisations to average over; the paper takes 5.

    Raises:
        ValueError: Neither or both of ``image_side`` and ``images_BCHW`` are given.
    """
    if (image_side is None) == (images_BCHW is None):
        raise ValueError("expected one of `image_side` and `images_BCHW`")
    if images_BCHW is None:
        assert image_side is not None
        images_BCHW = noise_images(image_side, seed)
    return combined([condition_of_draw(draw_network(build, seed + r), images_BCHW) for r in range(repeats)])


def noise_images(image_side: int, seed: int) -> Tensor:
    """A batch of standard normal noise, ``(16, 3, image_side, image_side)``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, 3, image_side, image_side, generator=generator)


def condition_of_draw(network: nn.Module, images_BCHW: Tensor) -> NtkCondition:
    """One repeat: the condition number for the weights that ``network`` has."""
    kernel = tangent_kernel(network, images_BCHW)
    if not kernel.parameters:
        return NtkCondition(math.nan, (math.nan,), "tangent kernel: no parameter named `weight` receives a gradient")
    if not torch.isfinite(kernel.gram_BB).all():
        layer = first_overflow(network, images_BCHW)
        failure = f"tangent kernel is not finite: {layer or 'a gradient'} overflows"
        return NtkCondition(math.nan, (math.nan,), failure)
    eigenvalue_B = torch.linalg.eigvalsh(kernel.gram_BB)
    low, high = float(eigenvalue_B[0]), float(eigenvalue_B[-1])
    if not low > torch.finfo(torch.float32).eps * high:
        failure = f"tangent kernel is singular: eigenvalues from {low:.3g} to {high:.3g}"
        return NtkCondition(math.nan, (math.nan,), failure)
    return NtkCondition(high / low, (high / low,))


def combined(draws: list[NtkCondition]) -> NtkCondition:
    """The mean over single repeats."""
    values = tuple(draw.value for draw in draws)
    failures = [draw.failure for draw in draws if draw.failure]
    return NtkCondition(sum(values) / len(values), values, failures[0] if failures else "")


def tangent_kernel(network: nn.Module, images_BCHW: Tensor) -> Kernel:
    """The neural tangent kernel of ``network`` on images; its parameters' ``requires_grad`` is left switched off."""
    _freeze_statistics(network, images_BCHW)
    network.requires_grad_(False)
    collector = _Collector(network, len(images_BCHW))
    with torch.enable_grad(), collector:
        total = pooled_features_before_norm(network, images_BCHW).sum()
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
    weights = [weight for name, weight in network.named_parameters() if "weight" in name.rpartition(".")[2]]
    collector.add_one_by_one(network, images_BCHW, [weight for weight in weights if not collector.has_seen(weight)])
    return Kernel(collector.gram_BB, collector.parameters)


def _freeze_statistics(network: nn.Module, images_BCHW: Tensor) -> None:
    """Evaluation mode, with BatchNorm statistics of this batch."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    network.eval()
    if not norms:
        return
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        pooled_features_before_norm(network, images_BCHW)
    network.eval()


class _Collector:
    """Adds up the Gram matrices of layers' gradients per image while one backward pass runs.

    A layer that runs several times has its gradients added before they are multiplied.
    """

    def __init__(self, network: nn.Module, batch: int) -> None:
        self.gram_BB = torch.zeros(batch, batch, dtype=torch.float64)
        self.parameters = 0
        self._layers = [module for module in network.modules() if _gradient_rule(module) is not None]
        self._runs: dict[nn.Module, int] = {}
        self._partial: dict[nn.Module, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def has_seen(self, parameter: Tensor) -> bool:
        """Whether the parameter's layer ran while the collector watched."""
        return any(layer.weight is parameter for layer in self._runs)

    def __enter__(self) -> None:
        self._handles = [layer.register_forward_hook(self._on_forward) for layer in self._layers]

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def add(self, gradient_BP: Tensor) -> None:
        """Add the Gram matrix of one parameter's gradients."""
        self.gram_BB += gradient_BP @ gradient_BP.mT
        self.parameters += gradient_BP.shape[1]

    def add_one_by_one(self, network: nn.Module, images_BCHW: Tensor, parameters: list[nn.Parameter]) -> None:
        """Add parameters whose gradients need a backward pass per image; those that receive none are left out."""
        if not parameters:
            return
        for parameter in parameters:
            parameter.requires_grad_()
        rows: list[tuple[Tensor | None, ...]] = []
        with torch.enable_grad():
            for image_CHW in images_BCHW:
                total = pooled_features_before_norm(network, image_CHW[None]).sum()
                if not total.requires_grad:
                    break
                rows.append(torch.autograd.grad(total, parameters, allow_unused=True))
        network.requires_grad_(False)
        for gradients in zip(*rows, strict=True):
            present = [gradient.flatten() for gradient in gradients if gradient is not None]
            if present:
                self.add(torch.stack(present))

    def _on_forward(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if len(inputs[0]) != len(self.gram_BB):
            return None  # the first dimension is not that of images, but windows or tokens
        is_inside = output.requires_grad
        if not is_inside:  # nothing in front of this layer is differentiated: the backward pass ends here
            output = output.detach().requires_grad_()
        self._runs[layer] = self._runs.get(layer, 0) + 1
        input_, rule = inputs[0].detach(), _gradient_rule(layer)
        version = input_._version
        assert rule is not None

        def on_backward(gradient: Tensor) -> None:
            if input_._version != version:
                raise EvaluationError(f"tangent kernel: the input of a {type(layer).__name__} is changed in place")
            gradient_BP = rule(layer, input_, gradient.detach()).flatten(1)
            earlier = self._partial.pop(layer, None)
            if earlier is not None:
                gradient_BP = gradient_BP + earlier
            self._runs[layer] -= 1
            if self._runs[layer]:
                self._partial[layer] = gradient_BP
            else:
                self.add(gradient_BP)

        output.register_hook(on_backward)  # type: ignore[no-untyped-call]
        return output if is_inside else output.clone()  # a leaf could not be changed in place


GradientRule = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Layer, its input and the gradient of its output to the weight's gradients per image ``(B, ...)``."""


def _gradient_rule(module: nn.Module) -> GradientRule | None:
    """How a layer's gradients per image are computed; None for layers without a weight or of another kind."""
    if getattr(module, "weight", None) is None:
        return None
    if type(module) is nn.Conv2d and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        return None
    if isinstance(module, _BatchNorm) and module.running_mean is None:
        return None
    return _RULES.get(type(module))


def _linear_rule(layer: nn.Module, x: Tensor, gradient: Tensor) -> Tensor:
    x_BTK, gradient_BTO = (tensor.reshape(len(tensor), -1, tensor.shape[-1]) for tensor in (x, gradient))
    return gradient_BTO.mT @ x_BTK


def _conv_rule(layer: nn.Module, x_BCHW: Tensor, gradient_BOHW: Tensor) -> Tensor:
    assert isinstance(layer, nn.Conv2d)
    batch, groups = len(x_BCHW), layer.groups
    if layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0):
        windows_BKT = x_BCHW.flatten(2)
    else:
        windows_BKT = F.unfold(x_BCHW, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
    x_BGKT = windows_BKT.reshape(batch, groups, -1, windows_BKT.shape[-1])
    gradient_BGOT = gradient_BOHW.reshape(batch, groups, layer.out_channels // groups, -1)
    return gradient_BGOT @ x_BGKT.mT


def _layer_norm_rule(layer: nn.Module, x: Tensor, gradient: Tensor) -> Tensor:
    assert isinstance(layer, nn.LayerNorm)
    normalised = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    return (gradient * normalised).reshape(len(x), -1, layer.weight.numel()).sum(dim=1)


def _group_norm_rule(layer: nn.Module, x_BCHW: Tensor, gradient_BCHW: Tensor) -> Tensor:
    assert isinstance(layer, nn.GroupNorm)
    normalised_BCHW = F.group_norm(x_BCHW, layer.num_groups, eps=layer.eps)
    return (gradient_BCHW * normalised_BCHW).flatten(2).sum(dim=2)


def _batch_norm_rule(layer: nn.Module, x_BCHW: Tensor, gradient_BCHW: Tensor) -> Tensor:
    assert isinstance(layer, nn.BatchNorm2d)
    normalised_BCHW = F.batch_norm(x_BCHW, layer.running_mean, layer.running_var, eps=layer.eps)
    return (gradient_BCHW * normalised_BCHW).flatten(2).sum(dim=2)


_RULES: dict[type[nn.Module], GradientRule] = {
    nn.Linear: _linear_rule,
    nn.Conv2d: _conv_rule,
    nn.LayerNorm: _layer_norm_rule,
    nn.GroupNorm: _group_norm_rule,
    nn.BatchNorm2d: _batch_norm_rule,
}
