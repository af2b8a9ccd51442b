"""ONNX files with integers inside: which operators get them, and the files themselves.

Only the inputs of weighted layers are quantised. What ONNX Runtime makes of quantised outputs costs more than it saves:
a softmax between two of them takes five times as long, and sums behind them are dequantised first. So products of
attention, softmax, norms, GELU, residual sums and the layer that reads the image stay in fp32 (*placement*
``inputs-only``). A convolution has an integer kernel only where its output is quantised too; ``chain`` keeps what lies
between convolutions in integers as well. Weights have a scale per output channel, activations one range per tensor
(Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR
2018, arXiv 1712.05877).
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import platform
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from latency_tables.errors import ProfileError

Precision = Literal["fp32", "int8", "int8-dynamic", "w8", "w4", "w2"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int8-dynamic", "w8", "w4", "w2")
"""What a layer can compute in: ``int8`` with ranges of activations known beforehand, ``int8-dynamic`` with ranges found
at every run, ``w8`` to ``w2`` with integer weights alone, in blocks of `BLOCK`."""
WEIGHT_BITS: Mapping[Precision, int] = {"w8": 8, "w4": 4, "w2": 2}
BLOCK = 32
"""Weights of one output that share a scale where weights alone are quantised."""
CALIBRATION_IMAGES = 128
INTEGER_KERNELS = frozenset(
    "QGemm QLinearConv QLinearMatMul MatMulIntegerToFloat DynamicQuantizeMatMul MatMulInteger ConvInteger"
    " MatMulNBits".split()
)
"""What ONNX Runtime calls kernels that multiply integers."""
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_BETWEEN = frozenset(
    "Add Mul Relu Clip Sigmoid GlobalAveragePool AveragePool MaxPool ReduceMean Concat Reshape Transpose".split()
)
"""What a chain keeps in integers between two convolutions."""
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Layer:
    """One weighted layer of an ONNX graph.

    Attributes:
        name: Name of its node, which is the module's where PyTorch's newer exporter wrote it.
        operator: ``Conv``, ``Gemm`` or ``MatMul``.
        weight_shape: Shape of its weight as it is stored.
        groups: Groups of a convolution.
        reads_image: Whether it reads the network's input itself.
    """

    name: str
    operator: str
    weight_shape: tuple[int, ...]
    groups: int
    reads_image: bool

    @property
    def is_linear(self) -> bool:
        """Whether it multiplies matrices."""
        return self.operator != "Conv"

    @property
    def is_depthwise(self) -> bool:
        """Whether it is a convolution of every channel alone."""
        return self.groups > 1 and self.weight_shape[1] == 1


@dataclass(frozen=True)
class Placement:
    """Where quantisers stand.

    Attributes:
        precisions: What each layer computes in, by its name; a layer that is not named computes in fp32.
        is_chained: Whether what lies between quantised convolutions is kept in integers.
        reduces_range: Whether weights have 7 bits, for processors whose products of bytes overflow.
    """

    precisions: Mapping[str, Precision]
    is_chained: bool = False
    reduces_range: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)

    def of(self, *precisions: Precision) -> list[str]:
        """Names of the layers that compute in one of these."""
        return [name for name, precision in self.precisions.items() if precision in precisions]


def place(
    layers: Iterable[Layer], wanted: Mapping[str, Precision] | Precision, *, chain: bool = False, depthwise: bool = True
) -> Placement:
    """Where quantisers stand: a pure function of the layers and what is wanted.

    Args:
        layers: The weighted layers of a graph.
        wanted: One precision for all layers, or one for each by name.
        chain: Whether what lies between convolutions is kept in integers.
        depthwise: Whether depthwise convolutions are quantised.

    Returns:
        The placement; what stays in fp32 although something else was wanted stands in ``left_out`` with the reason.
    """
    precisions: dict[str, Precision] = {}
    left_out: dict[str, str] = {}
    for layer in layers:
        precision = wanted if isinstance(wanted, str) else wanted.get(layer.name, "fp32")
        reason = None if precision == "fp32" else _obstacle(layer, precision, depthwise)
        if reason is not None:
            left_out[layer.name] = reason
        elif precision != "fp32":
            precisions[layer.name] = precision
    return Placement(precisions, chain, not has_exact_byte_products(), left_out)


def _obstacle(layer: Layer, precision: Precision, depthwise: bool) -> str | None:
    """Why a layer stays in fp32; None where it does not."""
    if layer.reads_image:
        return "it reads the image: integers cost accuracy there and save nothing"
    if not layer.is_linear and precision != "int8":
        return f"ONNX Runtime has no convolution in {precision}"
    if layer.is_linear and len(layer.weight_shape) != 2:
        return f"its weight has {len(layer.weight_shape)} dimensions; products of integers take 2"
    if layer.is_depthwise and not depthwise:
        return "depthwise convolutions are faster in fp32"
    return None


def has_exact_byte_products() -> bool:
    """Whether this processor adds up products of bytes without overflow: all but x86-64 before VNNI."""
    return platform.machine().lower() not in ("x86_64", "amd64") or any("vnni" in flag for flag in processor_flags())


def processor_flags() -> tuple[str, ...]:
    """What the processor says of its instructions for integers and short floats; empty where it says nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    known = re.compile(r"avx2|avx512f|avx512_?vnni|avx_vnni|avx512_bf16|amx\w*|asimddp|i8mm|bf16|sve2?")
    return tuple(flag for flag in line.partition(":")[2].split() if known.fullmatch(flag))


