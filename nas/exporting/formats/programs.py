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
from latency_tables.runtimes.program import convert_program
from nas.errors import NasError
from nas.exporting.formats.base import ExportedNetwork, FileFormat
from nas.exporting.formats.quantised import JUDGED_IMAGES, first_images
from nas.quantisation.sensitivity import divergence
from search_spaces import SearchSpace

_RUNNER = Path(__file__).with_name("run_elsewhere.py")


class RuntimeFormat(FileFormat):
    """The file of a runtime that is measured with too (`latency_tables.runtimes`), which writes, loads and times it.

    Args:
        runtime: Name of the runtime, and of the format.
        file: Name of the file in the exported folder.
    """

    runtime: str
    tolerance: float | None = 1e-3

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


class LiteRTInt8(RuntimeFormat):
    """``litert-int8``: weights in 8 bits, and activations in 8 bits whose ranges are found at every run.

    What has a kernel for that in XNNPACK is in integers: linear layers and convolutions.
    """

    tolerance = None

    def __init__(self) -> None:
        super().__init__("litert", "model.int8.tflite")
        self.name = "litert-int8"

    def write(self, network: ExportedNetwork, path: Path) -> Mapping[str, Any]:
        """Convert the network, and quantise the file, in LiteRT's environment.

        Returns:
            ``runtime`` and ``kl_calibration``, the mean divergence from fp32 on training images, in nats.

        Raises:
            ProfileError: The network cannot be converted.
        """
        runtime, images_BCHW = get_runtime(self.runtime), first_images(network, JUDGED_IMAGES)
        _, colours, height, width = images_BCHW.shape
        convert_program(runtime, convert_int8, network.module, (colours, height, width), path)
        with torch.no_grad():
            expected_BK = network.module(images_BCHW)
        kl = max(divergence(expected_BK, self.run(path, images_BCHW)), 0.0)
        return {"runtime": f"{runtime.title}, {runtime.provider}", "kl_calibration": kl}


def convert_int8(program: Any, path: str) -> dict[str, Any]:
    """Write a TensorFlow Lite file with weights in 8 bits; runs in LiteRT's environment."""
    import os

    import litert_torch
    from ai_edge_quantizer import quantizer, recipe

    (inputs, _) = program.example_inputs
    whole = path + ".fp32.tflite"
    litert_torch.convert(program.module(), inputs).export(whole)
    made = quantizer.Quantizer(whole, recipe.dynamic_wi8_afp32()).quantize()
    os.remove(whole)
    with open(path, "wb") as file:
        file.write(made.quantized_model)
    return {}


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
LITERT_INT8 = LiteRTInt8()
EXECUTORCH = RuntimeFormat("executorch", "model.pte")
