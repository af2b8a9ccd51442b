"""PyTorch: eager, compiled, and on a GPU of NVIDIA, where its launches are recorded once as a graph and replayed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.kernels import ONNX_RUNTIME
from latency_tables.runtimes.base import Runtime
from latency_tables.runtimes.nvidia import ask_gpu, nvidia_facts, nvidia_state
from latency_tables.runtimes.program import write_program

if TYPE_CHECKING:
    from torch import nn

    from latency_tables.worker import Run


def check_program(path: str) -> None:
    """Make sure that loading an exported program of PyTorch unpickles nothing but tensors.

    Raises:
        ValueError: The archive holds an object of another kind.
    """
    import io
    import json
    import zipfile

    import torch

    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            folder, _, file = name.rpartition("/")
            if file.endswith("_config.json"):
                for entry in json.loads(archive.read(name))["config"].values():
                    if entry["use_pickle"] or not entry["path_name"].startswith(("weight_", "tensor_")):
                        raise ValueError(f"`{path}` holds a pickled object, expected tensors only")
            elif folder.endswith(("data/weights", "data/constants")) and file.endswith(".pt"):
                raise ValueError(f"`{path}` holds pickled weights, expected tensors only")
            elif folder.endswith("data/sample_inputs"):
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)


def load_program(path: str, threads: int, shape: list[int] | None, **options: Any) -> tuple[Run, str]:
    """PyTorch on the processor, from an exported program that holds tensors only."""
    import torch

    check_program(path)
    torch.set_num_threads(threads)
    module: Any = torch.export.load(path).module()
    if options.get("compiles"):
        module = torch.compile(module, dynamic=False)

    def run(array: Any) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(array)).numpy()

    return run, "fp32"


def load_on_gpu(path: str, threads: int, shape: list[int] | None, **options: Any) -> tuple[Run, str]:
    """PyTorch on the GPU: the launches of one run, recorded as a graph, on memory that stays where it is.

    Factors of fp32 products are not shortened (TF32), which PyTorch does in convolutions unless it is told not to.
    """
    import torch

    check_program(path)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    module: Any = torch.export.load(path).module().cuda()
    if options.get("compiles"):
        module = torch.compile(module, dynamic=False, mode="max-autotune-no-cudagraphs")
    assert shape is not None  # an exported program has one
    image = torch.zeros(*shape, device="cuda")
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        with torch.cuda.stream(side):
            for _ in range(3):  # what is chosen or allocated at first must not be recorded
                module(image)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = module(image)

    def run(array: Any) -> Any:
        image.copy_(torch.from_numpy(array))
        graph.replay()
        return output.float().cpu().numpy()

    run.replay = graph.replay  # type: ignore[attr-defined]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
    run.events = events  # type: ignore[attr-defined]
    return run, "fp32"


def torch_event_clock(run: Any, image: Any) -> tuple[int, int]:
    """Time of one run between two events of the GPU, copies not included."""
    begin, end = run.events
    begin.record()
    run.replay()
    end.record()
    end.synchronize()
    passed = round(begin.elapsed_time(end) * 1e6)
    return passed, passed


def torch_gpu_facts(**options: Any) -> dict[str, Any]:
    """What the driver says, and whether PyTorch can use it."""
    import torch

    told = nvidia_facts()
    if "missing" not in told and not torch.cuda.is_available():
        return {
            "missing": f"PyTorch {torch.__version__} finds no GPU that it can use",
            "remedy": "pip install --force-reinstall torch, whose builds for Linux at PyPI are for CUDA",
        }
    return told


class TorchEager(Runtime):
    """PyTorch, from an exported program: one call per operator, nothing fused.

    The program's weights lie in the file as plain bytes. The worker refuses a file that holds a pickled object, which
    `torch.export.load` would otherwise load.
    """

    name = "torch"
    title = "PyTorch"
    provider = "CPU"
    suffix = ".pt2"
    fusion = ONNX_RUNTIME
    module = "torch"
    distribution = "torch"
    packages = ("torch", "numpy")
    options = {"mode": "eager"}  # noqa: RUF012
    helpers: tuple[Callable[..., Any], ...] = (check_program,)
    load = staticmethod(load_program)

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        """As `Runtime.write`."""
        write_program(network, input_shape, path, batch)
        return {}


class TorchCompiled(TorchEager):
    """PyTorch compiled by `torch.compile`; the worker's first run of a network compiles it."""

    name = "torch:compiled"
    provider = "CPU compiled"
    options = {"mode": "torch.compile"}  # noqa: RUF012
    bound = {"compiles": True}  # noqa: RUF012


class TorchCuda(TorchEager):
    """PyTorch on a GPU of NVIDIA, its launches replayed as a graph."""

    name = "torch:cuda"
    provider = "CUDA"
    options = {"mode": "eager", "launches": "graph", "tf32": "off"}  # noqa: RUF012
    helpers = (check_program, ask_gpu, nvidia_facts)
    pins = False
    load = staticmethod(load_on_gpu)
    clock = staticmethod(torch_event_clock)
    facts = staticmethod(torch_gpu_facts)
    state = staticmethod(nvidia_state)


class TorchCudaCompiled(TorchCuda):
    """PyTorch on a GPU of NVIDIA, compiled by `torch.compile`, its launches replayed as a graph."""

    name = "torch:cuda-compiled"
    provider = "CUDA compiled"
    options = {"mode": "torch.compile", "launches": "graph", "tf32": "off"}  # noqa: RUF012
    bound = {"compiles": True}  # noqa: RUF012