def name_layers(model: Any) -> list[Layer]:
    """Give the nodes of weighted layers the names of their modules, and list them in the order in which they run.

    Args:
        model: An ONNX model; names of nodes are changed.
    """
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    images = {value.name for value in graph.input} - set(shapes)  # and whatever is made of them without weights
    used: Counter[str] = Counter()
    layers = []
    for number, node in enumerate(graph.node):
        if node.op_type not in _WEIGHTED or len(node.input) < 2 or node.input[1] not in shapes:
            if not node.name or node.op_type in _WEIGHTED:
                node.name = f"{node.op_type}_{number}"
            if images.intersection(node.input):
                images.update(node.output)
            continue
        scope = _scope(node)
        used[scope] += 1
        node.name = scope if used[scope] == 1 else f"{scope}#{used[scope]}"
        groups = next((int(entry.i) for entry in node.attribute if entry.name == "group"), 1)
        layers.append(Layer(node.name, node.op_type, shapes[node.input[1]], groups, node.input[0] in images))
    return layers


def _scope(node: Any) -> str:
    """The module that a node was written for; the operator's name where the exporter did not say."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = ast.literal_eval(entry.value)
            return re.sub(r"@\d+", "", str(scopes[-2])) if len(scopes) > 1 and scopes[-2] else str(node.op_type)
    return str(node.op_type)


def quantise_onnx(
    model: Any, choose: Callable[[list[Layer]], Placement], images_1CHW: Iterable[npt.NDArray[np.float32]], path: Path
) -> Placement:
    """Write an ONNX file with integers inside.

    Args:
        model: The fp32 ONNX model of one image per batch; its nodes are named after layers.
        choose: Where quantisers stand, given the layers.
        images_1CHW: Images to find the ranges of activations on; not read where no layer needs ranges.
        path: The file to write.

    Returns:
        The placement. A layer that ONNX Runtime has no integers for stays in fp32 and stands in ``left_out``.

    Raises:
        ProfileError: The file cannot be written, or ONNX Runtime would compute no layer in integers.
    """
    import onnx

    placement = choose(name_layers(model))
    images = list(images_1CHW) if placement.of("int8") else []
    while True:
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        try:
            _write(copied, placement, images, path)
        except Exception as error:  # the converters raise whatever they trip over
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ProfileError(f"the ONNX file cannot be quantised: {first}") from error
        found = [name for operator, name in _optimised(path) if operator in INTEGER_KERNELS]
        if len(found) >= len(placement.precisions):
            return placement
        known = {layer_of(name, placement.precisions) for name in found}
        kept = {name: precision for name, precision in placement.precisions.items() if name in known}
        if len(kept) in (0, len(placement.precisions)):
            raise ProfileError(
                f"ONNX Runtime computes {len(found)} layers in integers, expected {len(placement.precisions)}: its"
                " version fuses otherwise",
                "use another version of onnxruntime",
            )
        lost = dict.fromkeys(placement.precisions.keys() - kept.keys(), "ONNX Runtime has no integers for it here")
        placement = replace(placement, precisions=kept, left_out={**placement.left_out, **lost})


def _write(model: Any, placement: Placement, images_1CHW: Iterable[npt.NDArray[np.float32]], path: Path) -> None:
    """Write a model whose layers have names; it is changed."""
    import onnx

    with quiet_converters(), tempfile.TemporaryDirectory(prefix="nas-int8-") as folder:
        model = _with_products(model, set(placement.of("int8-dynamic", *WEIGHT_BITS)))
        for precision, bits in WEIGHT_BITS.items():
            if chosen := placement.of(precision):
                model = _with_weights(model, chosen, bits)
        current = Path(folder) / "0.onnx"
        onnx.save(model, str(current))
        if dynamic := placement.of("int8-dynamic"):
            current = _dynamic(current, dynamic, placement.reduces_range, Path(folder) / "1.onnx")
        if static := placement.of("int8"):
            current = _static(current, static, placement, images_1CHW, Path(folder) / "2.onnx")
        finished = onnx.load(str(current))
        for node in finished.graph.node:
            del node.metadata_props[:]  # where the exporter met it in our code, which takes much space
        onnx.save(finished, str(path))


def layer_of(node: str, known: Collection[str]) -> str | None:
    """The layer that a node of a written or optimised file computes, whatever the steps before appended to its name."""
    name = re.sub(r"_(Q\d|quant)$", "", node.partition("/")[0])
    return name if name in known else None


def kernels_of(path: Path) -> Counter[str]:
    """How often each operator occurs in what ONNX Runtime makes of a file on this processor."""
    return Counter(operator for operator, _ in _optimised(path))


def _optimised(path: Path) -> list[tuple[str, str]]:
    """Operator and name of each node that ONNX Runtime makes of a file on this processor."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="nas-optimised-") as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return [(node.op_type, node.name) for node in onnx.load(options.optimized_model_filepath).graph.node]


