"""PyTorch without compilation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.program import write_program

if TYPE_CHECKING:
    from torch import nn


class TorchEager(Runtime):
    """PyTorch, from an exported program: one call per operator, nothing fused.

    The program's weights lie in the file as plain bytes. The worker refuses a file that holds a pickled object, which
    `torch.export.load` would otherwise load.
    """

    name = "torch"
    title = "PyTorch"
    provider = "CPU"
    suffix = ".pt2"
    fusion = "onnxruntime"
    module = "torch"
    distribution = "torch"
    packages = ("torch", "numpy")
    options = {"mode": "eager"}  # noqa: RUF012

    def write(self, network: nn.Module, input_shape: tuple[int, int, int], path: Path) -> None:
        """As `Runtime.write`."""
        write_program(network, input_shape, path)
