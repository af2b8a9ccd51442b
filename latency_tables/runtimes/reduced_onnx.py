"""ONNX files of fewer bits for accelerators, which take an engine's precision from the file's own types.

Weights are random and ranges come from random images: neither changes what a network takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.errors import ProfileError
from latency_tables.onnx_quantised import quiet_converters
from latency_tables.runtimes.onnx_file import INPUT_NAME, write_onnx
from search_spaces.files import replacing

if TYPE_CHECKING:
    from torch import nn

RANGE_IMAGES = 4
QUANTISED = ("Conv", "Gemm", "MatMul")


def write_half_onnx(network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1) -> None:
    """Write a network with all numbers in half precision but for the image and the logits.

    Raises:
        ProfileError: It cannot be exported or converted.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with tempfile.TemporaryDirectory(prefix="nas-fp16-") as folder, replacing(path) as temporary:
        fp32 = Path(folder) / "fp32.onnx"
        write_onnx(network, input_shape, fp32, batch)
        try:
            with quiet_converters():
                onnx.save(convert_float_to_float16(onnx.load(str(fp32)), keep_io_types=True), str(temporary))
        except Exception as error:  # the converter raises whatever it trips over
            raise ProfileError(f"the network cannot be converted to fp16: {_first_line(error)}") from error


def write_symmetric_onnx(network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1) -> None:
    """Write a network whose products are of signed 8-bit numbers without zero points, as TensorRT takes them.

    Raises:
        ProfileError: It cannot be exported or quantised.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(prefix="nas-int8-") as folder, replacing(path) as temporary:
        fp32 = Path(folder) / "fp32.onnx"
        write_onnx(network, input_shape, fp32, batch)
        try:
            with quiet_converters():
                quantize_static(
                    str(fp32),
                    str(temporary),
                    _RandomImages((batch, *input_shape)),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(QUANTISED),
                    per_channel=True,
                    activation_type=QuantType.QInt8,
                    weight_type=QuantType.QInt8,
                    extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
                )
        except Exception as error:  # the quantiser raises whatever it trips over
            raise ProfileError(f"the network cannot be quantised: {_first_line(error)}") from error


class _RandomImages:
    """Images one by one, as ONNX Runtime's quantiser asks for them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._feeds = self._images(shape)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)

    def _images(self, shape: tuple[int, ...]) -> Iterator[dict[str, Any]]:
        import numpy as np

        generator = np.random.default_rng(0)
        for _ in range(RANGE_IMAGES):
            yield {INPUT_NAME: generator.standard_normal(shape).astype(np.float32)}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
