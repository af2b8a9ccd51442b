"""A trained network at several scales of its input: more accuracy for more time, and hardly a parameter more."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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
from nas.objectives.quantities import PEAK_MEMORY, get_quantity
from nas.records.files import replacing_folder, write_json
from nas.records.network import target_of
from nas.runs.folder import FINISHED, RunFolder, supernet_checkpoint
from nas.runs.places import images_of, source_beside
from supernets.checkpoint import load_supernet
from supernets.data.sources import load_data
from supernets.fusion import without_classifier
from supernets.networks.input_scales import InputScales
from supernets.probing import fit_classifier

if TYPE_CHECKING:
    from nas.objectives.bounds import Limit as Bound
    from search_spaces.graph import OpGraph
    from supernets.data.image_data import ImageData, Part
    from supernets.supernet import Supernet

SCALES = ((1,), (1, 2), (1, 2, 3))
MOST_IMAGES = 5_000
"""Training images that the classifiers are fitted to."""
TOLERANCE = 1e-3
RECORD, FILE, FOLDER = "scales.json", "model.onnx", "scales"

Fits = Callable[["OpGraph"], bool]


@dataclass(frozen=True)
class ScaledInputs:
    """A network at several scales of its input.

    Attributes:
        folder: Where ``scales.json`` lies, and the ONNX file of the best one within the limit.
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

    At one scale it is the network as it was trained, with its own classifier.

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
    limit, folder = parse_limit(up_to), run / FOLDER if output is None else Path(output)
    if folder.exists() and not (folder / RECORD).exists():
        raise NasError(f"`{folder}` exists and holds no scales", hint="choose another `--output`")
    predictor = LatencyPredictor(load_target(target))

    def fits(graph: OpGraph) -> bool:
        if limit.kind == "latency":
            return bool(predictor.graph(graph).is_within(limit.value))
        return {"params": graph.params, "macs": graph.macs}[limit.kind] <= limit.value

    network, load = _trained(run, data)
    entries = [_costs(network, scales, predictor, fits) for scales in SCALES]
    rows = [row for row, _ in entries]
    within = [(row, scaled) for row, scaled in entries if row["is_within"]]
    if not within:
        raise _nothing(rows[0], network, target, limit)
    images = [load(row["side"]) for row, _ in within]
    for (row, scaled), seen in zip(within, images, strict=True):
        row["search_accuracy"] = _fit(scaled, seen, progress)
    chosen = int(np.argmax([row["search_accuracy"] for row, _ in within]))
    record = {**_head(target, predictor), "up_to": up_to, "scales": rows, "chosen": chosen}
    return _written(folder, within[chosen][1], images[chosen], record)


def scale_chosen(
    run: Path,
    bounds: Sequence[Bound],
    target: str,
    accuracy: float,
    *,
    folder: Path,
    seconds: float | None = None,
    progress: Progress = ignore,
) -> ScaledInputs:
    """Let the network that a search chose and trained see several scales, where that is better and within its bounds.

    At one scale it is the network as it was trained; at more, a classifier is fitted to the features of all of them.

    Args:
        run: Run folder of the trained network.
        bounds: Largest values of quantities, all of which must hold.
        target: Device whose latency is predicted.
        accuracy: What the network itself is worth on the search part, in [0, 1].
        folder: Folder to write: ``scales.json``, and an ONNX file where several scales are better.
        seconds: Time to look at images, of which fewer are learned from where it is short; None for no bound.
        progress: Told of the images that were looked at.

    Raises:
        ProofError, TableMissingError, CheckpointError, DataError: As `scale_inputs`.
    """
    predictor = LatencyPredictor(load_target(target))

    def fits(graph: OpGraph) -> bool:
        return all(_holds(bound, graph) for bound in bounds)

    network, load = _trained(run, None)
    (own, _), *entries = [_costs(network, scales, predictor, fits) for scales in SCALES]
    own |= {"is_within": True, "search_accuracy": accuracy}
    best: tuple[InputScales, ImageData] | None = None
    rows, highest = [own, *(row for row, _ in entries)], accuracy
    looks = sum(scale**2 for row, _ in entries if row["is_within"] for scale in row["scales"])
    for row, scaled in entries:
        if row["is_within"]:
            images = load(row["side"])
            most = MOST_IMAGES if seconds is None else _affordable(scaled, images, seconds / looks)
            row["search_accuracy"] = _fit(scaled, images, progress, most)
            if row["search_accuracy"] > highest:
                best, highest = (scaled, images), row["search_accuracy"]
    chosen = [row for row in rows if row["is_within"]].index(max(rows, key=lambda row: row.get("search_accuracy", 0.0)))
    record = {**_head(target, predictor), "scales": rows, "chosen": chosen}
    if best is not None:
        return _written(folder, *best, record)
    with replacing_folder(folder) as draft:
        write_json(draft / RECORD, record)
    return ScaledInputs(folder, record)


def _holds(bound: Bound, graph: OpGraph) -> bool:
    """Whether a network is within the upper end of a bound."""
    target = target_of(bound.name)
    if target is None:
        return get_quantity(bound.name).graph(graph) <= bound.upper
    return bool(LatencyPredictor(load_target(target)).graph(graph).is_within(bound.upper))


