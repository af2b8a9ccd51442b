"""Exports of what runs found: members of fronts, networks of trainings, and networks that nobody trained."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from nas.errors import RunError, UsageError
from nas.evaluation.compensation import Compensation
from nas.evaluation.evaluators import BATCH_SIZE, calibration_batches
from nas.evaluation.fidelity import chosen_without_labels, mean_cosine
from nas.exporting.export import Export, ExportRequest, export_subnet
from nas.exporting.formats.checkpoint import CONFIG
from nas.exporting.formats.registry import get_format, parse_formats
from nas.exporting.kept import NETWORK, assignment_of
from nas.networks.resolve import resolve_architecture, resolve_network
from nas.objectives.objective import ACCURACY, AVERAGE_PRECISION, FIDELITY, MACRO_AUROC
from nas.records.files import read_json, write_json
from nas.runs.folder import EXITS, FINISHED, RunFolder, source_card, supernet_checkpoint
from nas.runs.front import FRONT_FILE, SearchFront, load_front
from nas.runs.places import images_of, shown_place
from nas.runs.settings import WITHOUT_LABELS
from search_spaces import Architecture, SearchSpace, get_space, space_names
from search_spaces.timm_models import HUB, OTHER_NAMES
from supernets.checkpoint import load_supernet
from supernets.data.image_data import ImageData
from supernets.family import family_of
from supernets.label_metrics import mean_average_precision
from supernets.supernet import Supernet

if TYPE_CHECKING:
    from torch import Tensor

    from latency_tables.onnx_quantised import Precision

PROOF_IMAGES = 16
TESTED = ("test_accuracy", f"test_{AVERAGE_PRECISION}", f"test_{MACRO_AUROC}")
"""What ``config.json`` repeats of what was found out on the test part."""
SEVERAL_LABELS = {"problem_type": "multi_label_classification", "activation": "sigmoid"}
"""What ``config.json`` says where images have several labels: the sigmoid of each logit is the label's probability."""


class _Files(TypedDict):
    """What is asked of the files, as `nas.exporting.export.ExportRequest` has it."""

    formats: tuple[str, ...]
    dynamic_batch: bool
    assignment: Mapping[str, Precision] | None


def export_member(
    front: SearchFront,
    pick: str | int | None = None,
    folder: Path | None = None,
    formats: Sequence[str] = (),
    data: str | None = None,
    dynamic_batch: bool = False,
) -> Export:
    """Export one member of the front, with the run's trained weights where it has any, else with random ones.

    Args:
        front: What a search found.
        pick: The member, as in `nas.runs.front.SearchFront.pick`; None takes the network that the search itself
            finished where it did.
        folder: Where to write; None takes ``exports/<pick>`` in the run folder.
        formats: What to write beside checkpoint and ONNX file, see `nas.exporting.formats.registry`. Accuracy and
            latency of all files are then measured and stand in ``front.json`` under ``formats`` too.
        data: Where the run's images lie now; None for where they lay.
        dynamic_batch: Write ONNX files for batches of any size.

    Raises:
        UnknownNameError: There is no such format.
        UsageError: A format does not suit the network.
        RuntimeMissingError: The runtime of a format is not installed.
        ProofError: The exported files disagree with the network; nothing is written.
        RunError: The run's settings cannot be read.
        CheckpointError: The run's weights are gone or damaged.
        DataError: The run's images are gone or have changed.
        NasError: The folder cannot be written.
    """
    if pick is None and "finished" in front.document.get("verified", {}):
        return export_run(front.run / FINISHED, None, folder, formats, data, dynamic_batch)
    pick = front.default_pick if pick is None else pick
    member, run = front.pick(pick), RunFolder(front.run)
    folder = folder or run.path / "exports" / str(pick)
    if not run.settings:
        raise RunError(f"run folder `{run.path}` holds no settings")
    card: dict[str, Any] = {
        "latency": {name: asdict(latency) for name, latency in member.latency.items()},
        "sources": front.sources,
        "objectives": dict(member.objectives),
    }
    if front.source_model is not None:
        card["source_model"] = front.source_model
    verified = front.document.get("verified", {})
    if verified.get("number") == member.number:
        card |= {name: verified[name] for name in TESTED if name in verified}
    seed = front.seed
    files: _Files = {
        "formats": parse_formats(formats),
        "dynamic_batch": dynamic_batch,
        "assignment": assignment_of(run.path, str(pick)),
    }
    checkpoint = run.find_weights()
    if checkpoint is None:
        space = get_space(member.architecture.space)
        request = ExportRequest(space, member.architecture, card=card, seed=seed, **files)
        return export_subnet(request, folder)
    if run.settings.get("labels") == WITHOUT_LABELS:
        card["labels"] = WITHOUT_LABELS
    if front.document.get("model", {}).get("compensation"):
        card["compensation"] = {name: run.settings[name] for name in ("compensation", "compensation_images")}
    source = data or run.settings.get("data")
    export = _export_trained(checkpoint, member.architecture, source, card, seed, folder, files)
    if len(export.proof["formats"]) > 1:
        known = front.document.get("formats", {})
        entry = {"number": member.number, "files": export.proof["formats"]}
        write_json(run.path / FRONT_FILE, {**front.document, "formats": {**known, str(pick): entry}})
    return export


