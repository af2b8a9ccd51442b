"""What networks that nobody trained are ranked by, and what would rank networks by accuracy."""

from __future__ import annotations

import shlex

from nas.objectives.objective import AVERAGE_PRECISION, FIDELITY, MEAN_IOU, lead_of
from nas.report import markup
from nas.report.reading import ReportData
from nas.report.words import words
from nas.runs.front import SearchFront


def is_untrained(front: SearchFront) -> bool:
    """Whether networks were ranked by something else than what they are worth on images."""
    lead = lead_of(front.objectives)
    return (
        "accuracy" not in lead.name and lead.name not in (FIDELITY, AVERAGE_PRECISION, MEAN_IOU) and lead.is_maximised
    )


def ranked_by(front: SearchFront) -> str:
    """What networks were ranked by, in a sentence."""
    name = words(lead_of(front.objectives).name)
    size = ", which is size" if name in ("capacity", "params", "macs", "depth", "width") else ""
    return f"Nothing is trained: networks are ranked by {name}{size}, and not by accuracy."


def by_accuracy(front: SearchFront) -> list[str]:
    """Commands that rank by accuracy: trained models, and networks of a supernet that others have trained."""
    limit = "" if front.limit_ms is None else f" --limit {front.limit_ms:g}ms"
    device = f"--target {shlex.quote(front.target)}{limit}"
    return [
        f"nas pick {device}",
        "nas import supernet.pth --output runs/supernet",
        f"nas search --supernet runs/supernet --data DIR {device}",
    ]


def ranking_section(run: ReportData) -> str:
    """What would rank by accuracy; empty where that was done."""
    if not is_untrained(run.front):
        return ""
    note = (
        f"{ranked_by(run.front)} The first command chooses among trained models, in seconds; the others search a"
        " supernet that its authors have trained and published."
    )
    return markup.section(
        "What would rank by accuracy", markup.paragraph(note, "note"), markup.commands(by_accuracy(run.front))
    )
