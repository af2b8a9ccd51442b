"""Kernels: what a runtime launches. Operators after fusion, their keys and their features.

Convolutions and linear layers absorb the batch norm behind them, since it folds into the weights, and whatever else the
runtime computes while it reads their inputs or writes their result: see `Fusion`. All else is launched on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from search_spaces.graph import Op, Shape

LARGEST_FAST_WINDOW = 5
"""Side of the largest depthwise window for which mobile runtimes have a one-pass kernel (XNNPACK: 25 taps)."""

SMALL = ".small"
"""Ends the class of kernels whose inputs, weights and output together stay within `SMALL_BYTES`."""
SMALL_BYTES = 400_000
"""What the kernel before is likely to have left in the second-level cache.

Chosen on 120 networks of three groups (x86-64, 1 MiB of cache per core): fitted to all three at once, the error on
unseen networks of the large convolutional space fell from 3.8 to 2.1 % (root mean square), and 0.3 MB did as well.
"""

NARROW = 16
"""Rows, columns or terms of a sum of a product of matrices, below which its class is one of its own.

A register of 512 bits holds 16 floats: a head of 8 channels leaves half of it empty.
"""

INT8 = "@int8"
"""Ends the class, and the key, of kernels that multiply integers."""
COLOURS = 3
"""Channels of an image; the layer that reads them is not quantised."""

_QUALIFIED = frozenset({"activation", "pool", "reshape"})
_CONVOLUTIONS = frozenset({"conv", "depthwise_conv"})
_WEIGHTED = _CONVOLUTIONS | {"linear"}


@dataclass(frozen=True)
class Fusion:
    """What a runtime computes inside the kernel in front.

    Attributes:
        name: What a latency table calls it.
        conv_activations: Activations that go into convolutions.
        linear_activations: Activations that go into linear layers.
        residual_add: Whether a sum with another tensor is computed inside the convolution in front of it.
        constant_factor: Whether a product with a constant goes into the weights of the convolution in front of it, or
            into the scale of a product of matrices before or behind it.
        views: Moves that are no kernels of their own and are priced with those around them.
        operand_transpose: Whether a transposition vanishes into the change of layout beside a convolution, or into the
            product of matrices that reads it where that can read its factor transposed.
        is_int8: Whether the inputs of convolutions and linear layers are quantised, and the outputs of convolutions
            (`latency_tables.onnx_quantised`): what quantises and dequantises are kernels of their own.
    """

    name: str
    conv_activations: frozenset[str]
    linear_activations: frozenset[str]
    residual_add: bool
    constant_factor: bool
    views: frozenset[str]
    operand_transpose: bool
    is_int8: bool = False


XNNPACK = Fusion(
    "xnnpack",
    conv_activations=frozenset({"relu", "relu6"}),
    linear_activations=frozenset({"relu", "relu6"}),
    residual_add=False,
    constant_factor=False,
    views=frozenset(),
    operand_transpose=False,
)
"""As XNNPACK documents it."""
ONNX_RUNTIME = Fusion(
    "onnxruntime",
    conv_activations=frozenset({"relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid", "tanh"}),
    linear_activations=frozenset({"relu", "relu6"}),
    residual_add=True,
    constant_factor=True,
    views=frozenset({"", "split", "copy"}),
    operand_transpose=True,
)
"""As ONNX Runtime's optimised graphs show it (x86-64, version 1.31)."""
ONNX_RUNTIME_INT8 = replace(
    ONNX_RUNTIME,
    name="onnxruntime-int8",
    conv_activations=frozenset({"relu", "relu6"}),
    linear_activations=frozenset(),
    residual_add=False,
    is_int8=True,
)
"""The same with integers inside (version 1.32): convolutions no longer absorb hard-swish, nor sums."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch of a runtime.

    Attributes:
        op: Class of the kernel: an operator kind, refined where cost per element differs (``pointwise_conv``,
            ``activation.gelu``, ``pool.global``, ``reshape.transpose``, ``matmul.narrow``).
        key: Text that is equal exactly for kernels that do the same work: class, shapes, what is fused, and the images
            of a batch where there are several.
        macs: Multiply-accumulates.
        elements_read: Elements of inputs and weights.
        elements_written: Elements of the output.
        input_shapes: Shapes of the inputs, batch dimension left out.
        output_shape: Shape of the output, batch dimension left out.
        window: Side of a convolution's or pooling's window.
        element_bytes: Bytes of an element that is read, and of one that is written; None where all numbers have the
            table's size.
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
    element_bytes: tuple[float, float] | None = None

    def is_small(self, bytes_per_element: float) -> bool:
        """Whether all that the kernel touches is likely to stay in the cache."""
        _, _, read, written = self.features(bytes_per_element)
        return read + written <= SMALL_BYTES

    def features(self, bytes_per_element: float) -> tuple[float, float, float, float]:
        """Launches (1), MACs, bytes read, bytes written."""
        read, written = self.element_bytes or (bytes_per_element, bytes_per_element)
        return 1.0, float(self.macs), self.elements_read * read, self.elements_written * written


def kernel_class(kind: str, kernel: int = 1, function: str = "") -> str:
    """The class of an operator of this kind, window and function."""
    if kind == "conv":
        return f"conv.{function}" if function else "pointwise_conv" if kernel == 1 else "conv"
    if kind == "depthwise_conv":
        return "depthwise_conv.large" if kernel > LARGEST_FAST_WINDOW else "depthwise_conv"
    return f"{kind}.{function}" if kind in _QUALIFIED and function else kind


def base_class(op: str) -> str:
    """The operator kind behind a kernel class, for example ``activation`` behind ``activation.gelu``."""
    return op.partition(INT8)[0].partition(".")[0]


def kernel_key(
    op: str, inputs: Sequence[Shape], output: Shape, window: int = 1, stride: int = 1, fused: Sequence[str] = ()
) -> str:
    """The key of a kernel, for example ``conv[3x32x32>16x16x16]k3s2+relu``."""
    shapes = ",".join("x".join(map(str, shape)) for shape in inputs)
    sizes = f"k{window}s{stride}" if window > 1 or stride > 1 else ""
    return f"{op}[{shapes}>{'x'.join(map(str, output))}]{sizes}{''.join(f'+{name}' for name in fused)}"


def fuse(ops: Sequence[Op], fusion: Fusion = XNNPACK, batch: int = 1) -> tuple[Kernel, ...]:
    """The kernels that the operators of one block (or of a whole network) become, for batches of so many images.

    Nothing is absorbed whose input something else reads too.
    """
    readers: dict[str, list[Op]] = {}
    for op in ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    owners: dict[str, Op] = {}  # of every operator that was absorbed or launched: the first of its kernel
    launches = []
    for op in ops:
        if op.name in owners or _vanishes(op, owners, readers, fusion):
            continue
        owners[op.name] = op
        fused: list[str] = []
        last = op
        while len(following := readers.get(last.name, [])) == 1:
            word = _fused_word(op, following[0], fused, fusion)
            if word is None or following[0].name in owners:
                break
            last = following[0]
            owners[last.name] = op
            fused += [word] if word else []
        launches.append((op, _kernel(op, fused, batch), last.name))
    return _with_quantisers(launches, ops, batch) if fusion.is_int8 else tuple(kernel for _, kernel, _ in launches)


def _with_quantisers(launches: Sequence[tuple[Op, Kernel, str]], ops: Sequence[Op], batch: int) -> tuple[Kernel, ...]:
    """Kernels of weighted layers in integers, and those that quantise or dequantise a tensor, each once per tensor.

    Args:
        launches: Each kernel with its operator and the last one that it absorbed.
        ops: All operators.
        batch: Images in a batch.
    """
    views = {op.name: op.inputs[0] for op in ops if op.kind == "reshape"}
    quantised: set[str] = set()  # tensors that are there in integers
    floats: set[str] = set()  # tensors of integers that are there in floats too
    integers: set[str] = set()  # tensors that are made in integers
    kernels = []
    for op, kernel, last in launches:
        sources = [_behind_views(name, views) for name in op.inputs]
        if op.kind in _WEIGHTED and not (op.kind == "conv" and op.input_shapes[0][0] == COLOURS):
            if sources[0] not in quantised:
                kernels.append(_conversion("quantize", op.input_shapes[0], (4, 1), batch))
                quantised.add(sources[0])
            kernels.append(
                replace(
                    kernel,
                    op=kernel.op + INT8,
                    key=kernel.key + INT8,
                    element_bytes=(1, 1 if op.kind in _CONVOLUTIONS else 4),
                )
            )
            if op.kind in _CONVOLUTIONS:
                integers.add(last)
                quantised.add(last)
            continue
        for source, shape in zip(sources, op.input_shapes, strict=True):
            if source in integers - floats:
                kernels.append(_conversion("dequantize", shape, (1, 4), batch))
                floats.add(source)
        kernels.append(kernel)
    return tuple(kernels)


def _behind_views(name: str, views: Mapping[str, str]) -> str:
    while name in views:
        name = views[name]
    return name


def _conversion(kind: str, shape: Shape, element_bytes: tuple[float, float], batch: int) -> Kernel:
    elements, key = batch * prod(shape), kernel_key(kind, [shape], shape) + (f"@{batch}" if batch > 1 else "")
    return Kernel(kind, key, 0, elements, elements, (shape,), shape, 1, 1, element_bytes)


def _vanishes(op: Op, owners: Mapping[str, Op], readers: Mapping[str, Sequence[Op]], fusion: Fusion) -> bool:
    """Whether an operator is no kernel because those before or behind it do its work."""
    if _is_constant_factor(op):
        return fusion.constant_factor and _kinds_behind(op, readers) == {"matmul"}
    if op.kind != "reshape" or op.function in fusion.views:
        return op.kind == "reshape"
    if op.function != "transpose" or not fusion.operand_transpose:
        return False
    maker, behind = owners.get(op.inputs[0]), _kinds_behind(op, readers)
    if (maker is not None and maker.kind in _CONVOLUTIONS) or (behind and behind <= _CONVOLUTIONS):
        return True
    source, output = ([side for side in shape if side != 1] for shape in (op.input_shapes[0], op.output_shape))
    only_moves_heads = sorted(source) == sorted(output) and source[-1:] == output[-1:]
    return behind == {"matmul"} and not only_moves_heads


def _kinds_behind(op: Op, readers: Mapping[str, Sequence[Op]]) -> set[str]:
    """The kinds of the operators that read ``op``, looking through moves and constant factors."""
    kinds: set[str] = set()
    for reader in readers.get(op.name, ()):
        is_passed = reader.kind == "reshape" or _is_constant_factor(reader)
        kinds |= _kinds_behind(reader, readers) if is_passed else {reader.kind}
    return kinds


def _is_constant_factor(op: Op) -> bool:
    return op.kind == "multiply" and len(op.inputs) == 1


def _fused_word(op: Op, follower: Op, fused: Sequence[str], fusion: Fusion) -> str | None:
    """How the key names a follower that ``op`` absorbs; None where it does not."""
    if fusion.constant_factor and _is_constant_factor(follower) and not fused:
        return "" if op.kind == "matmul" or op.kind in _CONVOLUTIONS else None
    if op.kind not in _WEIGHTED or (fused and fused[-1] != "add"):
        return None
    if follower.kind == "batch_norm" and not fused:
        return ""
    if follower.kind == "add" and not fused and fusion.residual_add and op.kind != "linear":
        return "add" if len(follower.inputs) == 2 else None
    allowed = fusion.linear_activations if op.kind == "linear" else fusion.conv_activations
    return follower.function if follower.kind == "activation" and follower.function in allowed else None


def _is_narrow(op: Op) -> bool:
    """Whether a product of matrices has fewer rows, columns or terms of a sum than `NARROW`, however it is laid out."""
    sizes = (*map(prod, op.input_shapes), prod(op.output_shape))
    return op.kind == "matmul" and op.macs < NARROW * max(sizes)


def _kernel(op: Op, fused: Sequence[str], batch: int) -> Kernel:
    name = kernel_class(op.kind, op.kernel, op.function) + ".narrow" * _is_narrow(op)
    return Kernel(
        op=name,
        key=kernel_key(name, op.input_shapes, op.output_shape, op.kernel, op.stride, fused)
        + (f"@{batch}" if batch > 1 else ""),
        macs=batch * op.macs,
        elements_read=op.params + batch * (op.elements_read - op.params + ("add" in fused) * op.elements_written),
        elements_written=batch * op.elements_written,
        input_shapes=op.input_shapes,
        output_shape=op.output_shape,
        window=op.kernel,
        stride=op.stride,
    )
