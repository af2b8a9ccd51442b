"""The page of a pick: trained models by published accuracy and predicted latency, the front with names."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.picking.pick import Pick, PickedModel
from nas.picking.words import loading, next_commands
from nas.records.files import write_text
from nas.records.network import latency_name
from nas.report import markup
from nas.report.figures import COLOURS, mark_limit, style, whiskers
from nas.report.markup import Column, Figures, Row
from nas.report.page import assemble
from nas.report.words import count, interval, milliseconds, value

HEIGHT = 620
NAME_HEIGHT = 0.03
"""Share of the range of accuracies that a name takes."""
CLOUD_REACH = 1.3
"""How far the picture reaches beyond the front's slowest model."""


def write_page(found: Pick, path: Path) -> None:
    """Write the page as one HTML file that opens without a network; an earlier one is replaced in one step.

    Raises:
        NasError: It cannot be written.
    """
    write_text(path, render(found))


def render(found: Pick) -> str:
    """The page as HTML."""
    figures = Figures()
    plot = figures.place("front", draw(found).to_json(), "Trained models by latency and accuracy", HEIGHT)
    chosen, title = found.recommended, f"Trained models on {found.target}"
    entries = [
        ("accuracy", value(chosen.model.accuracy, "accuracy"), "published, ImageNet-1k"),
        ("predicted latency", _told(chosen), f"on {found.target}"),
        ("images", f"{chosen.model.image_side} px", "side"),
        ("parameters", count(chosen.params), ""),
        ("MACs", count(chosen.macs), "per image"),
        ("licence", chosen.model.licence, "of the weights"),
    ]
    reason = "The most accurate model within the limits." if found.limits else "The knee of the front."
    body = [
        markup.paragraph("Trained models, nothing trained here", "kicker"),
        f"<h1>{markup.escape(title)}</h1>",
        markup.section(
            f"Recommended: {chosen.model.name}",
            markup.paragraph(f"{reason} Load it with {loading(found)}.", "note"),
            markup.tiles(entries),
            kind="pick",
        ),
        markup.section("Front", markup.paragraph(_front_note(found), "note"), plot, _table(found)),
        markup.section("Next", markup.commands(next_commands(found))),
        markup.section("What the numbers rest on", markup.bullets([*found.sources, *found.warnings])),
    ]
    return assemble(title, body, figures)


def draw(found: Pick) -> Any:
    """Accuracy against predicted latency, as a `plotly` figure: all models within the limits, and the front by name."""
    import plotly.graph_objects as graph_objects

    slowest = CLOUD_REACH * found.front[-1].latency.ms
    near = [member for member in found.models if member.latency.ms <= slowest]
    figure = graph_objects.Figure()
    figure.add_trace(_points(near, "trial", "trained models", {"mode": "markers", "size": 5, "symbol": "circle"}))
    front = _points(
        found.front, "front", "front, with interval", {"mode": "lines+markers+text", "size": 8, "symbol": "circle"}
    )
    front.text = _names(found.front)
    front.textposition, front.textfont = "bottom right", {"size": 10}
    front.line = {"color": COLOURS["front"], "width": 2, "shape": "hv"}
    front.error_x = whiskers([member.latency for member in found.front], "front")
    figure.add_trace(front)
    star = {"mode": "markers", "size": 17, "symbol": "star"}
    figure.add_trace(_points([found.recommended], "pick", "recommended", star))
    style(figure, f"predicted latency on {found.target} (ms)", "published accuracy", percent=True, height=HEIGHT)
    lowest, highest = (found.front[place].model.accuracy for place in (0, -1))
    figure.update_xaxes(range=[0.0, slowest])
    figure.update_yaxes(range=[lowest - 0.02, highest + 0.02])
    limit = found.limits.get(latency_name(found.target))
    if limit is not None:
        mark_limit(figure, limit)
    return figure


def _names(front: Sequence[PickedModel]) -> list[str]:
    """The names beside the points of a front, without the tags of weights, where there is room for them."""
    room = NAME_HEIGHT * (front[-1].model.accuracy - front[0].model.accuracy)
    names: list[str] = []
    above = math.inf
    for member in reversed(front):
        has_room = above - member.model.accuracy >= room
        names.insert(0, html.escape(member.model.name.partition(".")[0]) if has_room else "")
        above = member.model.accuracy if has_room else above
    return names


def _points(members: Sequence[PickedModel], role: str, label: str, look: dict[str, Any]) -> Any:
    import plotly.graph_objects as graph_objects

    return graph_objects.Scatter(
        x=[member.latency.ms for member in members],
        y=[member.model.accuracy for member in members],
        mode=look["mode"],
        name=label,
        marker={"color": COLOURS[role], "size": look["size"], "symbol": look["symbol"]},
        meta={"role": role},
        hovertext=[
            f"<b>{html.escape(member.model.name)}</b><br>{value(member.model.accuracy, 'accuracy')} at"
            f" {member.model.image_side} px<br>{_told(member)}<br>{count(member.params)} parameters,"
            f" {count(member.macs)} MACs"
            for member in members
        ],
        hoverinfo="text",
    )


def _told(member: PickedModel) -> str:
    """The latency with its interval; where the table has no evidence for such a network, the interval alone."""
    latency = member.latency
    if latency.extrapolated:
        return f"{milliseconds(latency.low_ms)} to {milliseconds(latency.high_ms)} ms"
    return interval(latency)


def _front_note(found: Pick) -> str:
    within = f", {len(found.models):,} of them within the limits" if found.limits else ""
    return (
        f"Of {found.considered:,} trained models{within}, {len(found.front)} are on the front: none is both faster and"
        " more accurate. Whiskers are the intervals of the predictions; limits apply to their upper end. Accuracy and"
        " latency are those at the size of images that stands beside them."
    )


def _table(found: Pick) -> str:
    columns = [
        Column("model of timm"),
        Column("accuracy", True),
        Column(f"latency on {found.target}", True),
        Column("px", True),
        Column("parameters", True),
        Column("MACs", True),
        Column("licence"),
        Column("latency is"),
    ]
    rows = [
        Row(
            (
                member.model.name,
                f"{member.model.accuracy:.2%}",
                _told(member),
                str(member.model.image_side),
                count(member.params),
                count(member.macs),
                member.model.licence,
                f"{member.latency.kind}{', extrapolated' if member.latency.extrapolated else ''}",
            ),
            chosen=member is found.recommended,
        )
        for member in found.front
    ]
    return markup.table(columns, rows)
