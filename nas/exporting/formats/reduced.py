"""ONNX files of reduced precision, made from the fp32 file after training.

``onnx-fp16`` keeps all numbers in half precision but for the input and the logits. ``onnx-int8`` has 8-bit weights, a
scale per channel, and 8-bit activations whose ranges come from calibration images, as quantise and dequantise nodes
that ONNX Runtime fuses (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, arXiv 1712.05877). Neither is promised to be faster; that is measured
(`nas.exporting.formats.measured`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from latency_tables.runtimes.onnx_file import INPUT_NAME
from nas.errors import NasError
from nas.exporting.formats.names import HALF

CALIBRATION_IMAGES = 128
QUANTISED = ("Conv", "Gemm", "MatMul")
"""Operators with integers inside: those that multiply matrices. Norms, softmax, GELU and the residual sums, whose
ranges suit 8 bits badly in vision transformers, stay in fp32."""
FILES = {"onnx-fp16": "model.fp16.onnx", "onnx-int8": "model.int8.onnx"}


def write_reduced(name: str, source: Path, calibration_BCHW: Sequence[Tensor]) -> Path:
    """Write the fp16 or int8 form of an ONNX file beside it.

    Args:
        name: ``onnx-fp16`` or ``onnx-int8``.
        source: The fp32 file.
        calibration_BCHW: Batches of images at the network's side, for int8; the first 128 images are used.

    Returns:
        The file.

    Raises:
        NasError: The file cannot be converted.
    """
    path = source.with_name(FILES[name])
    try:
        with _quiet():
            if name == HALF:
                _to_half(source, path)
            else:
                _to_integers(source, path, calibration_BCHW)
    except Exception as error:  # the converters raise whatever they trip over
        raise NasError(
            f"format `{name}`: the ONNX file cannot be converted: {_first_line(error)}", hint="leave the format out"
        ) from error
    return path


def _to_half(source: Path, path: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(path))


def _to_integers(source: Path, path: Path, calibration_BCHW: Sequence[Tensor]) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="nas-int8-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared))
        quantize_static(
            str(prepared),
            str(path),
            _Reader(calibration_BCHW),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


class _Reader:
    """Calibration images one by one, as ONNX Runtime asks for them."""

    def __init__(self, batches_BCHW: Sequence[Tensor]) -> None:
        self._batches = batches_BCHW
        self._feeds = self._images()

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)

    def rewind(self) -> None:
        self._feeds = self._images()

    def _images(self) -> Iterator[dict[str, Any]]:
        left = CALIBRATION_IMAGES
        for batch_BCHW in self._batches:
            for image_CHW in batch_BCHW[:left]:
                yield {INPUT_NAME: image_CHW[None].numpy()}
            left -= len(batch_BCHW)
            if left <= 0:
                return


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters' remarks off the terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
