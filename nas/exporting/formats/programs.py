"""Files of runtimes that live in an environment of their own, LiteRT and ExecuTorch, verified where they run.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latency_tables.runtimes import get_runtime
from latency_tables.runtimes.base import Runtime
from nas.errors import NasError

_RUNNER = Path(__file__).with_name("run_elsewhere.py")


@dataclass(frozen=True)
class RuntimeFile:
    """A network as a runtime's file.

    Attributes:
        path: The file.
        logits_BK: What the runtime computes for the images that it was verified on.
        facts: ``file``, ``bytes``, ``runtime``, and ``delegate`` where the converter says what share of the operators a
            delegate took: ``name``, ``nodes``, ``all_nodes``.
    """

    path: Path
    logits_BK: Tensor
    facts: Mapping[str, Any]


def write_runtime_file(name: str, network: nn.Module, images_BCHW: Tensor, folder: Path) -> RuntimeFile:
    """Convert a network, and run the file in the runtime on images.

    Args:
        name: Of the runtime, ``litert`` or ``executorch``.
        network: In evaluation mode, on the CPU.
        images_BCHW: At the network's side.
        folder: Where to write ``model.tflite`` or ``model.pte``.

    Raises:
        ProfileError: The network cannot be converted.
        RuntimeMissingError: The runtime is not installed; the hint says how to install it.
        NasError: The runtime cannot run the file.
    """
    runtime = get_runtime(name)
    path = folder / f"model{runtime.suffix}"
    _, colours, height, width = images_BCHW.shape
    delegate = runtime.write(network, (colours, height, width), path).get("delegate")
    logits_BK = run_images(runtime, path, images_BCHW)
    facts: dict[str, Any] = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "runtime": f"{runtime.title}, {runtime.provider}",
    }
    return RuntimeFile(path, logits_BK, facts if delegate is None else {**facts, "delegate": delegate})


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
