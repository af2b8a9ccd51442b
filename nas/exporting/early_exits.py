"""Runs a network with early exits in ONNX Runtime. This file needs numpy and onnxruntime only.

It travels beside the segments of an exported network::

    from early_exits import EarlyExits

    network = EarlyExits(".")
    logits, number = network(image)  # float32 (1, 3, H, W), normalised as config.json of the export says
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class EarlyExits:
    """A network in segments, each behind the one before it, which ends at the first exit that is sure.

    Args:
        folder: The folder with ``exits.json`` and the files that it names.
        threads: Threads of each segment.
        threshold: What the largest probability must lie above; None for that of the file. 1 runs the whole network.
    """

    def __init__(self, folder: str | Path, threads: int = 1, threshold: float | None = None) -> None:
        import onnxruntime

        plan: dict[str, Any] = json.loads((Path(folder) / "exits.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        self.segments = [
            onnxruntime.InferenceSession(str(Path(folder) / name), options, providers=providers)
            for name in plan["segments"]
        ]
        self.temperatures = [float(value) for value in plan["temperatures"]]
        self.threshold = float(plan["threshold"]) if threshold is None else threshold

    def __call__(self, image_1CHW: Array) -> tuple[Array, int]:
        """Logits ``(1, classes)`` of one image, and the number of the segment that it left by, from 0.

        Raises:
            ValueError: There is more than one image: they would leave by different exits.
        """
        if len(image_1CHW) != 1:
            raise ValueError(f"{len(image_1CHW)} images at once, expected one: each leaves by an exit of its own")
        flow: Any = image_1CHW
        for number, temperature in enumerate(self.temperatures):
            flow, logits = self.segments[number].run(None, {"flow": flow})
            if confidence(logits, temperature) > self.threshold:
                return logits, number
        return self.segments[-1].run(None, {"flow": flow})[0], len(self.temperatures)


def confidence(logits_1K: Array, temperature: float) -> float:
    """The largest probability."""
    scaled_K = logits_1K[0].astype(np.float64) / temperature
    return float(1 / np.exp(scaled_K - scaled_K.max()).sum())
