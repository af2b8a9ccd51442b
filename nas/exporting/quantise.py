"""`nas quantise`: bits per layer of a chosen network, under limits of latency and bytes.

What each layer loses and takes in each precision is measured, and an integer program chooses
(`nas.quantisation.choose`). What it chose is written, measured in turns and judged on the search part. The one that
ships is judged on the test part, once.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latency_tables.measure import measure_networks
from latency_tables.onnx_quantised import CALIBRATION_IMAGES, Precision, processor_flags
from latency_tables.repeats import QUICK
from nas.errors import UsageError
from nas.evaluation.accuracy import check_one_label
from nas.evaluation.evaluators import BATCH_SIZE, calibration_batches
from nas.events import Progress, StageProgress, ignore
from nas.exporting.export import load
from nas.exporting.kept import ASSIGNMENT, QUANTISED, images_of_run
from nas.exporting.members import export_run
from nas.networks.onnx import OnnxNetwork
from nas.quantisation.choose import Candidates, counts, find_candidates
from nas.quantisation.program import Assignment
from nas.quantisation.sensitivity import divergence
from nas.records.files import write_json
from nas.report.statistics import share_interval
from supernets.data.image_data import ImageData, Part

DOCUMENT = "quantised.json"
FP32 = "fp32.onnx"
NEGLIGIBLE = 5e-4
"""Divergence, in nats, that no accuracy on some thousand images shows."""


@dataclass(frozen=True)
class QuantisedMember:
    """One assignment of precisions, as it was measured.

    Attributes:
        file: Its ONNX file.
        counts: Layers in each precision.
        integer_macs: Share of the layers' multiply-accumulates that is in integers.
        kl: Divergence from fp32 on the search part, in nats.
        agreement: Share of the search part's images of which both say the same class.
        accuracy: On the search part.
        low: Low end of its 95 % interval (Wilson's).
        high: High end of that interval.
        ms: Measured latency on this machine.
        ratio: That beside fp32, measured in turns.
        bytes: Bytes of the file.
        predicted_ms: What profiles promised.
        predicted_kl: The sum of its layers' divergences.
        assignment: Layers to precisions.
    """

    file: str
    counts: Mapping[str, int]
    integer_macs: float
    kl: float
    agreement: float
    accuracy: float
    low: float
    high: float
    ms: float
    ratio: float
    bytes: int
    predicted_ms: float
    predicted_kl: float
    assignment: Mapping[str, Precision]


@dataclass(frozen=True)
class QuantisedNetwork:
    """What `quantise_run` found.

    Attributes:
        folder: Where the files lie.
        members: fp32 first, then the front, what loses least first.
        chosen: Place of the member that ships.
        facts: Further facts, ready for JSON: the test part, layers left in fp32 and why, processor flags, notes.
    """

    folder: Path
    members: Sequence[QuantisedMember]
    chosen: int
    facts: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"chosen": self.chosen, **self.facts, "members": [dict(vars(member)) for member in self.members]}


def quantise_run(
    run: Path,
    pick: str | None = None,
    limit_ms: float | None = None,
    limit_bytes: float | None = None,
    data: str | None = None,
    progress: Progress = ignore,
) -> QuantisedNetwork:
    """Choose, write and measure precisions for the layers of a network.

    Args:
        run: A run folder with trained weights.
        pick: The member of a search's front.
        limit_ms: Most that the network may take on this machine.
        limit_bytes: Most that its file may have.
        data: Where the run's images lie now; None for where they lay.
        progress: Told of every stage.

    Raises:
        UsageError: The weights are random, there are no labels, or nothing is within the limits.
        BusyMachineError: The machine is too busy for a number.
        NasError: As `nas.exporting.members.export_run`.
    """
    images, seed = images_of_run(run, data)
    check_one_label(images, "`nas quantise`")
    progress(StageProgress("export", 0, 1))
    export = export_run(run, pick, data=data)
    network: Any = load(export.folder)
    if network.config.get("labels"):
        raise UsageError(f"`{run}` was searched without labels, expected classes to judge precisions by")
    prepare: Callable[[Tensor], Tensor] = network.preprocess
    calibration_BCHW = torch.cat([prepare(batch_BCHW) for batch_BCHW in calibration_batches(images, seed)])
    target = export.folder.parent.parent / QUANTISED / export.folder.name
    with tempfile.TemporaryDirectory(prefix="nas-quantise-") as name:
        folder = Path(name)
        found = find_candidates(network, calibration_BCHW[:CALIBRATION_IMAGES], folder, progress)
        front = found.front(limit_ms, limit_bytes)
        files = _write(found, front, folder, progress)
        members = _judged(files, found, front, _part(images, "search", prepare), folder)
        chosen = _choose(members, limit_ms, limit_bytes, found.has_advantage)
        test = {
            what: dict(
                zip(("accuracy", "low", "high", "images"), _accuracy(folder / file, images, prepare), strict=True)
            )
            for what, file in (("fp32", FP32), ("chosen", members[chosen].file))
        }
        target.mkdir(parents=True, exist_ok=True)
        for member in members[1:]:
            shutil.copyfile(folder / member.file, target / member.file)
    facts = {
        "stages": list(found.stages),
        "calibration_images": len(found.images),
        "left_in_fp32": dict(found.left_out),
        "processor_flags": list(processor_flags()),
        "int8_ratio": found.int8_ratio,
        "test": test,
        "notes": _notes(found, members, chosen, (limit_ms, limit_bytes)),
    }
    whole = QuantisedNetwork(target, members, chosen, facts)
    write_json(target / DOCUMENT, {"schema": 1, **whole.to_dict()})
    write_json(target / ASSIGNMENT, dict(members[chosen].assignment))
    return whole


def _write(found: Candidates, front: Sequence[Assignment], folder: Path, progress: Progress) -> list[str]:
    """The files of the front, fp32 first."""
    files = [FP32]
    for number, assignment in enumerate(front, 1):
        progress(StageProgress("write the front", number - 1, len(front)))
        files.append(f"mixed-{number}.onnx")
        found.write(assignment.precisions, folder / files[-1])
    return files


def _part(images: ImageData, part: Part, prepare: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    batches = [(prepare(x_BCHW), labels_B) for x_BCHW, labels_B in images.batches(part, BATCH_SIZE)]
    return torch.cat([x_BCHW for x_BCHW, _ in batches]), torch.cat([labels_B for _, labels_B in batches])


def _judged(
    files: Sequence[str],
    found: Candidates,
    front: Sequence[Assignment],
    part: tuple[Tensor, Tensor],
    folder: Path,
) -> list[QuantisedMember]:
    """All files, judged on a part of the images and measured in turns."""
    measured = [each.ms for each in measure_networks([folder / file for file in files], QUICK).measurements]
    images_BCHW, labels_B = part
    logits = [torch.from_numpy(OnnxNetwork(folder / file)(images_BCHW)) for file in files]
    all_fp32: dict[str, Precision] = dict.fromkeys((layer.name for layer in found.layers), "fp32")
    whole = Assignment(all_fp32, 0.0, found.times.whole["fp32"], found.source.stat().st_size)
    macs = max(sum(found.macs.values()), 1)
    members = []
    for file, each, logits_BK, ms in zip(files, (whole, *front), logits, measured, strict=True):
        accuracy, low, high, _ = _share(logits_BK, labels_B)
        in_integers = sum(found.macs[name] for name, precision in each.precisions.items() if precision != "fp32")
        members.append(
            QuantisedMember(
                file=file,
                counts=counts(each.precisions),
                integer_macs=in_integers / macs,
                kl=max(divergence(logits[0], logits_BK), 0.0),
                agreement=float((logits_BK.argmax(dim=1) == logits[0].argmax(dim=1)).float().mean()),
                accuracy=accuracy,
                low=low,
                high=high,
                ms=ms,
                ratio=ms / measured[0],
                bytes=(folder / file).stat().st_size,
                predicted_ms=each.ms,
                predicted_kl=each.loss,
                assignment=each.precisions,
            )
        )
    return members


def _choose(
    members: Sequence[QuantisedMember], limit_ms: float | None, limit_bytes: float | None, by_time: bool
) -> int:
    """The place of the member that ships: within the limits as measured the one that loses least.

    Without limits it is the fastest of those that lose next to nothing, or the smallest where integers are not faster.
    Where none is within, it is that of all.
    """
    places = list(range(1, len(members)))
    within = [
        place
        for place in places
        if (limit_ms is None or members[place].ms <= limit_ms)
        and (limit_bytes is None or members[place].bytes <= limit_bytes)
    ]
    if within and (limit_ms is not None or limit_bytes is not None):
        return min(within, key=lambda place: members[place].kl)
    if limit_ms is None and limit_bytes is None:
        places = [place for place in places if members[place].kl <= NEGLIGIBLE] or places
    return min(places, key=lambda place: members[place].ms if by_time else members[place].bytes)


def _accuracy(path: Path, images: ImageData, prepare: Callable[[Tensor], Tensor]) -> tuple[float, float, float, int]:
    images_BCHW, labels_B = _part(images, "test", prepare)
    return _share(torch.from_numpy(OnnxNetwork(path)(images_BCHW)), labels_B)


def _share(logits_BK: Tensor, labels_B: Tensor) -> tuple[float, float, float, int]:
    """Accuracy, the two ends of its 95 % interval (Wilson's), and the number of images."""
    right, count = int((logits_BK.argmax(dim=1) == labels_B).sum()), len(labels_B)
    return right / count, *share_interval(right, count), count


def _notes(
    found: Candidates, members: Sequence[QuantisedMember], chosen: int, limits: tuple[float | None, float | None]
) -> list[str]:
    """What a reader must know beside the figures."""
    notes, ships = [], members[chosen]
    if not found.has_advantage:
        size = "those of int8 throughout" if limits[1] is None else f"{limits[1] / 1e6:.3g} MB"
        notes.append(
            f"no int8 advantage on this processor: int8 throughout takes {found.int8_ratio:.2f} of fp32, so bytes are"
            f" the budget, {size}"
        )
    if limits[0] is not None and ships.ms > limits[0]:
        notes.append(f"measured latency of {ships.ms:.3g} ms is over the limit of {limits[0]:g} ms")
    if limits[1] is not None and ships.bytes > limits[1]:
        notes.append(f"its file has {ships.bytes / 1e6:.3g} MB, over the limit of {limits[1] / 1e6:.3g} MB")
    if members[0].low <= ships.accuracy <= members[0].high:
        notes.append("what precisions cost shows in the divergence; the accuracies' intervals overlap")
    return notes
