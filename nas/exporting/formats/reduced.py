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
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from latency_tables.runtimes.onnx_file import INPUT_NAME
from nas.errors import NasError, UsageError
from nas.exporting.formats.base import ExportedNetwork
from nas.exporting.formats.onnx_file import OnnxFile
from search_spaces import SearchSpace

CALIBRATION_IMAGES = 128
QUANTISED = ("Conv", "Gemm", "MatMul")
"""Operators with integers inside: those that multiply matrices. Norms, softmax, GELU and the residual sums, whose
ranges suit 8 bits badly in vision transformers, stay in fp32."""


class ReducedOnnx(OnnxFile):
    """An ONNX file of reduced precision, made from the fp32 file. What that costs is measured on images."""

    tolerance = None

    def write(self, network: ExportedNetwork, path: Path) -> Mapping[str, Any]:
        """Write the file.

        Raises:
            NasError: The fp32 file cannot be converted.
        """
        try:
            with _quiet():
                self.convert(network, path)
        except Exception as error:  # the converters raise whatever they trip over
            raise NasError(
                f"format `{self.name}`: the ONNX file cannot be converted: {_first_line(error)}",
                hint="leave the format out",
            ) from error
        return {}

    @abstractmethod
    def convert(self, network: ExportedNetwork, path: Path) -> None:
        """Write the file; whatever is raised is told as one error."""


class HalfPrecision(ReducedOnnx):
    """``onnx-fp16``."""

    name = "onnx-fp16"
    file = "model.fp16.onnx"

    def convert(self, network: ExportedNetwork, path: Path) -> None:
        """Write all numbers in half precision."""
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(str(network.onnx)), keep_io_types=True), str(path))


class Integers(ReducedOnnx):
    """``onnx-int8``."""

    name = "onnx-int8"
    file = "model.int8.onnx"

    def check(self, space: SearchSpace, is_trained: bool) -> None:
        """Refuse networks without training images."""
        super().check(space, is_trained)
        if not is_trained:
            raise UsageError(
                f"format `{self.name}` is calibrated on training images, found random weights and no images",
                hint="search with `--data` or `--supernet`, and export from that run",
            )

    def convert(self, network: ExportedNetwork, path: Path) -> None:
        """Quantise with ranges from the calibration images."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory(prefix="nas-int8-") as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(network.onnx), str(prepared))
            quantize_static(
                str(prepared),
                str(path),
                _Reader(list(network.calibration())),
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


HALF, INTEGER = HalfPrecision(), Integers()