def export_run(
    run: Path,
    pick: str | None = None,
    folder: Path | None = None,
    formats: Sequence[str] = (),
    data: str | None = None,
    dynamic_batch: bool = False,
) -> Export:
    """Export from a run folder: a member of a search's front, or the network of a training.

    Args:
        run: The run folder, or ``RUN:PICK``; or a network of a space by name, text or file, see `export_untrained`.
        pick: The member of a search's front, as in `nas.runs.front.SearchFront.pick`.
        folder: Where to write; None takes ``exports/<pick>`` or ``exports/network`` in the run folder.
        formats: As in `export_member`.
        data: As in `export_member`.
        dynamic_batch: As in `export_member`.

    Raises:
        UsageError: A member is picked of a training, or of a network.
        RunError: The folder holds a supernet, or nothing that can be exported.
        NasError, SupernetError: As `export_member`.
    """
    before, _, after = str(run).rpartition(":")
    if before and not os.path.isdir(run) and pick is None and os.path.isdir(before):
        run, pick = Path(before), after
    if not os.path.isdir(run) and _is_network(str(run)):
        if pick is not None:
            raise UsageError(f"`{run}` is one network, found pick `{pick}`", hint="leave `--pick` out")
        return export_untrained(str(run), folder, formats, dynamic_batch)
    recorded = RunFolder(run)
    if recorded.command is None and (run / CONFIG).exists():
        raise UsageError(f"`{run}` is an exported folder, expected a run", hint="its files are there already")
    if "executorch" in parse_formats(formats) and (run / EXITS).exists():
        raise UsageError(
            f"`{run}` has early exits, which ExecuTorch's programs cannot take",
            hint=f"ship the segments in `{run / EXITS}`, or finish the network without `exits`",
        )
    if not recorded.is_training:
        return export_member(load_front(run), pick, folder, formats, data, dynamic_batch)
    if pick is not None:
        raise UsageError(f"`{run}` holds the training of one network, found pick `{pick}`", hint="leave `--pick` out")
    if recorded.architecture is None:
        raise RunError(
            f"`{run}` holds a supernet, expected the training of one network or a search",
            hint=f"search it with `nas search --supernet {shlex.quote(str(run))}`, then export from that run",
        )
    card = {**(recorded.settings.get("card") or {}), **_tested(run / "finish.json")}
    source, seed = data or recorded.setting("data"), recorded.setting("seed")
    target = folder or run / "exports" / NETWORK
    files: _Files = {
        "formats": parse_formats(formats),
        "dynamic_batch": dynamic_batch,
        "assignment": assignment_of(run, target.name),
    }
    return _export_trained(supernet_checkpoint(run), recorded.architecture, source, card, seed, target, files)


def _tested(finished: Path) -> dict[str, float]:
    """What a finished network is worth on the test part; nothing of other trainings."""
    verified = read_json(finished).get("verified", {}) if finished.exists() else {}
    return {name: verified[name] for name in TESTED if name in verified}


def export_untrained(
    text: str, folder: Path | None = None, formats: Sequence[str] = (), dynamic_batch: bool = False
) -> Export:
    """Export a network of a space with random weights, to look at it or to measure it.

    Args:
        text: The network, for example ``resnas/small``, as `nas.networks.resolve.resolve_network` understands it.
        folder: Where to write; None takes ``exports/<name>``, for example ``exports/resnas-small``.
        formats: What to write beside checkpoint and ONNX file, see `nas.exporting.formats.registry`.
        dynamic_batch: As in `export_member`.

    Raises:
        UsageError: The network belongs to no space.
        UnknownNameError: There is no such network.
        ArchitectureError: The text or file holds no valid architecture.
        NasError: The folder cannot be written, or is something other than an export.
    """
    network = resolve_network(text)
    architecture = network.architecture or resolve_architecture(text)
    name = "-".join(re.findall(r"[\w.]+", network.name))
    chosen = parse_formats(formats)
    request = ExportRequest(get_space(architecture.space), architecture, formats=chosen, dynamic_batch=dynamic_batch)
    return export_subnet(request, folder or Path("exports") / name)


