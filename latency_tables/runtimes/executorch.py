"""ExecuTorch with XNNPACK."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.kernels import XNNPACK
from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.program import convert_program

if TYPE_CHECKING:
    from torch import nn

    from latency_tables.worker import Run


def set_threads(threads: int) -> None:
    """Its Python interface has no way to say it, so the library's own function is called, and checked."""
    import ctypes
    import os

    import executorch.runtime

    folder = os.path.dirname(os.path.dirname(os.path.abspath(executorch.runtime.__file__)))
    try:
        library = ctypes.CDLL(os.path.join(folder, "lib", "libexecutorch_threadpool.so"))
        space = "_ZN10executorch9extension10threadpool"
        find, reset = library[space + "14get_threadpoolEv"], library[space + "10ThreadPool24_unsafe_reset_threadpoolEj"]
        count = library["_ZNK10executorch9extension10threadpool10ThreadPool16get_thread_countEv"]
    except (OSError, AttributeError) as error:
        raise ValueError(f"this version of ExecuTorch cannot be told a number of threads: {error}") from error
    find.restype, count.restype = ctypes.c_void_p, ctypes.c_size_t
    pool = ctypes.c_void_p(find())
    reset(pool, ctypes.c_uint32(threads))
    if count(pool) != threads:
        raise ValueError(f"ExecuTorch computes on {count(pool)} threads, expected {threads}")


def load_method(path: str, threads: int, shape: list[int] | None) -> tuple[Run, str]:
    """ExecuTorch with XNNPACK."""
    import torch
    from executorch.runtime import Runtime

    set_threads(threads)
    method = Runtime.get().load_program(path).load_method("forward")

    def run(array: Any) -> Any:
        return method.execute([torch.from_numpy(array)])[0].numpy()

    return run, "fp32"


def convert(program: Any, path: str) -> dict[str, Any]:
    """Write an ExecuTorch program whose operators run in XNNPACK wherever it has them, and count those."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.devtools.backend_debug import get_delegation_info
    from executorch.exir import to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    info = get_delegation_info(edge.exported_program().graph_module)
    with open(path, "wb") as file:
        edge.to_executorch().write_to_file(file)
    inside, outside = info.num_delegated_nodes, info.num_non_delegated_nodes
    return {"delegate": {"name": "XNNPACK", "nodes": inside, "all_nodes": inside + outside}}


class ExecuTorch(Runtime):
    """ExecuTorch, in an environment of its own: it brings 36 packages and needs the PyTorch that it was built with."""

    name = "executorch"
    title = "ExecuTorch"
    provider = "XNNPACK"
    suffix = ".pte"
    fusion = XNNPACK
    module = "executorch"
    distribution = "executorch"
    packages = ("executorch==1.5.1", "torch==2.14.1")
    own_environment = True
    helpers = (set_threads,)
    load = staticmethod(load_method)

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """As `Runtime.write`."""
        return convert_program(self, convert, network, input_shape, path, batch)
