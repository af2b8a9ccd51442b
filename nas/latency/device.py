"""A device by name, with its latency table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.events import Progress, ignore
from nas.objectives.bounds import Device
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from latency_tables.table import LatencyTable


def load_device(space: SearchSpace, target: str, *, build: bool = False, progress: Progress = ignore) -> Device:
    """A device by name, ready to predict.

    Args:
        space: What networks are predicted.
        target: Name of the target.
        build: Whether to build the table of this machine where it has none yet, which takes minutes.
        progress: Receives the events of building.

    Raises:
        UnknownNameError: There is no such target.
        TableMissingError: The target has no table, and ``build`` is off.
        NoEvidenceError: The target was measured on networks unlike those of the space, and is not built here.
    """
    from latency_tables.predictor import LatencyPredictor
    from latency_tables.targets import load_target, provenance_line
    from nas.latency.evidence import require_evidence

    table: LatencyTable
    if build:
        from nas.latency.build import ensure_target

        table = ensure_target(target, space, progress)
    else:
        table = load_target(target)
    predictor = LatencyPredictor(table)
    require_evidence(predictor, space)
    return Device(target, predictor, provenance_line(table))
