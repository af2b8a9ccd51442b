"""Watches the weighted layers of a network run, whatever modules or functions they come from.

Legend of tensor suffixes: B batch, `*` any further dimensions, C channels of a layer norm, I inputs and O outputs of a
layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LAYERS = frozenset(("linear", "conv1d", "conv2d", "conv3d"))
"""Functions of PyTorch that multiply what they read by a weight."""
BATCH = 32
"""Images that are computed at once."""


class LayerMode(TorchFunctionMode):
    """Calls `layer` in place of every weighted layer of a network.

    Layers are named after the modules that call them, as in ONNX files: a module that calls several has ``name`` for
    the first, ``name#2`` for the second. One forward pass per use.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._names = {module: name for name, module in network.named_modules()}
        self._running: list[str] = []
        self._calls: Counter[str] = Counter()

    def layer(self, name: str, function: Any, x: Tensor, weight: Tensor, *others: Any, **options: Any) -> Tensor:
        """What the layer gives."""
        result: Tensor = function(x, weight, *others, **options)
        return result

    def run(self, module: nn.Module, *inputs: Any, **options: Any) -> Tensor:
        """What the network, or a module of it, gives."""
        self._calls.clear()
        with _hooked(self._names, self._running), self:
            result: Tensor = module(*inputs, **options)
            return result

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operator."""
        options = dict(kwargs or {})
        if getattr(func, "__name__", "") not in LAYERS:
            return func(*args, **options)
        x = options.pop("input", None) if not args else args[0]
        weight = args[1] if len(args) > 1 else options.pop("weight")
        return self.layer(self.next_name(), func, x, weight, *args[2:], **options)

    def next_name(self) -> str:
        """The name of the layer that is called."""
        module = self._running[-1] if self._running else ""
        self._calls[module] += 1
        count = self._calls[module]
        return module if count == 1 else f"{module}#{count}"


@contextmanager
def _hooked(names: Mapping[nn.Module, str], running: list[str]) -> Iterator[None]:
    """Keep the names of the modules whose ``forward`` is on the stack in ``running``."""

    def enter(module: nn.Module, _: Any) -> None:
        running.append(names[module])

    def leave(*_: Any) -> None:
        running.pop()

    handles = []
    for module in names:
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        running.clear()


@torch.no_grad()
def inputs_of_layers(network: nn.Module, images_BCHW: Tensor) -> dict[str, tuple[float, float]]:
    """The smallest and largest number that each layer reads, zero included, by its name."""
    seen: dict[str, tuple[float, float]] = {}

    class Ranges(LayerMode):
        def layer(self, name: str, function: Any, x: Tensor, weight: Tensor, *others: Any, **options: Any) -> Tensor:
            low, high = seen.get(name, (0.0, 0.0))
            seen[name] = (min(low, float(x.min())), max(high, float(x.max())))
            return super().layer(name, function, x, weight, *others, **options)

    mode = Ranges(network)
    for some_BCHW in torch.split(images_BCHW, BATCH):
        mode.run(network, some_BCHW)
    return seen


@dataclass(frozen=True)
class WeightedLayer:
    """One weighted layer of a network, for one image.

    Attributes:
        name: As `LayerMode` names it.
        kind: ``linear``, ``conv`` or ``depthwise_conv``.
        weight_shape: Outputs, inputs of a group, and sides of the window.
        input_shape: What it reads, batch dimension left out.
        output_shape: What it gives, batch dimension left out.
        stride: Stride of a convolution.
        source: Equal for layers that read the same tensor.
        reads_image: Whether no layer stands between the image and it.
    """

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    stride: int
    source: str
    reads_image: bool

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return prod(self.output_shape) * prod(self.weight_shape[1:])


@torch.no_grad()
def weighted_layers(network: nn.Module, image_1CHW: Tensor) -> list[WeightedLayer]:
    """The weighted layers of a network in the order in which they run; what is computed from weights alone is none."""
    found: list[WeightedLayer] = []
    readers: dict[tuple[int, int], str] = {}
    alive: list[Tensor] = []  # so that no other tensor gets the memory of one that was read

    class Looks(LayerMode):
        def layer(self, name: str, function: Any, x: Tensor, weight: Tensor, *others: Any, **options: Any) -> Tensor:
            result = super().layer(name, function, x, weight, *others, **options)
            if x.shape[0] == image_1CHW.shape[0]:
                stride = options.get("stride", others[1] if len(others) > 1 else 1)
                groups = options.get("groups", others[4] if len(others) > 4 else 1)
                kind = function.__name__
                if kind != "linear":
                    kind = "depthwise_conv" if groups > 1 and weight.shape[1] == 1 else "conv"
                shapes = tuple(weight.shape), tuple(x.shape[1:]), tuple(result.shape[1:])
                source = readers.setdefault((x.data_ptr(), x.numel()), name)
                step = int(stride if isinstance(stride, int) else stride[0])
                found.append(WeightedLayer(name, kind, *shapes, step, source, not found))
                alive.append(x)
            return result

    Looks(network).run(network, image_1CHW)
    return found


@torch.no_grad()
def own_weights(network: nn.Module, image_1CHW: Tensor) -> dict[str, tuple[nn.Parameter, nn.Parameter | None]]:
    """Weight and bias of the layers that have a parameter as their weight, and no other layer beside, by their names.

    A bias that is no parameter, or is another layer's too, counts as none.
    """
    seen: dict[str, tuple[Any, Any]] = {}

    class Weights(LayerMode):
        def layer(self, name: str, function: Any, x: Tensor, weight: Tensor, *others: Any, **options: Any) -> Tensor:
            seen[name] = weight, options.get("bias", others[0] if others else None)
            return super().layer(name, function, x, weight, *others, **options)

    Weights(network).run(network, image_1CHW)
    uses = Counter(id(tensor) for pair in seen.values() for tensor in pair)

    def is_own(tensor: Any) -> bool:
        return isinstance(tensor, nn.Parameter) and uses[id(tensor)] == 1

    return {name: (weight, bias if is_own(bias) else None) for name, (weight, bias) in seen.items() if is_own(weight)}


@torch.no_grad()
def names_in_order(network: nn.Module, image_1CHW: Tensor) -> list[str]:
    """Names of all layers in the order in which they run, those included that are computed from weights alone."""
    found: list[str] = []

    class Names(LayerMode):
        def layer(self, name: str, function: Any, x: Tensor, weight: Tensor, *others: Any, **options: Any) -> Tensor:
            found.append(name)
            return super().layer(name, function, x, weight, *others, **options)

    Names(network).run(network, image_1CHW)
    return found
