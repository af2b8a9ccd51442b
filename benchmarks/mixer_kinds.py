"""Time of each kind of token mixer and feed-forward network at each stage, before anything is searched.

Blocks of `mixers` at 224 pixels with heads of 32 channels, each with its norm and shortcut, and linear attention with
its local convolution, through ONNX Runtime on one thread, in fp32 and in int8. Processor time, so that other programs
disturb little; blocks of a stage take turns, and of the repeats of each the 5th percentile counts.

    python benchmarks/mixer_kinds.py [--repeats 200] [--precisions fp32 int8] [--positions]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_static
from torch import Tensor, nn

from latency_tables.runtimes.onnx_file import INPUT_NAME, exported_model
from search_spaces.mixers_blocks import FEED_FORWARDS, MIXERS, FeedForward, Mixer, low_heads
from search_spaces.mixers_definitions import MIXERS_SPACE
from supernets.networks import mixers

STAGES = ((56, 64), (28, 128), (14, 256), (7, 512))
HEAD_WIDTH, RATIO = 32, 4


def main() -> None:
    """Measure, and print a table for each precision."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "int8"), default=["fp32", "int8"])
    parser.add_argument("--positions", action="store_true", help="with convolutions in place of tables of offsets")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    kinds = [*MIXERS[1:], *FEED_FORWARDS]
    tables: dict[str, list[str]] = {precision: [] for precision in arguments.precisions}
    with tempfile.TemporaryDirectory(prefix="nas-kinds-") as folder:
        for number, (side, width) in enumerate(STAGES, start=1):
            blocks = dict(_blocks(number, side, width, arguments.positions))
            paths = {
                kind: _write(block, side, width, Path(folder) / f"{number}-{kind}") for kind, block in blocks.items()
            }
            for precision, rows in tables.items():
                times = _measure(
                    {kind: path[precision] for kind, path in paths.items()}, side, width, arguments.repeats
                )
                cells = (f"{times[kind]:.2f}" if kind in times else "" for kind in kinds)
                rows.append(f"| {side} x {side}, {width} | {' | '.join(cells)} |")
    for precision, rows in tables.items():
        print(f"| {precision}, ms | {' | '.join(kinds)} |\n| --- |{' ---: |' * len(kinds)}")
        print("\n".join(rows))


def _blocks(number: int, side: int, width: int, positions: bool) -> Iterator[tuple[str, nn.Module]]:
    """The blocks of a stage that the space offers, as they are deployed."""
    definition = MIXERS_SPACE
    for kind in (*definition.stages[number - 1].mixers, *(MIXERS[10:] if number > 2 else ())):
        if kind != "none":
            low = low_heads(width // HEAD_WIDTH) * HEAD_WIDTH if kind == "hilo" else 0
            high, reduction = width - low if low else 0, side // STAGES[-1][0]
            parts = (kind, "cpe") if positions else (kind,)
            sizes = (side, width, HEAD_WIDTH, parts, reduction, definition.kernel, definition.least, (high, low))
            mixer = mixers.Mixer(**asdict(Mixer(*sizes))).eval()
            yield kind, mixer.fold() if kind == "hyena" else mixer
    for kind in FEED_FORWARDS:
        name, _, share = kind.partition("repa")
        hidden = RATIO * width
        active = hidden * (100 - int(share or 0)) // 100
        block = mixers.FeedForward(**asdict(FeedForward(side, width, hidden, active, (name or "repa",)))).eval()
        yield kind, block if name else block.fold()


def _write(block: nn.Module, side: int, width: int, path: Path) -> dict[str, Path]:
    """The block's file in each precision."""
    paths = {precision: path.with_suffix(f".{precision}.onnx") for precision in ("fp32", "int8")}
    shape: Any = (side * side, width)
    onnx.save(exported_model(block, shape), str(paths["fp32"]))
    quantize_static(
        str(paths["fp32"]),
        str(paths["int8"]),
        _Reader(torch.randn(8, 1, *shape)),
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return paths


class _Reader:
    """Inputs one by one, as ONNX Runtime asks for them."""

    def __init__(self, inputs: Tensor) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, Any] | None:
        tokens = next(self._inputs, None)
        return None if tokens is None else {INPUT_NAME: tokens.numpy()}


def _measure(paths: dict[str, Path], side: int, width: int, repeats: int) -> dict[str, float]:
    """Milliseconds of processor time of each file: the 5th percentile of repeats that take turns."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = {
        kind: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for kind, path in paths.items()
    }
    feed = {INPUT_NAME: np.random.default_rng(0).standard_normal((1, side * side, width), dtype=np.float32)}
    found: dict[str, list[float]] = {kind: [] for kind in sessions}
    for repeat in range(repeats + 5):
        for kind, session in sessions.items():
            started = time.thread_time()
            session.run(None, feed)
            if repeat >= 5:
                found[kind].append(1e3 * (time.thread_time() - started))
    return {kind: _fifth(times) for kind, times in found.items()}


def _fifth(times: Sequence[float]) -> float:
    return float(np.percentile(times, 5))


if __name__ == "__main__":
    main()
