"""From the front to something that ships: export of a member, and the check of what was promised for it.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latency_tables.measure import measure_network
from latency_tables.predictor import Latency
from latency_tables.repeats import Measurement
from latency_tables.targets import LOCAL, load_target
from nas.evaluation.accuracy import judge_part
from nas.evaluation.fidelity import mean_cosine, outputs_of
from nas.evaluation.judgement import Judgement
from nas.evaluation.label_judgement import LabelJudgement
from nas.evaluation.segmentation import Segmented, chosen_stride, maps_of, segmented, with_masks
from nas.exporting.export import PROOF, Export
from nas.exporting.formats.features import FEATURES
from nas.exporting.formats.onnx_file import ONNX_FILE, OnnxFile
from nas.exporting.formats.registry import format_names, get_format
from nas.exporting.members import export_member
from nas.networks.onnx import OnnxNetwork
from nas.objectives.objective import ACCURACY, AVERAGE_PRECISION, FIDELITY, MEAN_IOU
from nas.records.files import read_json, write_json
from nas.runs.folder import RunFolder, original_checkpoint
from nas.runs.front import FRONT_FILE, FrontMember, SearchFront
from search_spaces import Architecture, SearchSpace, get_space
from supernets.checkpoint import load_supernet
from supernets.data.image_data import ImageData, Part
from supernets.data.mask_folder import MaskedData
from supernets.family import family_of
from supernets.supernet import Supernet

PREDICTED_PLACEMENT = "inputs-only"
"""How files are written that latency tables of int8 are made from."""
TOLERATED_DIFFERENCE = 0.10
"""Measured latency may differ from the predicted by so much before a warning is due."""


def export_and_verify(front: SearchFront, images: ImageData, pick: str = "knee") -> dict[str, Any]:
    """Export a member, check it where it runs, and write both down in ``front.json`` under ``verified``.

    Checked are the exported file's accuracy on the test part of the images, which nothing has looked at before, and
    its latency where the target is this machine.

    Args:
        front: What a search found.
        images: Images that the search was for.
        pick: The member, as in `nas.runs.front.SearchFront.pick`.

    Returns:
        What ``front.json`` now holds.

    Raises:
        NasError: As `export_member`.
        BusyMachineError: This machine is too busy to be measured.
    """
    member = front.pick(pick)
    file = shipped_format(front.target)
    wanted = [] if file is ONNX_FILE else [file.name]
    export = export_member(front, pick, formats=[*wanted, FEATURES.name] if front.objective == MEAN_IOU else wanted)
    path = export.folder / file.file
    space = get_space(member.architecture.space)
    if front.objective == MEAN_IOU:
        judged = {
            f"search_{MEAN_IOU}": member.objectives[MEAN_IOU],
            **onnx_segmented(export, with_masks(images), space, member.architecture).to_dict("test"),
        }
    elif front.objective == FIDELITY:
        original, _ = load_supernet(original_checkpoint(front.run))
        judged = {
            "search_fidelity": member.objectives[FIDELITY],
            **onnx_fidelity(path, original, images, space, member.architecture),
        }
    else:
        judged = {
            **_on_search_part(front, member, export, images),
            **facts_on_tests(path, images, space, member.architecture),
        }
    facts = {
        "export": str(export.folder.relative_to(front.run)),
        **judged,
        "proof": {name: value for name, value in export.proof.items() if name != "formats"},
    }
    return note_verified(front, images, pick, path, facts)


def shipped_format(target: str) -> OnnxFile:
    """The file that is checked on a target: in integers where the target's table is of those."""
    name = f"onnx-{target.partition('@')[2]}"
    form = get_format(name) if name in format_names() else ONNX_FILE
    return form if isinstance(form, OnnxFile) else ONNX_FILE


def _on_search_part(front: SearchFront, member: FrontMember, export: Export, images: ImageData) -> dict[str, float]:
    """Accuracy of what was exported on the search part; that is not what was judged where it is made up for anew."""
    is_as_judged = front.document.get("model", {}).get("compensation") is None
    if is_as_judged and front.objective in (ACCURACY, AVERAGE_PRECISION):
        return {f"search_{front.objective}": member.objectives[front.objective]}
    judged = onnx_accuracy(export.onnx, images, get_space(member.architecture.space), member.architecture, "search")
    return {f"search_{judged.name}": judged.value}


