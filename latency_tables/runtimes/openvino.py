"""OpenVINO on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.onnx_file import write_onnx

if TYPE_CHECKING:
    from torch import nn


class OpenVINO(Runtime):
    """OpenVINO reads ONNX files. It is told to compute in fp32, which it would not do by itself."""

    name = "openvino"
    title = "OpenVINO"
    provider = "CPU"
    suffix = ".onnx"
    fusion = "onnxruntime"
    module = "openvino"
    distribution = "openvino"
    packages = ("openvino", "numpy")
    options = {"inference_precision_hint": "f32", "performance_hint": "latency"}  # noqa: RUF012

    def write(self, network: nn.Module, input_shape: tuple[int, int, int], path: Path) -> None:
        """As `Runtime.write`."""
        write_onnx(network, input_shape, path)
