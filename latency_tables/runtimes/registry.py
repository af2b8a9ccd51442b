"""Runtimes by name: ours, and those that other packages register as entry points `nas.runtimes`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from latency_tables.kernels import Fusion
from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.executorch import ExecuTorch
from latency_tables.runtimes.litert import LiteRT
from latency_tables.runtimes.onnx_runtime import OnnxRuntime
from latency_tables.runtimes.openvino import OpenVINO
from latency_tables.runtimes.torch_eager import TorchEager
from search_spaces.errors import UnknownNameError

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


def find_title(title: str) -> Runtime | None:
    """The runtime that latency tables call ``title``; None where no runtime of that title is registered."""
    return next((runtime for runtime in _all_runtimes().values() if runtime.title == title), None)


def find_fusion(name: str) -> Fusion:
    """What a latency table's runtime fuses, by the name that the table gives it.

    Raises:
        UnknownNameError: No registered runtime fuses in this way.
    """
    known = {runtime.fusion.name: runtime.fusion for runtime in _runtimes.values()}
    if name not in known:
        known |= {runtime.fusion.name: runtime.fusion for runtime in _plugins().values()}
    if name not in known:
        raise UnknownNameError("fusion", name, known)
    return known[name]


def _all_runtimes() -> dict[str, Runtime]:
    return {**_plugins(), **_runtimes}


@cache
def _plugins() -> dict[str, Runtime]:
    return {point.name: point.load()() for point in entry_points(group="nas.runtimes")}