def _with_products(model: Any, layers: set[str]) -> Any:
    """Write layers as product and sum, since quantisers of weights know products alone."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    names = {node.output[0]: node.name for node in model.graph.node if node.op_type == "Gemm"}
    if layers.isdisjoint(names.values()):
        return model
    whole = ONNXModel(model)
    whole.replace_gemm_with_matmul()
    sums = {tensor: node.output[0] for node in whole.model.graph.node if node.op_type == "Add" for tensor in node.input}
    for node in whole.model.graph.node:
        if node.op_type == "MatMul":
            output = node.output[0]
            node.name = names.get(output) or names.get(sums.get(output, "")) or node.name
    return whole.model


def _with_weights(model: Any, nodes: list[str], bits: int) -> Any:
    """Integer weights, in blocks with a scale each, for some linear layers."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    others = [node.name for node in model.graph.node if node.name not in nodes]
    quantiser = MatMulNBitsQuantizer(model, bits, BLOCK, is_symmetric=True, nodes_to_exclude=others)
    quantiser.process()
    return quantiser.model.model


def _dynamic(source: Path, nodes: list[str], reduce_range: bool, path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source),
        str(path),
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=nodes,
        per_channel=True,
        reduce_range=reduce_range,
        weight_type=QuantType.QInt8,
    )
    return path


def _static(source: Path, nodes: list[str], placement: Placement, images_1CHW: Iterable[Any], path: Path) -> Path:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    graph = onnx.load(str(prepared)).graph
    chosen = [node.name for node in graph.node if node.name.partition("/")[0] in nodes and node.op_type in _WEIGHTED]
    between = _chained(graph, set(chosen)) if placement.is_chained else []
    quantize_static(
        str(prepared),
        str(path),
        _Reader(images_1CHW, graph.input[0].name),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=sorted({node.op_type for node in graph.node if node.name in {*chosen, *between}}),
        nodes_to_quantize=[*chosen, *between],
        per_channel=True,
        reduce_range=placement.reduces_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
    )
    return path


def _chained(graph: Any, chosen: set[str]) -> list[str]:
    """Operators all of whose inputs come from quantised convolutions, or from others of them."""
    constants = {tensor.name for tensor in graph.initializer}
    inside = {output for node in graph.node if node.op_type == "Conv" and node.name in chosen for output in node.output}
    found = []
    for node in graph.node:
        read = [tensor for tensor in node.input if tensor and tensor not in constants]
        if node.op_type in _BETWEEN and read and inside.issuperset(read):
            inside.update(node.output)
            found.append(node.name)
    return found


class _Reader:
    """Images one by one, as ONNX Runtime asks for them."""

    def __init__(self, images_1CHW: Iterable[npt.NDArray[np.float32]], name: str) -> None:
        self._images, self._name = iter(images_1CHW), name

    def get_next(self) -> dict[str, Any] | None:
        image_1CHW = next(self._images, None)
        return None if image_1CHW is None else {self._name: image_1CHW}


@contextlib.contextmanager
def quiet_converters() -> Iterator[None]:
    """Keep the converters' remarks off the terminal."""
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers  # one of them adds its own when it is imported
        root.setLevel(level)