def note_verified(
    front: SearchFront, images: ImageData, pick: str, onnx: Path, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write down in ``front.json`` what is known of the member that ships, beside the model it came out of.

    Args:
        front: What a search found.
        images: Images that the search was for.
        pick: The member, as in `nas.runs.front.SearchFront.pick`.
        onnx: Its exported file, whose latency is measured where the target is this machine.
        facts: What was found out about it.

    Returns:
        What ``front.json`` now holds.

    Raises:
        NasError: The file cannot be written.
        BusyMachineError: This machine is too busy to be measured.
    """
    member = front.pick(pick)
    verified: dict[str, Any] = {"number": member.number, "pick": pick, **facts}
    kept = RunFolder(front.run).original
    if kept.exists() and front.objective == MEAN_IOU:
        original, _ = load_supernet(kept)
        maps = maps_of(original.network.eval(), lambda x_BCHW: x_BCHW, images.image_side)
        verified[f"original_test_{MEAN_IOU}"] = segmented(maps, with_masks(images), "test").value
    elif kept.exists() and front.objective != FIDELITY:
        original, _ = load_supernet(kept)
        whole = original.extract(original.space.largest)
        judged = judge_part(whole, images, "test")
        verified[f"original_test_{judged.name}"] = judged.value
    if front.target.partition("@")[0] == LOCAL:
        statistic = load_target(front.target).provenance.protocol.get("statistic")
        measurement = measure_network(onnx, statistic="p5" if statistic == "p5" else "median")
        verified |= compare_latency(
            member.latency[front.target], measurement, front.limit_ms, front.target, _placement(onnx)
        )
    document = {**front.document, "verified": verified}
    write_json(front.run / FRONT_FILE, document)
    return document


def facts_on_tests(path: Path, images: ImageData, space: SearchSpace, architecture: Architecture) -> dict[str, Any]:
    """What an ONNX file is worth on the test part, as `Judgement.to_dict` or `LabelJudgement.to_dict` says it."""
    judged = onnx_accuracy(path, images, space, architecture)
    return judged.to_dict("test", images.class_counts("train").tolist())


def onnx_accuracy(
    path: Path, images: ImageData, space: SearchSpace, architecture: Architecture, part: Part = "test"
) -> Judgement | LabelJudgement:
    """How often an ONNX file is right on a part of the images, or how well it tells several labels."""
    network, family = OnnxNetwork(path), family_of(space)
    side = space.input_shape(dict(architecture.settings))[-1]
    return judge_part(lambda x_BCHW: network(family.prepare(x_BCHW, side)), images, part)


def onnx_fidelity(
    path: Path, original: Supernet, images: ImageData, space: SearchSpace, architecture: Architecture
) -> dict[str, Any]:
    """How near an ONNX file's outputs are to the whole model's on the test part, ready for JSON."""
    network, family = OnnxNetwork(path), family_of(space)
    side = space.input_shape(dict(architecture.settings))[-1]
    found_NK = outputs_of(lambda x_BCHW: network(family.prepare(x_BCHW, side)), images, "test")
    value = mean_cosine(found_NK, outputs_of(original.network, images, "test"))
    return {"test_fidelity": value, "test_images": len(found_NK)}


def _placement(onnx: Path) -> str | None:
    """Where an exported file has its integers; None for files without."""
    files = read_json(onnx.with_name(PROOF))["formats"].values()
    return next((entry.get("placement") for entry in files if entry.get("file") == onnx.name), None)


def onnx_segmented(export: Export, data: MaskedData, space: SearchSpace, architecture: Architecture) -> Segmented:
    """What a linear probe of the patches finds on the test part, of the maps that the exported file gives."""
    network, family = OnnxNetwork(export.folder / FEATURES.file), family_of(space)
    side = space.input_shape(dict(architecture.settings))[-1]
    found = export.proof["formats"][FEATURES.name]["maps"]
    name = found[chosen_stride([entry["stride"] for entry in found])]["name"]

    def maps(x_BCHW: Tensor) -> Tensor:
        return torch.as_tensor(network.outputs(family.prepare(x_BCHW, side), [name])[0])

    return segmented(maps, data, "test")


def compare_latency(
    predicted: Latency,
    measured: Measurement,
    limit_ms: float | None,
    target: str = LOCAL,
    placement: str | None = None,
) -> dict[str, Any]:
    """Measured beside predicted latency, ready for JSON, with a warning where they are far apart or over the limit.

    Args:
        predicted: By the target's table.
        measured: Latency of the exported file.
        limit_ms: What it may take.
        target: The target.
        placement: Where the file has its integers. Tables of int8 are of files that have them in every layer, and what
            ships may be written in a faster way.
    """
    difference = measured.ms / predicted.ms - 1
    warnings = []
    if placement not in (None, PREDICTED_PLACEMENT) and difference < -TOLERATED_DIFFERENCE:
        warnings.append(
            f"measured latency differs by {difference:+.0%} from the predicted, which is of integers in every layer;"
            f" the file is written as `{placement}`, which is faster"
        )
    elif abs(difference) > TOLERATED_DIFFERENCE:
        warnings.append(f"measured latency differs by {difference:+.0%} from the predicted; build the table again")
    if limit_ms is not None and measured.ms > limit_ms:
        warnings.append(f"measured latency of {measured.ms:.3g} ms is over the limit of {limit_ms:g} ms")
    return {
        "latency": {
            target: {
                "ms": measured.ms,
                "low_ms": measured.p5_ms,
                "high_ms": measured.p95_ms,
                "kind": "measured",
                "extrapolated": False,
            }
        },
        "latency_difference": difference,
        "latency_statistic": measured.statistic,
        "latency_runs": measured.runs,
        "warnings": warnings,
    }
