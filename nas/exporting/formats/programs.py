"""Files of runtimes that live in an environment of their own, LiteRT and ExecuTorch, verified where they run.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latency_tables.runtimes import get_runtime
from latency_tables.runtimes.base import Runtime
from nas.errors import NasError
from nas.exporting.formats.base import ExportedNetwork, FileFormat
from search_spaces import SearchSpace

_RUNNER = Path(__file__).with_name("run_elsewhere.py")


class RuntimeFormat(FileFormat):
    """The file of a runtime that is measured with too (`latency_tables.runtimes`), which writes, loads and times it.

    Args:
        runtime: Name of the runtime, and of the format.
        file: Name of the file in the exported folder.
    """

    runtime: str
    tolerance = 1e-3

    def __init__(self, runtime: str, file: str) -> None:
        self.name = self.runtime = runtime
        self.file = file

    def check(self, space: SearchSpace, is_trained: bool) -> None:
        """Refuse where the runtime is not installed; the hint says how to install it."""
        super().check(space, is_trained)
        get_runtime(self.runtime).python()

    def write(self, network: ExportedNetwork, path: Path) -> Mapping[str, Any]:
        """Convert the network in the runtime's environment.

        Returns:
            ``runtime``, and ``delegate`` where the converter says how many operators a delegate took: ``name``,
            ``nodes``, ``all_nodes``.

        Raises:
            ProfileError: The network cannot be converted.
            RuntimeMissingError: The runtime is not installed; the hint says how to install it.
        """
        runtime = get_runtime(self.runtime)
        _, colours, height, width = network.images_BCHW.shape
        delegate = runtime.write(network.module, (colours, height, width), path).get("delegate")
        facts = {"runtime": f"{runtime.title}, {runtime.provider}"}
        return facts if delegate is None else {**facts, "delegate": delegate}

    def run(self, path: Path, images_BCHW: Tensor) -> Tensor:
        """Logits ``(B, K)``, one image at a time, computed in the runtime's environment."""
        return run_images(get_runtime(self.runtime), path, images_BCHW)


def run_images(runtime: Runtime, path: Path, images_BCHW: Tensor) -> Tensor:
    """Logits ``(B, K)`` of a runtime's file, one image at a time, computed in that runtime's environment.

    Raises:
        RuntimeMissingError: The runtime is not installed.
        NasError: The runtime cannot run the file.
    """
    with tempfile.TemporaryDirectory(prefix="nas-run-") as folder:
        images, logits, code = (Path(folder) / name for name in ("images.npy", "logits.npy", "nas_runtime.py"))
        code.write_text(runtime.device_source(), encoding="utf-8")
        np.save(images, images_BCHW.numpy())
        command = [runtime.python(), *map(str, (_RUNNER, code, path.resolve(), images, logits))]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if ended.returncode != 0 or not logits.exists():
            lines = ended.stderr.strip().splitlines() or ["no message"]
            raise NasError(
                f"`{path.name}`: {runtime.title} cannot run it: {lines[-1]}",
                hint=f"check the environment of `{runtime.python()}`",
            )
        return torch.from_numpy(np.load(logits))


LITERT = RuntimeFormat("litert", "model.tflite")
EXECUTORCH = RuntimeFormat("executorch", "model.pte")
