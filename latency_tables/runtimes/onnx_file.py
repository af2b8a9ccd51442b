"""ONNX files of networks, written fast.

PyTorch's older exporter takes a third to a fifth of the newer one's time, and ONNX Runtime makes the same kernels of
both. They differ in global pooling, which is written here as the newer one writes it, and in reshapes, which move no
data. Where the older exporter fails, or is no more, the newer one is used.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.errors import ProfileError
from search_spaces.files import replacing

if TYPE_CHECKING:
    from torch import nn

OPSET = 18
INPUT_NAME, OUTPUT_NAME = "image", "logits"


def write_onnx(network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1) -> None:
    """Write a network as an ONNX file for batches of so many images.

    Raises:
        ProfileError: Neither exporter can.
    """
    import onnx

    with replacing(path) as temporary:
        with quiet_exporters():
            try:
                model = _traced(network, input_shape, temporary, batch)
            except Exception:  # whatever the older exporter cannot do, the newer one may
                model = exported_model(network, input_shape, batch)
        onnx.save(model, str(temporary))


def _traced(network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int) -> Any:
    import onnx
    import torch

    with torch.no_grad():
        torch.onnx.export(
            network,
            (torch.zeros(batch, *input_shape),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
        )
    model = onnx.load(str(path))
    _spell_out_global_pooling(model.graph)
    return model


def exported_model(
    network: nn.Module,
    input_shape: tuple[int, int, int],
    batch: int | None = 1,
    outputs: Sequence[str] = (OUTPUT_NAME,),
) -> Any:
    """A network as an ONNX model, by PyTorch's newer exporter, which folds constants.

    The model is for batches of so many images, or of any number where that is None.

    The exporter cannot take all fused attention with a mask or a bias of positions apart. Where it fails, that is
    written as the products and the softmax that define it.

    Raises:
        ProfileError: PyTorch cannot export the network.
    """
    from latency_tables.runtimes.spelt_attention import SpeltAttention

    try:
        return _export(network, input_shape, batch, outputs)
    except ProfileError:
        with SpeltAttention():
            return _export(network, input_shape, batch, outputs)


def _export(network: nn.Module, input_shape: tuple[int, int, int], batch: int | None, outputs: Sequence[str]) -> Any:
    import torch

    try:
        program = torch.onnx.export(
            network,
            (torch.zeros(batch or 2, *input_shape),),  # the exporter takes an axis of 1 for a constant
            dynamo=True,
            dynamic_shapes=None if batch else ({0: torch.export.Dim("batch")},),
            input_names=[INPUT_NAME],
            output_names=list(outputs),
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        reason: BaseException = error
        while reason.__cause__ is not None:
            reason = reason.__cause__
        first = next(iter(str(reason).splitlines()), type(reason).__name__)
        raise ProfileError(f"the network cannot be exported to ONNX: {first}") from error
    if program is None:
        raise ProfileError("the network cannot be exported to ONNX: the exporter returned nothing")
    model = program.model_proto
    if batch is None and not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ProfileError("the network cannot be exported to ONNX for batches of any size: its layers fix the size")
    return model


def _spell_out_global_pooling(graph: Any) -> None:
    import numpy as np
    from onnx import helper, numpy_helper

    axes = "global_pooling_axes"
    for position, node in enumerate(graph.node):
        if node.op_type == "GlobalAveragePool":
            mean = helper.make_node("ReduceMean", [node.input[0], axes], list(node.output), node.name, keepdims=1)
            graph.node[position].CopyFrom(mean)
    if any(axes in node.input for node in graph.node):
        graph.initializer.append(numpy_helper.from_array(np.array([2, 3], dtype=np.int64), axes))


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keep the exporters' remarks off standard output, which carries data only, and off the progress line."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
