"""OpenVINO on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.kernels import ONNX_RUNTIME
from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.onnx_file import write_onnx

if TYPE_CHECKING:
    from torch import nn

    from latency_tables.worker import Run


def load_model(path: str, threads: int, shape: list[int] | None) -> tuple[Run, str]:
    """OpenVINO on the CPU. It computes in bf16 wherever the processor can, unless it is told not to."""
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(core.read_model(path), "CPU", options)
    infer = compiled.create_infer_request()

    def run(array: Any) -> Any:
        infer.infer({0: array}, share_inputs=True)
        return infer.get_output_tensor(0).data

    kinds = {str(node.get_rt_info()["runtimePrecision"].astype(str)) for node in compiled.get_runtime_model().get_ops()}
    got = "fp32" if not kinds & {"bf16", "f16"} else "+".join(sorted(kinds))
    return run, got


class OpenVINO(Runtime):
    """OpenVINO reads ONNX files. It is told to compute in fp32, which it would not do by itself."""

    name = "openvino"
    title = "OpenVINO"
    provider = "CPU"
    suffix = ".onnx"
    fusion = ONNX_RUNTIME
    module = "openvino"
    distribution = "openvino"
    packages = ("openvino", "numpy")
    options = {"inference_precision_hint": "f32", "performance_hint": "latency"}  # noqa: RUF012
    load = staticmethod(load_model)

    def write(self, network: nn.Module, input_shape: tuple[int, int, int], path: Path) -> dict[str, Any]:
        """As `Runtime.write`."""
        write_onnx(network, input_shape, path)
        return {}
