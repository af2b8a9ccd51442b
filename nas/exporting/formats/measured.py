"""What the files of an export are worth: accuracy on images, and latency on this machine, each beside fp32 ONNX.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latency_tables.device_runner import DeviceRunner, NetworkFile, measure
from latency_tables.errors import BusyMachineError
from latency_tables.measure import measure_networks
from latency_tables.repeats import ONE, Measurement
from latency_tables.runtimes import get_runtime
from latency_tables.transports.local import LocalTransport
from nas.exporting.formats.names import ONNX
from nas.exporting.formats.registry import get_file_format
from nas.quantisation.choose import ADVANTAGE
from nas.quantisation.sensitivity import divergence

SAME = 0.03
"""Latencies that differ by less are called equal."""


def accuracy(logits_BK: Tensor, labels_B: Tensor) -> float:
    """Share of images that logits are right on."""
    return float((logits_BK.argmax(dim=1) == labels_B).float().mean())


@dataclass(frozen=True)
class Images:
    """Images that files are judged on.

    Attributes:
        batches: ``(B, 3, H, W)`` at the network's side, and labels ``(B,)`` or other targets; read once.
        part: What they are, for example ``search part of digits``.
        figure: What is found out.
        judge: Finds it out, from outputs ``(B, K)`` and targets.
    """

    batches: Iterable[tuple[Tensor, Tensor]]
    part: str
    figure: str = "accuracy"
    judge: Callable[[Tensor, Tensor], float] = accuracy


def measure_files(folder: Path, files: Mapping[str, str], images: Images) -> dict[str, dict[str, Any]]:
    """Accuracy and latency of the files of an export, by format, ready for JSON.

    Args:
        folder: The export.
        files: File names by format; the fp32 ONNX file stands under ``onnx``.
        images: Images to take the accuracy on.

    Returns:
        For each format the figure, for example ``accuracy``, ``images``, ``part``, ``kl``, the divergence from the fp32
        ONNX file in nats where there are classes, and either ``latency`` (``ms``,
        ``low_ms``, ``high_ms``, ``statistic``), with ``latency_ratio`` to the fp32 ONNX file and a ``verdict`` in
        words, or the reason why it was ``not_measured``.

    Raises:
        ProfileError: A file cannot be run.
        RuntimeMissingError: The runtime of a file is not installed.
    """
    seen_BCHW, targets_B = (torch.cat(parts) for parts in zip(*images.batches, strict=True))
    found: dict[str, dict[str, Any]] = {}
    for name, file in files.items():
        outputs_BK = get_file_format(name).run(folder / file, seen_BCHW)
        worth = images.judge(outputs_BK, targets_B)
        found[name] = {images.figure: worth, "images": len(targets_B), "part": images.part}
        if name == ONNX:
            fp32_BK = outputs_BK
        elif images.judge is accuracy:
            found[name]["kl"] = max(divergence(fp32_BK, outputs_BK), 0.0)
    for name, latency in _latencies(folder, files, tuple(seen_BCHW.shape[1:])).items():
        found[name] |= latency
    return found


def _latencies(folder: Path, files: Mapping[str, str], shape: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """The files of ONNX Runtime are measured in turns, so that what disturbs one disturbs all."""
    runtimes = {name: get_file_format(name).runtime for name in files}
    in_turns = [name for name, runtime in runtimes.items() if runtime == runtimes[ONNX]]
    try:
        taken = measure_networks([folder / files[name] for name in in_turns], ONE)
        measured = dict(zip(in_turns, taken.measurements, strict=True))
        for name, runtime in runtimes.items():
            if runtime is not None and name not in measured:
                measured[name] = _measure(runtime, folder / files[name], shape)
    except BusyMachineError as error:
        return {name: {"not_measured": str(error)} for name in files}
    fp32 = measured[ONNX].ms
    unknown = {"not_measured": "no runtime here runs it"}
    return {name: _described(name, measured[name], fp32) if name in measured else unknown for name in files}


def _measure(runtime: str, path: Path, shape: tuple[int, ...]) -> Measurement:
    loader = get_runtime(runtime)
    with LocalTransport() as transport:
        runner = DeviceRunner(loader, transport, loader.python(), threads=ONE.threads)
        return measure(runner, [NetworkFile(path, (1, *shape))], ONE).measurements[0]


def _described(name: str, measurement: Measurement, fp32: float) -> dict[str, Any]:
    ratio = measurement.ms / fp32
    entry: dict[str, Any] = {
        "latency": {
            "ms": measurement.ms,
            "low_ms": measurement.p5_ms,
            "high_ms": measurement.p95_ms,
            "statistic": measurement.statistic,
            "runs": measurement.runs,
        }
    }
    if name == ONNX:
        return entry
    word = "slower" if ratio > 1 + SAME else "faster" if ratio < 1 - SAME else "no different"
    verdict = f"{word} than fp32 in ONNX Runtime here: {measurement.ms:.3g} ms against {fp32:.3g} ms"
    if ratio > ADVANTAGE:
        verdict += ", no advantage on this processor"
    return {**entry, "latency_ratio": ratio, "verdict": verdict}
