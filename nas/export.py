"""Export of one network: safetensors, a plain module file, ONNX, and the proof that all of them agree.

An exported folder stands alone. It holds ``model.safetensors``, ``config.json``, the network's module file (which
needs torch and nothing else), ``model.onnx``, ``proof.json`` and a model card. It appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import NasError, RunError
from nas.files import read_json, write_failed
from nas.model_card import model_card
from nas.onnx_export import OnnxNetwork, export_onnx
from search_spaces import Architecture, SearchSpace, get_space
from supernets import Supernet, build_network, family_of, network_config, reestimate_batch_norm

EXPORT_SCHEMA = 1
WEIGHTS, CONFIG, ONNX, PROOF, CARD = "model.safetensors", "config.json", "model.onnx", "proof.json", "README.md"
TOLERANCES = {"active_subnet_difference": 1e-6, "checkpoint_difference": 1e-6, "onnx_difference": 1e-3}
"""Largest difference of a logit that each form of the network may have, as a share of the logits' range. The first
two are 0 where tensors happen to lie at equally aligned addresses; kernels may round differently elsewhere."""


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
        calibration: Training images ``(B, 3, H, W)`` for the BatchNorm statistics; needed with ``supernet``.
        images_BCHW: Normalised images to compare the network's forms on; random ones where None.
        image: How images are prepared: ``mean``, ``std``, ``class_names``, whatever is known.
        card: Further facts for ``config.json`` and the model card, for example predicted latency.
        seed: Of the random weights.
    """

    space: SearchSpace
    architecture: Architecture
    supernet: Supernet | None = None
    calibration: Iterable[Tensor] = ()
    images_BCHW: Tensor | None = None
    image: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


def export_subnet(request: ExportRequest, folder: Path) -> Export:
    """Write an exported folder, replacing an earlier export of the same name.

    Raises:
        ProofError: The stored weights or the ONNX file disagree with the network; nothing is left behind.
        NasError: The folder cannot be written, or is something other than an export.
    """
    if folder.exists() and not (folder / CONFIG).exists():
        raise NasError(f"`{folder}` exists and is no exported network", hint="choose another `--output`")
    torch.manual_seed(request.seed)
    network, proof = _prepare(request)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise write_failed(folder, error) from error
    try:
        _write(request, network, proof, draft)
        _replace(draft, folder)
    except OSError as error:
        raise write_failed(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Export(folder, folder / ONNX, request.supernet is not None, proof)


def load(path: Path | str) -> nn.Module:
    """The network in an exported folder, in evaluation mode.

    The module has ``config``, the content of ``config.json``, and ``preprocess``, which resizes normalised images
    ``(B, 3, H, W)`` to the network's side.

    Raises:
        RunError: The folder is not an exported network, or its files are damaged or do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path)
    config = read_json(folder / CONFIG)
    if config.get("schema") != EXPORT_SCHEMA:
        raise RunError(f"`{folder / CONFIG}` has schema {config.get('schema')!r}, expected {EXPORT_SCHEMA}")
    try:
        family = family_of(get_space(config["space"]))
        with torch.device("meta"):
            network = family.build_network(config["network"])
        network.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    except (KeyError, TypeError) as error:
        raise RunError(f"`{folder / CONFIG}` is damaged: {type(error).__name__}: {error}") from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"`{folder / WEIGHTS}` cannot be used: {error}", hint="export the network again") from error
    side = int(config["network"]["input_side"])
    network.config = config  # type: ignore[assignment]
    network.preprocess = lambda images_BCHW: family.prepare(images_BCHW, side)  # type: ignore[assignment]
    return network.eval()


def _prepare(request: ExportRequest) -> tuple[nn.Module, dict[str, Any]]:
    """The stand-alone network with its own BatchNorm statistics, and how far it lies from the active subnet."""
    if request.supernet is None:
        return build_network(request.space, request.architecture).eval(), {}
    supernet = request.supernet.eval()
    network = supernet.extract(request.architecture).eval()
    images_BCHW = _images(request).to(supernet.device)
    with torch.no_grad():
        difference = _difference(network(images_BCHW), supernet(images_BCHW, request.architecture))
    _check("active_subnet_difference", difference, "the extracted network")
    reestimate_batch_norm(network, request.calibration)
    return network.cpu(), {"active_subnet_difference": difference}


def _write(request: ExportRequest, network: nn.Module, proof: dict[str, Any], draft: Path) -> None:
    from safetensors.torch import save_file

    family = family_of(request.space)
    config = _config(request)
    trained = str(request.supernet is not None).lower()
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, draft / WEIGHTS, metadata={"format": "pt", "trained": trained, "space": request.space.name})
    (draft / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(family.source_file, draft / Path(family.source_file).name)
    side = int(config["network"]["input_side"])
    export_onnx(network, side, draft / ONNX, {"trained": trained, "architecture": request.architecture.to_json()})

    images_BCHW = family.prepare(_images(request).cpu(), side)
    with torch.no_grad():
        expected = network(images_BCHW)
        stored = load(draft)
        reloaded = stored(images_BCHW)
    proof["checkpoint_weights_equal"] = all(torch.equal(stored.state_dict()[name], state[name]) for name in state)
    if not proof["checkpoint_weights_equal"]:
        raise ProofError("the stored weights are not the network's; nothing was written")
    proof["images"] = len(images_BCHW)
    proof["checkpoint_difference"] = _difference(reloaded, expected)
    proof["onnx_difference"] = _difference(torch.from_numpy(OnnxNetwork(draft / ONNX)(images_BCHW)), expected)
    _check("checkpoint_difference", proof["checkpoint_difference"], "the stored checkpoint")
    _check("onnx_difference", proof["onnx_difference"], "the ONNX file")
    (draft / PROOF).write_text(json.dumps({"schema": 1, **proof}, indent=2) + "\n", encoding="utf-8")
    card = model_card(config, proof, Path(family.source_file).stem, family.class_name)
    (draft / CARD).write_text(card, encoding="utf-8")


def _config(request: ExportRequest) -> dict[str, Any]:
    graph = request.space.lower(request.architecture)
    return {
        "schema": EXPORT_SCHEMA,
        "space": request.space.name,
        "architecture": request.architecture.to_dict(),
        "network": network_config(request.space, request.architecture),
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


def _images(request: ExportRequest) -> Tensor:
    if request.images_BCHW is not None:
        return request.images_BCHW
    side = request.space.image_side
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(request.seed))


def _difference(found_BK: Tensor, expected_BK: Tensor) -> float:
    """The largest difference of two sets of logits as a share of their range; NaN never passes for equal."""
    span = float(expected_BK.max() - expected_BK.min())
    return float((found_BK - expected_BK).abs().max()) / max(span, 1e-12)


def _check(name: str, difference: float, what: str) -> None:
    if not difference <= TOLERANCES[name]:
        raise ProofError(
            f"{what} gives logits that differ by {difference:.2g} of their range from the network's, expected at most"
            f" {TOLERANCES[name]:g}; nothing was written"
        )


def _replace(draft: Path, folder: Path) -> None:
    """Put ``draft`` in place of ``folder``; at every moment one of the two is whole."""
    draft.chmod(0o755)
    if not folder.exists():
        os.rename(draft, folder)
        return
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    os.rename(folder, old)
    os.rename(draft, folder)
    shutil.rmtree(old, ignore_errors=True)
