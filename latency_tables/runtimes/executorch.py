"""ExecuTorch with XNNPACK."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.program import convert_program

if TYPE_CHECKING:
    from torch import nn


class ExecuTorch(Runtime):
    """ExecuTorch, in an environment of its own: it brings 36 packages and needs the PyTorch that it was built with."""

    name = "executorch"
    title = "ExecuTorch"
    provider = "XNNPACK"
    suffix = ".pte"
    fusion = "xnnpack"
    module = "executorch"
    distribution = "executorch"
    packages = ("executorch==1.5.1", "torch==2.14.1")
    own_environment = True

    def write(self, network: nn.Module, input_shape: tuple[int, int, int], path: Path) -> None:
        """As `Runtime.write`."""
        convert_program(self, network, input_shape, path)
