"""Export of one network: safetensors, a plain module file, ONNX, and the proof that all of them agree.

An exported folder stands alone. It holds ``model.safetensors``, ``config.json``, the network's module file (which
needs torch and nothing else, or is not needed because timm builds the network), ``model.onnx``, what further formats
were asked for, ``proof.json`` and a model card. It appears whole or not at all.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import NasError, RunError, UsageError
from nas.exporting.formats.base import ExportedNetwork, FileFormat
from nas.exporting.formats.checkpoint import (
    CONFIG,
    WEIGHTS,
    Checkpoint,
    build_shipped,
    is_loaded_by_timm,
    make_checkpoint,
    needed_packages,
)
from nas.exporting.formats.onnx_file import ONNX_FILE
from nas.exporting.formats.registry import get_format
from nas.exporting.model_card import model_card
from nas.networks.onnx import export_onnx
from nas.records.files import bytes_of, read_json, replacing_folder
from search_spaces import Architecture, SearchSpace, get_space
from supernets import Supernet, build_network, family_of, reestimate_batch_norm

EXPORT_SCHEMA = 1
PROOF, CARD = "proof.json", "README.md"
TOLERANCE = 1e-6
"""Largest difference of a logit in PyTorch, as a share of the logits' range, from what is stored. It is 0 where tensors
happen to lie at equally aligned addresses; kernels may round differently elsewhere. Formats have tolerances of their
own; what reduced precision costs is measured on images, see `nas.exporting.formats.measured`."""

BATCHES = (1, 7)
"""Sizes of batches that files are proven at which take any."""
BATCH_TOLERANCE = 1e-2
"""The same for the logits of a batch in forms that are not exact by design, from those of its images alone."""

MATCHED_OTHERWISE = 1 / 7
"""Share of the images that may differ where tokens are merged: of two pairs of patches that are equally alike, rounding
decides which is merged. ``proof.json`` says how many do."""

FOLDING_TOLERANCE = 1e-5
"""The same for layers that are folded into others when a network is deployed, whose sums are taken in another order."""


class ProofError(NasError):
    """Two forms of the same network disagree; nothing was written."""


@dataclass(frozen=True)
class Export:
    """An exported network.

    Attributes:
        folder: Where it lies.
        onnx: Its ONNX file.
        is_trained: False where the weights are random.
        proof: Largest differences between its forms.
    """

    folder: Path
    onnx: Path
    is_trained: bool
    proof: Mapping[str, Any]


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    Attributes:
        space: The search space, made for the right number of classes.
        architecture: The network.
        supernet: Trained weights; None exports random weights, and everything that is written says so.
        calibration: Training images ``(B, 3, H, W)`` for the BatchNorm statistics; those of ``supernet`` stay where
            there are none.
        images_BCHW: Normalised images to compare the network's forms on; random ones where None.
        image: How images are prepared: ``mean``, ``std``, ``class_names``, whatever is known.
        card: Further facts for ``config.json`` and the model card, for example predicted latency.
        seed: Seed of the random weights.
        formats: What to write beside checkpoint and ONNX file, see `nas.exporting.formats.registry`.
        measure: Says what the files are worth, given the folder and the file of each format, as
            `nas.exporting.formats.measured.measure_files` does; None leaves that open.
        network: The network itself, in evaluation mode, where its weights are not simply those of the supernet.
        assignment: What each of its layers is to compute in (`nas.exporting.quantise`); None where nobody chose.
        dynamic_batch: Whether files are to take batches of any size, which they are proven at.
    """

    space: SearchSpace
    architecture: Architecture
    supernet: Supernet | None = None
    calibration: Iterable[Tensor] = ()
    images_BCHW: Tensor | None = None
    image: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    formats: tuple[str, ...] = ()
    measure: Callable[[Path, Mapping[str, str]], Mapping[str, Mapping[str, Any]]] | None = None
    network: nn.Module | None = None
    assignment: Mapping[str, str] | None = None
    dynamic_batch: bool = False


