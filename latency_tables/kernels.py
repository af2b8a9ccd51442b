"""Kernels: what a runtime launches. Operators after fusion, their keys and their features.

Convolutions and linear layers absorb the batch norm behind them, since it folds into the weights, and whatever else the
runtime computes while it writes their result: see `Fusion`. All else is launched on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_spaces.graph import Op, Shape

LARGEST_FAST_WINDOW = 5
"""Side of the largest depthwise window for which mobile runtimes have a one-pass kernel (XNNPACK: 25 taps)."""

_QUALIFIED = frozenset({"activation", "pool", "reshape"})


@dataclass(frozen=True)
class Fusion:
    """What a runtime computes inside the kernel in front.

    Attributes:
        conv_activations: Activations behind convolutions; linear_activations behind linear layers.
        residual_add: Whether a sum with another tensor is computed inside the convolution in front of it.
        views: Whether reshapes and splits are priced with the kernel that they follow.
    """

    conv_activations: frozenset[str]
    linear_activations: frozenset[str]
    residual_add: bool
    views: bool


FUSIONS: Mapping[str, Fusion] = {
    "xnnpack": Fusion(frozenset({"relu", "relu6"}), frozenset({"relu", "relu6"}), residual_add=False, views=False),
    "onnxruntime": Fusion(
        frozenset({"relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid", "tanh"}),
        frozenset({"relu", "relu6"}),
        residual_add=True,
        views=True,
    ),
}
"""Fusion by runtime, as XNNPACK documents it and as ONNX Runtime's optimised graphs show it (x86-64, version 1.31)."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch of a runtime.

    Attributes:
        op: Class of the kernel: an operator kind, refined where cost per element differs (``pointwise_conv``,
            ``activation.gelu``, ``pool.global``, ``reshape.transpose``).
        key: Text that is equal exactly for kernels that do the same work: class, shapes and what is fused.
        macs: Multiply-accumulates.
        elements_read: Elements of inputs and weights.
        elements_written: Elements of the output.
        input_shapes: Shapes of the inputs, batch dimension left out, output_shape likewise.
        window: Side of a convolution's or pooling's window.
    """

    op: str
    key: str
    macs: int
    elements_read: int
    elements_written: int
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    window: int
    stride: int

    def features(self, bytes_per_element: float) -> tuple[float, float, float, float]:
        """Launches (1), MACs, bytes read, bytes written."""
        return (
            1.0,
            float(self.macs),
            self.elements_read * bytes_per_element,
            self.elements_written * bytes_per_element,
        )


def kernel_class(kind: str, kernel: int = 1, function: str = "") -> str:
    """The class of an operator of this kind, window and function."""
    if kind == "conv":
        return "pointwise_conv" if kernel == 1 else "conv"
    if kind == "depthwise_conv":
        return "depthwise_conv.large" if kernel > LARGEST_FAST_WINDOW else "depthwise_conv"
    return f"{kind}.{function}" if kind in _QUALIFIED and function else kind


def base_class(op: str) -> str:
    """The operator kind behind a kernel class, for example ``activation`` behind ``activation.gelu``."""
    return op.partition(".")[0]


def kernel_key(
    op: str, inputs: Sequence[Shape], output: Shape, window: int = 1, stride: int = 1, fused: Sequence[str] = ()
) -> str:
    """The key of a kernel, for example ``conv[3x32x32>16x16x16]k3s2+relu``."""
    shapes = ",".join("x".join(map(str, shape)) for shape in inputs)
    sizes = f"k{window}s{stride}" if window > 1 or stride > 1 else ""
    return f"{op}[{shapes}>{'x'.join(map(str, output))}]{sizes}{''.join(f'+{name}' for name in fused)}"


def fuse(ops: Sequence[Op], fusion: Fusion = FUSIONS["xnnpack"]) -> tuple[Kernel, ...]:
    """The kernels that the operators of one block (or of a whole network) become.

    Nothing is absorbed whose input something else reads too.
    """
    readers: dict[str, list[Op]] = {}
    for op in ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    absorbed: set[str] = set()
    kernels = []
    for op in ops:
        if op.name in absorbed or (fusion.views and op.kind == "reshape"):
            continue
        fused: list[str] = []
        last = op
        while len(following := readers.get(last.name, [])) == 1:
            word = _fused_word(op, following[0], fused, fusion)
            if word is None or following[0].name in absorbed:
                break
            last = following[0]
            absorbed.add(last.name)
            fused += [word] if word else []
        kernels.append(_kernel(op, fused))
    return tuple(kernels)


def _fused_word(op: Op, follower: Op, fused: Sequence[str], fusion: Fusion) -> str | None:
    """How the key names a follower that ``op`` absorbs; None where it does not."""
    if op.kind not in ("conv", "depthwise_conv", "linear") or (fused and fused[-1] != "add"):
        return None
    if follower.kind == "batch_norm" and not fused:
        return ""
    if follower.kind == "add" and not fused and fusion.residual_add and op.kind != "linear":
        return "add" if len(follower.inputs) == 2 else None
    allowed = fusion.linear_activations if op.kind == "linear" else fusion.conv_activations
    return follower.function if follower.kind == "activation" and follower.function in allowed else None


def _kernel(op: Op, fused: Sequence[str]) -> Kernel:
    name = kernel_class(op.kind, op.kernel, op.function)
    return Kernel(
        op=name,
        key=kernel_key(name, op.input_shapes, op.output_shape, op.kernel, op.stride, fused),
        macs=op.macs,
        elements_read=op.elements_read + ("add" in fused) * op.elements_written,
        elements_written=op.elements_written,
        input_shapes=op.input_shapes,
        output_shape=op.output_shape,
        window=op.kernel,
        stride=op.stride,
    )
