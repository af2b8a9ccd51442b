"""What a run keeps for its exports: the images that it was divided for, and precisions that were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from nas.errors import UsageError
from nas.records.files import read_json
from nas.runs.folder import RunFolder, supernet_checkpoint
from nas.runs.places import images_of
from supernets.checkpoint import load_supernet
from supernets.data.image_data import ImageData

if TYPE_CHECKING:
    from latency_tables.onnx_quantised import Precision

QUANTISED, ASSIGNMENT, NETWORK = "quantised", "assignment.json", "network"
"""Where a run keeps the precisions that were chosen for each network, and what a training calls its only one."""


def images_of_run(run: Path, data: str | None = None) -> tuple[ImageData, int]:
    """The images of a run with trained weights, as they were divided for it, and its seed.

    Raises:
        UsageError: The run has random weights.
        DataError: The images are gone or have changed.
        RunError: The folder is no run.
    """
    recorded = RunFolder(run)
    checkpoint = supernet_checkpoint(run) if recorded.is_training else recorded.find_weights()
    if checkpoint is None:
        raise UsageError(f"`{run}` has random weights, expected trained ones", "search with `--data` or `--supernet`")
    _, metadata = load_supernet(checkpoint)
    return images_of(checkpoint, metadata, data), int(recorded.settings.get("seed") or 0)


def assignment_of(run: Path, pick: str) -> Mapping[str, Precision] | None:
    """The precisions that were chosen for a network of a run; None where nobody has.

    Raises:
        RunError: Their file cannot be read.
    """
    path = run / QUANTISED / pick / ASSIGNMENT
    if not path.exists():
        return None
    return cast("Mapping[str, Precision]", read_json(path))  # what exports make of it is checked