def export_subnet(request: ExportRequest, folder: Path) -> Export:
    """Write an exported folder, replacing an earlier export of the same name.

    Raises:
        ProofError: The stored weights or the ONNX file disagree with the network; nothing is left behind.
        NasError: The folder cannot be written, or is something other than an export.
        UsageError: A format does not suit the network, or there are no images to calibrate it on.
        RuntimeMissingError: The runtime of a format is not installed.
    """
    for name in request.formats:
        form = get_format(name)
        form.check(request.space, request.supernet is not None)
        if request.dynamic_batch and not form.any_batch:
            raise UsageError(
                f"format `{name}` takes one image at a time, expected formats for batches of any size",
                hint="leave the format out, or export without `--batch`",
            )
    if folder.exists() and not (folder / CONFIG).exists():
        raise NasError(f"`{folder}` exists and is no exported network", hint="choose another `--output`")
    torch.manual_seed(request.seed)
    network, proof = _prepare(request)
    with replacing_folder(folder) as draft:
        _write(request, network, proof, draft)
    return Export(folder, folder / ONNX_FILE.file, request.supernet is not None, proof)


def load(path: Path | str) -> nn.Module:
    """The network in an exported folder, in evaluation mode.

    The module has ``config``, the content of ``config.json``, and ``preprocess``, which resizes normalised images
    ``(B, 3, H, W)`` to the network's side.

    Raises:
        RunError: The folder is not an exported network, or its files are damaged or do not fit together.
        UsageError: ``path`` is no path.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"nas.load: `path` is {path!r}, expected the folder of an export")
    folder = Path(path)
    config = read_json(folder / CONFIG)
    if config.get("schema") != EXPORT_SCHEMA:
        raise RunError(f"`{folder / CONFIG}` has schema {config.get('schema')!r}, expected {EXPORT_SCHEMA}")
    try:
        family_of(get_space(config["space"]))
        network = build_shipped(config, load_file(folder / WEIGHTS))
        side = int(config["network"]["input_side"])
        with torch.no_grad():  # what is built and what it computes on may disagree without any weight showing it
            copy.deepcopy(network).to("meta").eval()(torch.zeros(1, 3, side, side, device="meta"))
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, AssertionError) as error:
        raise RunError(f"`{folder / CONFIG}` is damaged: {type(error).__name__}: {error}") from error
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise RunError(f"`{folder / WEIGHTS}` cannot be used: {error}", hint="export the network again") from error
    network.config = config  # type: ignore[assignment]
    network.preprocess = partial(_resized, config["space"], side)  # type: ignore[assignment]
    return network.eval()


def _resized(space: str, side: int, images_BCHW: Tensor) -> Tensor:
    """Normalised images at the side of a network."""
    resized_BCHW: Tensor = family_of(get_space(space)).prepare(images_BCHW, side)
    return resized_BCHW


def _prepare(request: ExportRequest) -> tuple[nn.Module, dict[str, Any]]:
    """The network as it is deployed, with its own BatchNorm statistics, and how far it lies from what it comes from."""
    network, proof = _trained_form(request)
    deployed = family_of(request.space).deploy(network)
    if deployed is not network:
        images_BCHW = _images(request)
        with torch.no_grad():
            difference = _difference(deployed(images_BCHW), network(images_BCHW))
        _check(difference, FOLDING_TOLERANCE, "the network with folded layers")
        proof["deployed_difference"] = difference
    return deployed, proof


def _trained_form(request: ExportRequest) -> tuple[nn.Module, dict[str, Any]]:
    """The stand-alone network with its own BatchNorm statistics, and how far it lies from the active subnet."""
    if request.supernet is None:
        return build_network(request.space, request.architecture).eval(), {}
    supernet = request.supernet.eval()
    batches = list(request.calibration)
    if request.network is not None:
        reestimate_batch_norm(request.network, batches)
        return request.network.cpu(), {}
    network = supernet.extract(request.architecture).eval()
    images_BCHW = _images(request).to(supernet.device)
    with torch.no_grad():
        difference = _difference(network(images_BCHW), supernet(images_BCHW, request.architecture))
    _check(difference, TOLERANCE, "the extracted network")
    if batches:
        reestimate_batch_norm(network, batches)
    return network.cpu(), {"active_subnet_difference": difference}


def _write(request: ExportRequest, network: nn.Module, proof: dict[str, Any], draft: Path) -> None:
    from safetensors.torch import save

    checkpoint = make_checkpoint(request.space, request.architecture, network, request.image)
    config = _config(request, checkpoint)
    trained = str(request.supernet is not None).lower()
    state = dict(checkpoint.state)
    metadata = {"format": "pt", "trained": trained, "space": request.space.name}
    (draft / WEIGHTS).write_bytes(save(state, metadata))  # the library's own writing has errors of its own
    (draft / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if checkpoint.module_file is not None:
        shutil.copyfile(checkpoint.module_file, draft / checkpoint.module_file.name)
    stored = load(draft)
    side = int(config["network"]["input_side"])
    about = {"trained": trained, "architecture": request.architecture.to_json()}
    export_onnx(stored, side, draft / ONNX_FILE.file, about, request.dynamic_batch)

    images_BCHW = family_of(request.space).prepare(_images(request).cpu(), side)
    with torch.no_grad():
        expected_BK = network(images_BCHW)
        reloaded_BK = stored(images_BCHW)
    proof["checkpoint_weights_equal"] = all(torch.equal(stored.state_dict()[name], state[name]) for name in state)
    if not proof["checkpoint_weights_equal"]:
        raise ProofError("the stored weights are not the network's; nothing was written")
    proof["images"] = len(images_BCHW)
    _prove(proof, "checkpoint_difference", reloaded_BK, expected_BK, "the stored checkpoint")
    if is_loaded_by_timm(config):
        _prove(proof, "timm_difference", _timm_logits(draft, images_BCHW), expected_BK, "what timm loads")
    formats = _write_formats(request, stored, images_BCHW, expected_BK, draft)
    proof |= {"onnx_difference": formats[ONNX_FILE.name]["difference"], "formats": formats}
    (draft / PROOF).write_text(json.dumps({"schema": 1, **proof}, indent=2) + "\n", encoding="utf-8")
    (draft / CARD).write_text(model_card(config, proof, checkpoint.usage), encoding="utf-8")


def _write_formats(
    request: ExportRequest, network: nn.Module, images_BCHW: Tensor, expected_BK: Tensor, draft: Path
) -> dict[str, Any]:
    """Write the further formats; what is known of each, the ONNX file first, by name, ready for JSON."""
    prepare, side = family_of(request.space).prepare, images_BCHW.shape[-1]
    source = ExportedNetwork(
        network,
        draft / ONNX_FILE.file,
        images_BCHW,
        lambda: (prepare(batch_BCHW.cpu(), side) for batch_BCHW in request.calibration),
        request.assignment,
    )
    found: dict[str, Any] = {}
    for name in dict.fromkeys((ONNX_FILE.name, *request.formats)):
        form = get_format(name)
        if not isinstance(form, FileFormat):
            continue
        path = draft / form.file
        facts = form.write(source, path)
        logits_BK = form.run(path, images_BCHW)
        found[name] = {**_described(form, draft, logits_BK, expected_BK), **facts}
        if form.tolerance is not None:
            spared = _spared(network, len(images_BCHW))
            differences = _largest_first(logits_BK, expected_BK)
            _check(differences[spared], form.tolerance, f"the file `{form.file}`")
            if spared:
                found[name]["images_that_differ"] = sum(each > form.tolerance for each in differences)
        if request.dynamic_batch:
            found[name]["batches"] = _prove_batches(form, path, network, images_BCHW)
    if request.measure is not None and len(found) > 1:
        for name, entry in request.measure(draft, {name: entry["file"] for name, entry in found.items()}).items():
            found[name] |= entry
    return found


@torch.no_grad()
def _prove_batches(form: FileFormat, path: Path, network: nn.Module, images_BCHW: Tensor) -> dict[str, float]:
    """How far the logits of whole batches lie from the network's, by the size of the batch.

    Raises:
        ProofError: Further than they may.
    """
    found = {}
    for size in BATCHES:
        batch_BCHW = torch.randn(size, *images_BCHW.shape[1:], generator=torch.Generator().manual_seed(size))
        expected_BK = form.run(path, batch_BCHW) if form.tolerance is None else network(batch_BCHW)
        difference = _largest_first(form.run_together(path, batch_BCHW), expected_BK)[_spared(network, size)]
        _check(difference, form.tolerance or BATCH_TOLERANCE, f"the file `{form.file}` on {size} images at once")
        found[str(size)] = difference
    return found


def _spared(network: nn.Module, images: int) -> int:
    """How many images may differ."""
    from supernets.networks.timm_subnet import MergingBlocks

    is_merging = any(isinstance(module, MergingBlocks) for module in network.modules())
    return int(MATCHED_OTHERWISE * images) if is_merging else 0


def _described(form: FileFormat, folder: Path, logits_BK: Tensor, expected_BK: Tensor) -> dict[str, Any]:
    agree = (logits_BK.argmax(dim=1) == expected_BK.argmax(dim=1)).float().mean()
    difference = _difference(logits_BK, expected_BK)
    return {
        "file": form.file,
        "bytes": sum(bytes_of(folder / name) for name in (form.file, *form.beside)),
        "difference": difference,
        "top1_agreement": float(agree),
    }


def _config(request: ExportRequest, checkpoint: Checkpoint) -> dict[str, Any]:
    graph = request.space.lower(request.architecture)
    needed = needed_packages(checkpoint.entries["network"])
    return {
        "schema": EXPORT_SCHEMA,
        "space": request.space.name,
        **checkpoint.entries,
        "requires": needed,
        "made_with": {name: version(name) for name in needed},
        "trained": request.supernet is not None,
        "params": graph.params,
        "macs": graph.macs,
        "image": {
            "load_side": request.space.image_side,
            "resize": "bicubic, corners not aligned, no anti-aliasing, from `load_side` to the network's `input_side`",
            **request.image,
        },
        **request.card,
    }


@torch.no_grad()
def _timm_logits(folder: Path, images_BCHW: Tensor) -> Tensor:
    """What timm computes that has nothing but the folder."""
    import timm

    logits_BK: Tensor = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images_BCHW)
    return logits_BK


def _images(request: ExportRequest) -> Tensor:
    if request.images_BCHW is not None:
        return request.images_BCHW
    side = request.space.image_side
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(request.seed))


def _difference(found_BK: Tensor, expected_BK: Tensor) -> float:
    """The largest difference of two sets of logits as a share of their range; NaN never passes for equal."""
    span = float(expected_BK.max() - expected_BK.min())
    return float((found_BK - expected_BK).abs().max()) / max(span, 1e-12)


def _largest_first(found_BK: Tensor, expected_BK: Tensor) -> list[float]:
    """The difference of every image; NaN counts as infinite."""
    span = float(expected_BK.max() - expected_BK.min())
    largest_B = (found_BK - expected_BK).abs().amax(dim=1).nan_to_num(torch.inf).sort(descending=True).values
    return [float(each) / max(span, 1e-12) for each in largest_B]


def _prove(proof: dict[str, Any], name: str, found_BK: Tensor, expected_BK: Tensor, what: str) -> None:
    """Note how far one form of the network lies from the network.

    Raises:
        ProofError: Further than it may.
    """
    proof[name] = _difference(found_BK, expected_BK)
    _check(proof[name], TOLERANCE, what)


def _check(difference: float, tolerance: float, what: str) -> None:
    if not difference <= tolerance:
        raise ProofError(
            f"{what} gives logits that differ by {difference:.2g} of their range from the network's, expected at most"
            f" {tolerance:g}; nothing was written"
        )
