"""PyTorch without compilation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.kernels import ONNX_RUNTIME
from latency_tables.runtimes.base import Runtime
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


def load_program(path: str, threads: int, shape: list[int] | None) -> tuple[Run, str]:
    """PyTorch without compilation, from an exported program that holds tensors only."""
    import torch

    check_program(path)
    torch.set_num_threads(threads)
    module = torch.export.load(path).module()

    def run(array: Any) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(array)).numpy()

    return run, "fp32"


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
    helpers = (check_program,)
    load = staticmethod(load_program)

    def write(self, network: nn.Module, input_shape: tuple[int, int, int], path: Path) -> dict[str, Any]:
        """As `Runtime.write`."""
        write_program(network, input_shape, path)
        return {}
