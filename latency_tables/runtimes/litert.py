"""LiteRT (TensorFlow Lite) with XNNPACK: one file for phones, boards and this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.program import convert_program

if TYPE_CHECKING:
    from torch import nn


class LiteRT(Runtime):
    """LiteRT, in an environment of its own: its converter needs an older PyTorch."""

    name = "litert"
    title = "LiteRT"
    provider = "XNNPACK"
    suffix = ".tflite"
    fusion = "xnnpack"
    module = "ai_edge_litert"
    distribution = "ai-edge-litert"
    packages = ("litert-torch==0.10.0", "ai-edge-litert==2.3.0")
    own_environment = True

    def write(self, network: nn.Module, input_shape: tuple[int, int, int], path: Path) -> None:
        """As `Runtime.write`."""
        convert_program(self, network, input_shape, path)
