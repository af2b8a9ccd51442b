"""Runtimes by name: ours, and those that other packages register as entry points `nas.runtimes`."""

from __future__ import annotations

from latency_tables.kernels import Fusion
from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.executorch import ExecuTorch
from latency_tables.runtimes.litert import LiteRT
from latency_tables.runtimes.onnx_runtime import OnnxRuntime
from latency_tables.runtimes.openvino import OpenVINO
from latency_tables.runtimes.torch_eager import TorchEager
from search_spaces.errors import UnknownNameError
from search_spaces.plugins import Registry

RUNTIMES: Registry[Runtime] = Registry(
    "runtime",
    "nas.runtimes",
    {runtime.name: runtime for runtime in (OnnxRuntime(), OpenVINO(), TorchEager(), LiteRT(), ExecuTorch())},
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


def find_title(title: str) -> Runtime | None:
    """The runtime that latency tables call ``title``; None where no runtime of that title is registered."""
    return next((runtime for runtime in RUNTIMES.values() if runtime.title == title), None)


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