def _head(target: str, predictor: LatencyPredictor) -> dict[str, Any]:
    return {"schema": 1, "target": target, "source": provenance_line(predictor.table)}


def _trained(run: Path, data: str | None) -> tuple[Supernet, Callable[[int], ImageData]]:
    """The one network of a run, and what loads its images at a side in pixels."""
    finished = run / FINISHED
    folder = RunFolder(finished if finished.is_dir() else run)
    if not folder.is_training or folder.architecture is None:
        raise UsageError(
            f"`{run}` holds no single trained network, expected one to look at larger images with",
            hint="finish one: `nas finish RUN`; an untrained network has no features to scale",
        )
    checkpoint = supernet_checkpoint(folder.path)
    supernet, metadata = load_supernet(checkpoint)
    # That they are those of the run, and are of classes.
    check_one_label(images_of(checkpoint, metadata, data, is_quiet=True), "`--along scales`")
    source = data or source_beside(checkpoint, metadata["data"]["source"])
    hflip = metadata["settings"].get("hflip")
    return supernet, lambda side: load_data(source, side, hflip=hflip, is_quiet=True)


def _costs(
    supernet: Supernet, scales: tuple[int, ...], predictor: LatencyPredictor, fits: Fits
) -> tuple[dict[str, Any], InputScales]:
    """What a network costs at some scales, ready for JSON, and the network itself, with a classifier not yet fitted.

    At one scale it is the network as it was trained, with its own classifier.
    """
    space = supernet.space
    architecture = space.architecture
    assert architecture is not None, "a network alone"
    side = space.input_shape(dict(architecture.settings))[-1]
    network = supernet.extract(architecture).eval()
    classifier: nn.Module = nn.Identity()
    if scales != (1,):
        network = without_classifier(network, space)
        with torch.no_grad():
            width = int(network(torch.zeros(1, 3, side, side)).shape[1])
        classifier = nn.Linear(len(scales) * width, space.classes)
    scaled = InputScales(network, side, scales, classifier).eval()
    graph: OpGraph = trace(scaled, (3, scales[-1] * side, scales[-1] * side), f"scales {scales}")
    latency = predictor.graph(graph)
    return {
        "scales": list(scales),
        "side": scales[-1] * side,
        "params": graph.params,
        "macs": graph.macs,
        "peak_bytes": PEAK_MEMORY.graph(graph),
        "latency": latency.claims(),
        "high_ms": latency.high_ms,
        "is_within": fits(graph),
    }, scaled


def _nothing(entry: Mapping[str, Any], network: Supernet, target: str, limit: Limit) -> NasError:
    architecture = network.space.architecture
    if limit.kind == "latency" and architecture is not None:
        return InfeasibleError(architecture, target, entry["high_ms"], limit.value)
    return NasError(
        f"the network itself has {entry[limit.kind]:,} {limit.kind}, more than `{limit.text}`", hint="raise `--up-to`"
    )


def _affordable(scaled: InputScales, images: ImageData, seconds: float) -> int:
    """Training images that can be looked at while the network itself runs for so long; ten of each class at least."""
    x_BCHW, _ = next(iter(images.batches("train", BATCH_SIZE)))
    tile_BCHW = x_BCHW[:, :, : scaled.side, : scaled.side]
    with torch.no_grad():
        scaled.network(tile_BCHW[:1])  # what happens once only
        started = time.monotonic()
        scaled.network(tile_BCHW)
    per_image = max(time.monotonic() - started, 1e-6) / len(x_BCHW)
    found = int(seconds / per_image) - min(images.splits["search"], MOST_IMAGES)
    return min(max(found, 10 * images.classes), MOST_IMAGES)


def _fit(scaled: InputScales, images: ImageData, progress: Progress, most: int = MOST_IMAGES) -> float:
    """Give a network a classifier fitted to the training part, where it has none; its accuracy on the search part."""

    def read(part: Part, most: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, total = [], min(most, images.splits[part])
        with torch.no_grad():
            for x_BCHW, labels_B in images.batches(part, BATCH_SIZE, most):
                rows.append((scaled.features(x_BCHW), labels_B))
                done = min(len(rows) * BATCH_SIZE, total)
                progress(StageProgress(f"features at {len(scaled.scales)} scales, {part} part", done, total))
        return torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])

    if not isinstance(scaled.classifier, nn.Linear):
        logits_NK, labels_N = read("search", MOST_IMAGES)
        return float((logits_NK.argmax(dim=1) == labels_N).double().mean())
    features_ND, labels_N = read("train", most)
    fitted = fit_classifier(features_ND, labels_N, images.classes)
    with torch.no_grad():
        scaled.classifier.weight.copy_(fitted.weight_KD)
        scaled.classifier.bias.copy_(fitted.bias_K)
    return fitted.accuracy(*read("search", MOST_IMAGES))


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
        record |= {"image": {"mean": list(images.mean), "std": list(images.std)}}
        record |= {"class_names": list(images.class_names), "file": f"{folder.name}/{FILE}"}
        write_json(draft / RECORD, record)
    return ScaledInputs(folder, record)