def _is_network(text: str) -> bool:
    """Whether ``text`` names a network of a space or of timm, or a file with one."""
    import timm

    space, separator, _ = re.match("([^/:]*)([/:]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    is_of_a_space = bool(separator) and space in space_names()
    is_of_timm = text.startswith((*OTHER_NAMES, *HUB)) or "?" in text or timm.is_model(text)
    return is_of_a_space or is_of_timm or text.startswith("{") or text.lower().endswith(".json")


def _export_trained(
    checkpoint: Path,
    architecture: Architecture,
    data: str | None,
    card: Mapping[str, Any],
    seed: int,
    folder: Path,
    files: _Files,
) -> Export:
    supernet, metadata = load_supernet(checkpoint)
    if "imported" in metadata:
        card = {"source_model": source_card(metadata["imported"]), **card}
        if data is None:
            return _export_without_images(supernet, architecture, metadata["data"], card, folder, files)
    images = images_of(checkpoint, metadata, data)
    sample_BCHW, _ = next(iter(images.batches("search", PROOF_IMAGES)))
    wanted, uses_labels = Compensation.of(card.get("compensation", {})), card.get("labels") != WITHOUT_LABELS
    network = None
    if not uses_labels:
        network = chosen_without_labels(supernet, images, architecture, seed, wanted).network
    elif wanted is not None:
        network = wanted.chosen(supernet, images, architecture, seed).network
    if uses_labels and images.has_several_labels:
        card = {**card, **SEVERAL_LABELS}
    request = ExportRequest(
        space=supernet.space,
        architecture=architecture,
        supernet=supernet,
        network=network,
        calibration=calibration_batches(images, seed),
        images_BCHW=sample_BCHW,
        image={
            "mean": images.mean,
            "std": images.std,
            "class_names": images.class_names if uses_labels else (),
            "crop_share": images.crop_share,
        },
        card={**card, "data": {**images.describe(), "source": shown_place(images.source)}},
        seed=seed,
        **files,
        measure=_measuring(images, supernet.space, architecture, None if uses_labels else supernet),
    )
    return export_subnet(request, folder)


def _export_without_images(
    supernet: Supernet,
    architecture: Architecture,
    described: Mapping[str, Any],
    card: Mapping[str, Any],
    folder: Path,
    files: _Files,
) -> Export:
    """Export imported weights as they are, statistics of BatchNorm included."""
    for name in files["formats"]:
        get_format(name).check(supernet.space, is_trained=False)  # there is nothing to calibrate on
    image = {name: described[name] for name in ("mean", "std", "class_names", "crop_share") if described.get(name)}
    return export_subnet(ExportRequest(supernet.space, architecture, supernet, image=image, card=card, **files), folder)


def _measuring(
    images: ImageData, space: SearchSpace, architecture: Architecture, model: Supernet | None
) -> Callable[[Path, Mapping[str, str]], dict[str, dict[str, Any]]]:
    """Says what the files of an export are worth, on the search part of the images and on this machine.

    Beside labels, or where the ``model`` is given beside its outputs.
    """
    family, side = family_of(space), space.input_shape(dict(architecture.settings))[-1]

    def measure(folder: Path, files: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        from nas.exporting.formats.measured import Images, accuracy, measure_files

        part = f"search part of `{shown_place(images.source)}`"
        figure: str = FIDELITY
        judge: Callable[[Tensor, Tensor], float] = mean_cosine
        if model is None and images.has_several_labels:
            figure, judge = AVERAGE_PRECISION, mean_average_precision
        elif model is None:
            figure, judge = ACCURACY, accuracy
        seen = (
            (family.prepare(x_BCHW, side), labels_B if model is None else model.network(x_BCHW).detach())
            for x_BCHW, labels_B in images.batches("search", BATCH_SIZE)
        )
        return measure_files(folder, files, Images(seen, part, figure, judge))

    return measure
