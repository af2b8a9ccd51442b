"""A runtime that looks up what PyTorch computed, on a made-up clock: a nanosecond for every MAC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from latency_tables.counting import counted_macs
from latency_tables.kernels import ONNX_RUNTIME
from latency_tables.runtimes import Runtime
from latency_tables.worker import random_image


def load_paper(path: str, threads: int, shape: Any) -> Any:
    paper = np.load(path)

    def run(image: Any) -> Any:
        return paper["output"]

    run.macs = int(paper["macs"])  # type: ignore[attr-defined]
    return run, "fp32"


def paper_clock(run: Any, image: Any) -> Any:
    return run.macs, run.macs


class Paper(Runtime):
    name = "paper"
    title = "Pen and paper"
    provider = "CPU"
    suffix = ".npz"
    fusion = ONNX_RUNTIME
    module = distribution = "numpy"
    packages = ("numpy",)
    load = staticmethod(load_paper)
    clock = staticmethod(paper_clock)

    def write(
        self, network: nn.Module, input_shape: tuple[int, int, int], path: Path, batch: int = 1
    ) -> dict[str, Any]:
        image = torch.from_numpy(random_image([batch, *input_shape]))
        with torch.inference_mode():
            np.savez(path, output=network(image).numpy(), macs=counted_macs(network, image))
        return {}


PAPER = Paper()
