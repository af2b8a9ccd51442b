"""OpenVINO on the processor, and on GPUs and NPUs of Intel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.kernels import ONNX_RUNTIME
from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.nvidia import wall_clock
from latency_tables.runtimes.onnx_file import write_onnx

if TYPE_CHECKING:
    from torch import nn

    from latency_tables.worker import Run


DRIVERS = {
    "GPU": "https://github.com/intel/compute-runtime (`apt install intel-opencl-icd`)",
    "NPU": "https://github.com/intel/linux-npu-driver",
}
"""Accelerators of Intel, and where their drivers are to be had."""


def load_model(
    path: str, threads: int, shape: list[int] | None, device: str = "CPU", driver: str = "", hint: str = "f32"
) -> tuple[Run, str]:
    """OpenVINO on a device. It computes in bf16 or fp16 wherever the device can, unless it is told not to."""
    import openvino

    core = openvino.Core()
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        options.update(INFERENCE_NUM_THREADS=threads, NUM_STREAMS=1, ENABLE_CPU_PINNING=False)
    compiled = core.compile_model(core.read_model(path), device, options)
    infer = compiled.create_infer_request()

    def run(array: Any) -> Any:
        infer.infer({0: array}, share_inputs=True)
        return infer.get_output_tensor(0).data

    kinds = {str(node.get_rt_info()["runtimePrecision"].astype(str)) for node in compiled.get_runtime_model().get_ops()}
    reduced = kinds & {"bf16", "f16"}
    got = {(): "fp32", ("f16",): "fp16", ("bf16",): "bf16"}.get(tuple(reduced), "+".join(sorted(kinds)))
    return run, got


def find_device(device: str, driver: str, hint: str) -> dict[str, Any]:
    """The name of an accelerator of Intel, or what is missing."""
    import openvino

    core = openvino.Core()
    found = [name for name in core.available_devices if name.partition(".")[0] == device]
    if found:
        return {"accelerator": core.get_property(found[0], "FULL_DEVICE_NAME")}
    return {
        "missing": f"OpenVINO finds no {device}: found {', '.join(core.available_devices)}",
        "remedy": f"install the driver of an Intel {device}: {driver}",
    }


def find_bf16(hint: str) -> dict[str, Any]:
    """What is missing where a processor does not compute in bf16."""
    import openvino

    found = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in found:
        return {}
    return {"missing": f"OpenVINO computes in {', '.join(found)} on this processor", "remedy": "measure in fp32"}


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

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """As `Runtime.write`."""
        write_onnx(network, input_shape, path, batch)
        return {}


class OpenVINOBf16(OpenVINO):
    """OpenVINO as it is by itself on processors that have bf16."""

    name = "openvino@bf16"
    precision = "bf16"
    tolerance = 0.03
    facts = staticmethod(find_bf16)
    options = {**OpenVINO.options, "inference_precision_hint": "bf16"}  # noqa: RUF012
    bound = {"hint": "bf16"}  # noqa: RUF012


class OpenVINOOn(OpenVINO):
    """OpenVINO on an accelerator of Intel.

    Args:
        device: What OpenVINO calls it.
        driver: Where its driver is to be had.
        precision: What it computes in, ``fp32`` or ``fp16``.
    """

    pins = False
    clock = staticmethod(wall_clock)
    facts = staticmethod(find_device)

    def __init__(self, device: str, driver: str, precision: str = "fp32") -> None:
        self.provider, self._driver, self.precision = device, driver, precision
        self.name = f"openvino:{device.lower()}" + ("" if precision == "fp32" else f"@{precision}")
        self.tolerance = 1e-3 if precision == "fp32" else 0.03
        self.options = {**OpenVINO.options, "inference_precision_hint": self.bound["hint"]}

    @property
    def bound(self) -> Mapping[str, Any]:
        """As `Runtime.bound`."""
        return {"device": self.provider, "driver": self._driver, "hint": self.precision.replace("fp", "f")}
