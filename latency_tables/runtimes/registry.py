"""Runtimes by name: ours, and those that other packages register as entry points `nas.runtimes`."""

from __future__ import annotations

from latency_tables.kernels import Fusion
from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.browser import BrowserWasm, BrowserWebGpu
from latency_tables.runtimes.executorch import ExecuTorch
from latency_tables.runtimes.litert import LiteRT
from latency_tables.runtimes.onnx_providers import PROVIDERS, OnnxRuntimeOn
from latency_tables.runtimes.onnx_runtime import OnnxRuntime, OnnxRuntimeInt8
from latency_tables.runtimes.openvino import DRIVERS, OpenVINO, OpenVINOBf16, OpenVINOInt8, OpenVINOOn
from latency_tables.runtimes.tensorrt import TensorRT, TensorRTHalf, TensorRTInt8
from latency_tables.runtimes.torch_eager import TorchCompiled, TorchCuda, TorchCudaCompiled, TorchEager
from search_spaces.errors import UnknownNameError
from search_spaces.plugins import Registry

_OURS: tuple[Runtime, ...] = (
    OnnxRuntime(),
    OnnxRuntimeInt8(),
    OpenVINO(),
    OpenVINOBf16(),
    OpenVINOInt8(),
    TorchEager(),
    LiteRT(),
    ExecuTorch(),
    BrowserWasm(),
    BrowserWebGpu(),
    *(OnnxRuntimeOn(provider) for provider in PROVIDERS),
    *(OpenVINOOn(device, driver, precision) for device, driver in DRIVERS.items() for precision in ("fp32", "fp16")),
    TorchCompiled(),
    TorchCuda(),
    TorchCudaCompiled(),
    TensorRT(),
    TensorRTHalf(),
    TensorRTInt8(),
)
RUNTIMES: Registry[Runtime] = Registry(
    "runtime",
    "nas.runtimes",
    {runtime.name: runtime for runtime in _OURS},
)
get_runtime = RUNTIMES.get


def register_runtime(runtime: Runtime) -> None:
    """Register a runtime for this process.

    Raises:
        ValueError: Its name is taken.
    """
    RUNTIMES.register(runtime.name, runtime)


def runtime_names() -> list[str]:
    """The names of all registered runtimes."""
    return sorted(RUNTIMES.names())


def name_with_provider(name: str, provider: str) -> str:
    """The name of a runtime on one of its providers, for example ``onnxruntime:cuda``.

    Raises:
        UnknownNameError: There is no such runtime, or it has no such provider.
    """
    own = get_runtime(name).provider.lower().removesuffix("executionprovider")
    provider = provider.lower()
    if provider in ("", own):
        return name
    found = [each.partition(":")[2] for each in runtime_names() if each.startswith(f"{name}:") and "@" not in each]
    if provider not in found:
        raise UnknownNameError(f"provider of runtime {name}", provider, [own, *found])
    return f"{name}:{provider}"


def name_in_precision(name: str, precision: str) -> str:
    """The name of a runtime that computes in a precision, for example ``onnxruntime@int8``.

    Raises:
        UnknownNameError: There is no such runtime, or it cannot be measured in that precision.
    """
    own = get_runtime(name).precision
    if precision == own:
        return name
    found = [each.rpartition("@")[2] for each in runtime_names() if each.startswith(f"{name}@")]
    if precision not in found:
        raise UnknownNameError(f"precision of runtime {name}", precision, [own, *found])
    return f"{name}@{precision}"


def find_runtime(title: str, provider: str = "", precision: str = "fp32") -> Runtime | None:
    """The runtime that latency tables call ``title``, on a provider; None where none of that title is registered."""
    titled = [each for each in RUNTIMES.values() if (each.title, each.precision) == (title, precision)]
    return next((runtime for runtime in titled if runtime.provider == provider), titled[0] if titled else None)


def find_fusion(name: str) -> Fusion:
    """What a latency table's runtime fuses, by the name that the table gives it.

    Raises:
        UnknownNameError: No registered runtime fuses in this way.
    """
    known = []
    for runtime in RUNTIMES.values():
        if runtime.fusion.name == name:
            return runtime.fusion
        known.append(runtime.fusion.name)
    raise UnknownNameError("fusion", name, known)
