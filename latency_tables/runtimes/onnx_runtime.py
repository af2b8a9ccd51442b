"""ONNX Runtime on the CPU: the runtime of this machine's own table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.onnx_file import write_onnx

if TYPE_CHECKING:
    from torch import nn


class OnnxRuntime(Runtime):
    """ONNX Runtime; the only one whose profiler tells what each kernel takes."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    provider = "CPUExecutionProvider"
    suffix = ".onnx"
    fusion = "onnxruntime"
    module = "onnxruntime"
    distribution = "onnxruntime"
    packages = ("onnxruntime", "numpy")
    profiles = True
    options = {"execution": "sequential", "optimisation": "all"}  # noqa: RUF012

    def write(self, network: nn.Module, input_shape: tuple[int, int, int], path: Path) -> None:
        """As `Runtime.write`."""
        write_onnx(network, input_shape, path)
