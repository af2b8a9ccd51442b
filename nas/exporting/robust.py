"""What the exported files of a run are worth on disturbed test images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from nas.errors import UsageError
from nas.evaluation.accuracy import check_one_label
from nas.evaluation.robustness import robustness
from nas.exporting.formats.checkpoint import CONFIG
from nas.exporting.formats.onnx_file import ONNX_FILE
from nas.networks.onnx import OnnxNetwork
from nas.records.files import read_json, write_json
from nas.runs.folder import FINISHED, RunFolder, checkpoint_header
from nas.runs.front import FRONT_FILE, load_front
from nas.runs.places import images_of
from search_spaces import get_space
from supernets.checkpoint import load_supernet
from supernets.family import family_of


def note_robustness(run: Path) -> dict[str, Any]:
    """Judge what a search exported, beside the model that it began with, and note it in ``front.json``.

    Args:
        run: The run folder of a search.

    Returns:
        What ``front.json`` now holds.

    Raises:
        RunError: The folder holds no front.
        UsageError: Nothing was exported, or the networks are not trained.
        DataError: The images are gone or have changed.
        NasError: A file cannot be read or written.
    """
    front, folder = load_front(run), RunFolder(run)
    exported = {path.name: path for path in sorted((run / "exports").glob("*")) if (path / CONFIG).exists()}
    finished = run / FINISHED / "exports" / "network"
    exported |= {FINISHED: finished} if (finished / CONFIG).exists() else {}
    checkpoint = folder.find_weights()
    if checkpoint is None or not exported:
        what = "its networks are not trained" if checkpoint is None else "nothing was exported"
        raise UsageError(f"`{run}`: {what}, so that there is nothing to judge", hint="export a trained network first")
    images = images_of(checkpoint, checkpoint_header(checkpoint), None)
    check_one_label(images, "`--robust`")
    networks: dict[str, Callable[[Tensor], Any]] = {}
    if folder.original.exists():
        original, _ = load_supernet(folder.original)
        networks["original"] = original.extract(original.space.largest).eval()
    networks |= {name: _runner(path) for name, path in exported.items()}
    document = {**front.document, "robustness": robustness(networks, images, front.seed)}
    write_json(run / FRONT_FILE, document)
    return document


def _runner(folder: Path) -> Callable[[Tensor], Any]:
    """An exported network in ONNX Runtime, on normalised images of any side."""
    config = read_json(folder / CONFIG)
    network, family = OnnxNetwork(folder / ONNX_FILE.file), family_of(get_space(config["space"]))
    side = int(config["network"]["input_side"])
    return lambda x_BCHW: network(family.prepare(x_BCHW, side))
