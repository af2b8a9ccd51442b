"""``onnx-fp16``: all numbers of the fp32 ONNX file in half precision but for the input and the logits.

It is not promised to be faster; that is measured (`nas.exporting.formats.measured`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latency_tables.onnx_quantised import quiet_converters
from nas.errors import NasError
from nas.exporting.formats.base import ExportedNetwork
from nas.exporting.formats.onnx_file import OnnxFile


class HalfPrecision(OnnxFile):
    """``onnx-fp16``. What it costs is measured on images."""

    name = "onnx-fp16"
    file = "model.fp16.onnx"
    tolerance = None

    def write(self, network: ExportedNetwork, path: Path) -> Mapping[str, Any]:
        """Write all numbers in half precision.

        Raises:
            NasError: The fp32 file cannot be converted.
        """
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        try:
            with quiet_converters():
                onnx.save(convert_float_to_float16(onnx.load(str(network.onnx)), keep_io_types=True), str(path))
        except Exception as error:  # the converter raises whatever it trips over
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise NasError(
                f"format `{self.name}`: the ONNX file cannot be converted: {first}", hint="leave the format out"
            ) from error
        return {}


HALF = HalfPrecision()
