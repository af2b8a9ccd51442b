"""Runtimes by name: ours, and those that other packages register as entry points `nas.runtimes`."""

from __future__ import annotations

from importlib.metadata import entry_points

from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.executorch import ExecuTorch
from latency_tables.runtimes.litert import LiteRT
from latency_tables.runtimes.onnx_runtime import OnnxRuntime
from latency_tables.runtimes.openvino import OpenVINO
from latency_tables.runtimes.torch_eager import TorchEager
from search_spaces.errors import UnknownNameError

DEFAULT_RUNTIME = "onnxruntime"
_runtimes: dict[str, Runtime] = {
    runtime.name: runtime for runtime in (OnnxRuntime(), OpenVINO(), TorchEager(), LiteRT(), ExecuTorch())
}


def register_runtime(runtime: Runtime) -> None:
    """Register a runtime.

    Raises:
        ValueError: Its name is taken.
    """
    if runtime.name in _all_runtimes():
        raise ValueError(f"runtime `{runtime.name}` is registered already")
    _runtimes[runtime.name] = runtime


def get_runtime(name: str) -> Runtime:
    """The runtime called ``name``.

    Raises:
        UnknownNameError: There is none.
    """
    runtimes = _all_runtimes()
    if name not in runtimes:
        raise UnknownNameError("runtime", name, runtimes)
    return runtimes[name]


def runtime_names() -> list[str]:
    """The names of all registered runtimes."""
    return sorted(_all_runtimes())


def _all_runtimes() -> dict[str, Runtime]:
    plugins = {point.name: point for point in entry_points(group="nas.runtimes") if point.name not in _runtimes}
    return {**{name: point.load()() for name, point in plugins.items()}, **_runtimes}
