"""A trained network at several scales of its input: more accuracy for more time, and hardly a parameter more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from latency_tables.predictor import LatencyPredictor
from latency_tables.targets import load_target, provenance_line
from latency_tables.trace import trace
from nas.errors import InfeasibleError, NasError, UsageError
from nas.evaluation.accuracy import check_one_label, judge
from nas.evaluation.evaluators import BATCH_SIZE
from nas.events import Progress, StageProgress, ignore
from nas.exporting.export import ProofError
from nas.growth.limit import Limit, parse_limit
from nas.growth.settings import ScaleSettings
from nas.networks.onnx import OnnxNetwork, export_onnx
from nas.objectives.quantities import PEAK_MEMORY
from nas.records.files import replacing_folder, write_json
from nas.runs.folder import FINISHED, RunFolder, supernet_checkpoint
from nas.runs.places import images_of, source_beside
from supernets.checkpoint import load_supernet
from supernets.data.sources import load_data
from supernets.fusion import without_classifier
from supernets.networks.input_scales import InputScales
from supernets.probing import fit_classifier

if TYPE_CHECKING:
    from search_spaces.graph import OpGraph
    from supernets.data.image_data import ImageData, Part
    from supernets.supernet import Supernet

SCALES = ((1,), (1, 2), (1, 2, 3))
MOST_IMAGES = 5_000
"""Training images that the classifiers are fitted to."""
TOLERANCE = 1e-3
RECORD, FILE = "scales.json", "model.onnx"


@dataclass(frozen=True)
class ScaledInputs:
    """A network at several scales of its input.

    Attributes:
        folder: Where ``scales.json`` and the ONNX file of the best one within the limit lie.
        record: What ``scales.json`` holds.
    """

    folder: Path
    record: Mapping[str, Any]


def scale_inputs(
    run: Path | str,
    up_to: str = ScaleSettings.up_to,
    target: str = ScaleSettings.target,
    *,
    data: str | None = None,
    output: Path | str | None = None,
    progress: Progress = ignore,
) -> ScaledInputs:
    """Fit a classifier to the features of a trained network at each set of scales, and write the best within a limit.

    Args:
        run: Run folder of one trained network.
        up_to: Largest parameters, MACs or latency, as of `nas.growth.limit.parse_limit`.
        target: Device whose latency is predicted.
        data: Where the run's images lie now; None for where they lay.
        output: Folder to write; None takes ``scales`` in the run folder.
        progress: Told of the images that were looked at.

    Raises:
        UsageError: The run holds no single trained network, or a limit that is not known.
        InfeasibleError, NasError: Not even the network itself is within the limit.
        ProofError: The ONNX file disagrees with the network; nothing is written.
        UnknownNameError, TableMissingError, CheckpointError, DataError: As of other verbs.
    """
    run = Path(run)
    limit, folder = parse_limit(up_to), run / "scales" if output is None else Path(output)
    if folder.exists() and not (folder / RECORD).exists():
        raise NasError(f"`{folder}` exists and holds no scales", hint="choose another `--output`")
    predictor = LatencyPredictor(load_target(target))
    network, checkpoint, metadata = _trained(run)
    # That they are those of the run, and are of classes.
    check_one_label(images_of(checkpoint, metadata, data, is_quiet=True), "`--along scales`")
    rows, networks, images = [], [], []
    for scales in SCALES:
        entry, scaled = _costs(network, scales, predictor, limit)
        rows.append(entry)
        if entry["is_within"]:
            source = data or source_beside(checkpoint, metadata["data"]["source"])
            seen = load_data(source, scales[-1] * scaled.side, hflip=metadata["settings"].get("hflip"), is_quiet=True)
            entry["search_accuracy"] = _fit(scaled, seen, progress)
            networks.append(scaled)
            images.append(seen)
    if not networks:
        raise _nothing(rows[0], network, target, limit)
    accuracies = [entry["search_accuracy"] for entry in rows if entry["is_within"]]
    chosen = int(np.argmax(accuracies))
    record = {
        "schema": 1,
        "target": target,
        "source": provenance_line(predictor.table),
        "up_to": up_to,
        "scales": rows,
        "chosen": chosen,
        "image": {"mean": list(images[chosen].mean), "std": list(images[chosen].std)},
        "class_names": list(images[chosen].class_names),
    }
    return _written(folder, networks[chosen], images[chosen], record)


def _trained(run: Path) -> tuple[Supernet, Path, Any]:
    """The one network of a run, its checkpoint, and what that says of itself."""
    finished = run / FINISHED
    folder = RunFolder(finished if finished.is_dir() else run)
    if not folder.is_training or folder.architecture is None:
        raise UsageError(
            f"`{run}` holds no single trained network, expected one to look at larger images with",
            hint="finish one: `nas finish RUN`; an untrained network has no features to scale",
        )
    checkpoint = supernet_checkpoint(folder.path)
    supernet, metadata = load_supernet(checkpoint)
    return supernet, checkpoint, metadata


def _costs(
    supernet: Supernet, scales: tuple[int, ...], predictor: LatencyPredictor, limit: Limit
) -> tuple[dict[str, Any], InputScales]:
    """What a network costs at some scales, ready for JSON, and the network itself, with a classifier of zeros."""
    space = supernet.space
    architecture = space.architecture
    assert architecture is not None, "a network alone"
    side = space.input_shape(dict(architecture.settings))[-1]
    backbone = without_classifier(supernet.extract(architecture).eval(), space)
    with torch.no_grad():
        width = int(backbone(torch.zeros(1, 3, side, side)).shape[1])
    scaled = InputScales(backbone, side, scales, nn.Linear(len(scales) * width, space.classes)).eval()
    graph: OpGraph = trace(scaled, (3, scales[-1] * side, scales[-1] * side), f"scales {scales}")
    latency = predictor.graph(graph)
    sizes = {"params": graph.params, "macs": graph.macs}
    is_within = latency.is_within(limit.value) if limit.kind == "latency" else sizes[limit.kind] <= limit.value
    return {
        "scales": list(scales),
        "side": scales[-1] * side,
        **sizes,
        "peak_bytes": PEAK_MEMORY.graph(graph),
        "latency": latency.claims(),
        "high_ms": latency.high_ms,
        "is_within": bool(is_within),
    }, scaled


def _nothing(entry: Mapping[str, Any], network: Supernet, target: str, limit: Limit) -> NasError:
    architecture = network.space.architecture
    if limit.kind == "latency" and architecture is not None:
        return InfeasibleError(architecture, target, entry["high_ms"], limit.value)
    return NasError(
        f"the network itself has {entry[limit.kind]:,} {limit.kind}, more than `{limit.text}`", hint="raise `--up-to`"
    )


def _fit(scaled: InputScales, images: ImageData, progress: Progress) -> float:
    """Give a network a classifier that is fitted to the training part; its accuracy on the search part."""

    def read(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        rows, total = [], min(MOST_IMAGES, images.splits[part])
        with torch.no_grad():
            for x_BCHW, labels_B in images.batches(part, BATCH_SIZE, MOST_IMAGES):
                rows.append((scaled.features(x_BCHW), labels_B))
                done = min(len(rows) * BATCH_SIZE, total)
                progress(StageProgress(f"features at {len(scaled.scales)} scales, {part} part", done, total))
        return torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])

    features_ND, labels_N = read("train")
    fitted = fit_classifier(features_ND, labels_N, images.classes)
    with torch.no_grad():
        scaled.classifier.weight.copy_(fitted.weight_KD)
        scaled.classifier.bias.copy_(fitted.bias_K)
    return fitted.accuracy(*read("search"))


def _written(folder: Path, scaled: InputScales, images: ImageData, record: dict[str, Any]) -> ScaledInputs:
    with replacing_folder(folder) as draft:
        export_onnx(scaled, scaled.scales[-1] * scaled.side, draft / FILE)
        x_BCHW, _ = next(iter(images.batches("search", 16)))
        run = OnnxNetwork(draft / FILE)
        with torch.no_grad():
            expected_BK = scaled(x_BCHW).numpy()
        difference = float(np.abs(run(x_BCHW) - expected_BK).max() / max(np.ptp(expected_BK), 1e-12))
        if not difference <= TOLERANCE:
            raise ProofError(
                f"the file `{FILE}` gives logits that differ by {difference:.2g} of their range from the network's,"
                f" expected at most {TOLERANCE:g}; nothing was written"
            )
        judged = judge(run, images.batches("test", BATCH_SIZE), images.class_names)
        record |= {"test_accuracy": judged.accuracy, "test_images": sum(judged.images), "difference": difference}
        write_json(draft / RECORD, record)
    return ScaledInputs(folder, record)
