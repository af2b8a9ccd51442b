"""LiteRT (TensorFlow Lite) with XNNPACK: one file for phones, boards and this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.kernels import XNNPACK
from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.program import convert_program

if TYPE_CHECKING:
    from torch import nn

    from latency_tables.worker import Run


def load_interpreter(path: str, threads: int, shape: list[int] | None) -> tuple[Run, str]:
    """LiteRT (TensorFlow Lite) with XNNPACK."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    found = list(source["shape"])
    if source["dtype"] is not np.float32 or found != list(shape or found):
        raise ValueError("input is {} {}, expected float32 {}".format(source["dtype"], found, shape or found))

    def run(array: Any) -> Any:
        interpreter.set_tensor(source["index"], array)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return run, "fp32"


def convert(program: Any, path: str) -> dict[str, Any]:
    """Write a TensorFlow Lite file."""
    import litert_torch

    (inputs, _) = program.example_inputs
    litert_torch.convert(program.module(), inputs).export(path)
    return {}


class LiteRT(Runtime):
    """LiteRT, in an environment of its own: its converter needs an older PyTorch."""

    name = "litert"
    title = "LiteRT"
    provider = "XNNPACK"
    suffix = ".tflite"
    fusion = XNNPACK
    module = "ai_edge_litert"
    distribution = "ai-edge-litert"
    packages = ("litert-torch==0.10.0", "ai-edge-litert==2.3.0")
    own_environment = True
    load = staticmethod(load_interpreter)

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """As `Runtime.write`."""
        return convert_program(self, convert, network, input_shape, path, batch)
