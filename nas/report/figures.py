"""The report's figures, as `plotly` figures that also stand alone in a notebook.

Every trace and shape carries the role that it plays; the page repaints roles when the reader's colour scheme is dark.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from latency_tables.predictor import Latency
from nas.objectives.objective import ACCURACY, AVERAGE_PRECISION, lead_of
from nas.objectives.pareto import knee
from nas.records.trial import Trial
from nas.report.reading import (
    is_point,
    measured_latency,
    members_of,
    original_point,
    parse_front,
    parse_trials,
    points_of,
    verified_member,
    verified_share,
)
from nas.report.stages import choices_in_words, describe_choices
from nas.report.statistics import hypervolume_curve
from nas.report.words import count, interval, is_share, plural, value, words
from nas.runs.front import FrontMember, SearchFront

if TYPE_CHECKING:
    import plotly.graph_objects

COLOURS = {
    "trial": "rgba(96, 103, 112, 0.38)",
    "front": "#2457c5",
    "other": "#a21caf",
    "pick": "#c2410c",
    "measured": "#0f766e",
    "original": "#7c3aed",
    "limit": "#a3323b",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, GRID = "#3a4048", "#e4e6ea"


def front_figure(
    front_document: Mapping[str, Any], trials: Sequence[Mapping[str, Any]] | None = None
) -> plotly.graph_objects.Figure:
    """The front of a run: objective against predicted latency with the interval of each prediction.

    Args:
        front_document: Content of ``front.json``, which is also what ``--json`` prints.
        trials: Content of ``trials.jsonl``; what was evaluated appears faintly behind the front.

    Raises:
        RunError: The document or a trial is not what a run writes.
    """
    front = parse_front(front_document)
    return draw_front(front, parse_trials(trials or (), front.space))


def pick_of(front: SearchFront) -> FrontMember | None:
    """The recommended network: what the run exported, else the knee of the front; None where the front is empty."""
    lead = lead_of(front.objectives)
    members = [member for member in members_of(front) if is_point(front, member)]
    if not members:
        return None
    verified = verified_member(front)
    if verified is not None and is_point(front, verified):
        return verified
    costs_n2 = [[member.latency[front.target].ms, lead.cost(member.value(lead.name))] for member in members]
    return members[knee(np.array(costs_n2, dtype=np.float64))]


def draw_front(front: SearchFront, trials: Sequence[Trial]) -> plotly.graph_objects.Figure:
    """`front_figure` of records that have been checked."""
    import plotly.graph_objects as graph_objects

    lead, target = lead_of(front.objectives), front.target
    name, measured = lead.name, measured_latency(front)
    figure = graph_objects.Figure()
    evaluated = points_of(front, trials)
    if evaluated:
        cloud = _cloud(evaluated, [trial.latency[target].ms for trial in evaluated], front)
        cloud.hovertext = [_hover(trial, front, choices=True) for trial in evaluated]
        figure.add_trace(cloud)
    members = [member for member in members_of(front) if is_point(front, member)]
    if members:
        figure.add_trace(_front_trace(members, front))
    pick = pick_of(front)
    if pick is not None:
        figure.add_trace(_marker([pick], [pick.latency[target].ms], front, "pick", "recommended", "star", 17))
    verified = verified_member(front) or pick
    if measured is not None and verified is not None:
        figure.add_trace(_measured(verified, measured, front))
    original = original_point(front)
    if original is not None and name in (ACCURACY, AVERAGE_PRECISION):
        figure.add_trace(_original(*original, name))
    better = "higher" if lead.is_maximised else "lower"
    style(
        figure, f"predicted latency on {target} (ms)", f"{axis_label(name)}, {better} is better", percent=is_share(name)
    )
    if front.limit_ms is not None:
        mark_limit(figure, front.limit_ms)
    return figure


def draw_fronts(fronts: Mapping[str, SearchFront]) -> plotly.graph_objects.Figure:
    """The fronts of two runs in one figure, with what ships from each.

    Args:
        fronts: What each run found, by the name that it goes by; both for one target and by one leading objective.
    """
    import plotly.graph_objects as graph_objects

    figure = graph_objects.Figure()
    looks = (("front", "circle", "solid"), ("other", "square", "dash"))
    for (label, front), (role, symbol, dash) in zip(fronts.items(), looks, strict=True):
        members = [member for member in members_of(front) if is_point(front, member)]
        pick, name = pick_of(front), html.escape(label)
        if pick is None:
            continue
        line = _front_trace(members, front, role)
        line.name, line.line.dash, line.marker.symbol = f"{name}: front", dash, symbol
        star = _marker([pick], [pick.latency[front.target].ms], front, role, f"{name}: recommended", "star", 17)
        figure.add_traces([line, star])
        measured = measured_latency(front)
        if measured is not None:
            diamond = _measured(verified_member(front) or pick, measured, front, role)
            diamond.name = f"{name}: measured"
            figure.add_trace(diamond)
    front = next(iter(fronts.values()))
    lead = lead_of(front.objectives)
    better = "higher" if lead.is_maximised else "lower"
    label = f"{axis_label(lead.name)}, {better} is better"
    style(figure, f"predicted latency on {front.target} (ms)", label, percent=is_share(lead.name))
    limits = {name: front.limit_ms for name, front in fronts.items() if front.limit_ms is not None}
    if len(set(limits.values())) == 1:
        limits = {"": next(iter(limits.values()))}
    for place, (name, limit_ms) in enumerate(limits.items()):
        mark_limit(figure, limit_ms, html.escape(f"{name}: " if name else ""), y=1.0 - place)
    return figure


def mark_limit(figure: Any, limit_ms: float, prefix: str = "", y: float = 1.0) -> None:
    """Draw a limit on latency into a figure whose horizontal axis is latency, with its words at height ``y``."""
    figure.add_vline(
        x=limit_ms,
        line={"color": COLOURS["limit"], "width": 1.5, "dash": "dash"},
        annotation={
            "text": f"{prefix}limit {limit_ms:.5g} ms",
            "yref": "paper",
            "y": y,
            "yanchor": "bottom",
            "xanchor": "right",
            "font": {"color": COLOURS["limit"]},
        },
    )


def draw_progress(front: SearchFront, done: Sequence[Trial]) -> tuple[plotly.graph_objects.Figure, ...]:
    """Hypervolume against evaluations, and the objective of each trial with the best so far."""
    import plotly.graph_objects as graph_objects

    lead, target = lead_of(front.objectives), front.target
    name = lead.name
    objective_n = np.array([trial.value(name) for trial in done], dtype=np.float64)
    latency_n = np.array([trial.latency[target].ms for trial in done])
    volume_n = hypervolume_curve(latency_n, objective_n if lead.is_maximised else -objective_n).tolist()
    volume = graph_objects.Figure(
        graph_objects.Scatter(
            x=list(range(1, len(done) + 1)),
            y=volume_n,
            mode="lines",
            name="hypervolume",
            line={"color": COLOURS["front"], "width": 2, "shape": "hv"},
            meta={"role": "front"},
            hovertext=[f"after {plural(spent, 'evaluation')}: {share:.3f}" for spent, share in enumerate(volume_n, 1)],
            hoverinfo="text",
            showlegend=False,
        )
    )
    style(volume, "networks evaluated", "hypervolume (share of the box)", height=330)
    course = graph_objects.Figure(_cloud(done, [trial.number for trial in done], front))
    course.add_trace(
        graph_objects.Scatter(
            x=[trial.number for trial in done],
            y=(np.maximum if lead.is_maximised else np.minimum).accumulate(objective_n),
            mode="lines",
            name="best so far",
            line={"color": COLOURS["front"], "width": 2, "shape": "hv"},
            meta={"role": "front"},
            hoverinfo="skip",
        )
    )
    style(course, "trial number", axis_label(name), percent=is_share(name), height=330)
    return volume, course


def draw_size(front: SearchFront, done: Sequence[Trial]) -> tuple[plotly.graph_objects.Figure, ...]:
    """The objective against parameters and against MACs."""
    import plotly.graph_objects as graph_objects

    name = lead_of(front.objectives).name
    figures = []
    for label, size in (("parameters (millions)", "params"), ("MACs (millions)", "macs")):
        figure = graph_objects.Figure(_cloud(done, [trial.value(size) / 1e6 for trial in done], front))
        members = members_of(front)
        millions = [member.value(size) / 1e6 for member in members]
        figure.add_trace(_marker(members, millions, front, "front", "front", "circle", 8))
        style(figure, label, axis_label(name), percent=is_share(name), height=330)
        figures.append(figure)
    return tuple(figures)


def axis_label(name: str) -> str:
    """The axis title of an objective; a share carries its unit at the ticks."""
    return html.escape(words(name))


def _cloud(trials: Sequence[Trial], x: Sequence[float], front: SearchFront) -> Any:
    return _marker(trials, x, front, "trial", "evaluated", "circle", 6)


def _marker(
    entries: Sequence[Trial | FrontMember],
    x: Sequence[float],
    front: SearchFront,
    role: str,
    label: str,
    symbol: str,
    size: int,
) -> Any:
    import plotly.graph_objects as graph_objects

    return graph_objects.Scatter(
        x=list(x),
        y=[entry.value(lead_of(front.objectives).name) for entry in entries],
        mode="markers",
        name=label,
        marker={"color": COLOURS[role], "size": size, "symbol": symbol},
        meta={"role": role},
        hovertext=[_hover(entry, front, choices=role != "trial") for entry in entries],
        hoverinfo="text",
    )


def _front_trace(members: Sequence[FrontMember], front: SearchFront, role: str = "front") -> Any:
    records = [member.latency[front.target] for member in members]
    trace = _marker(members, [record.ms for record in records], front, role, "front", "circle", 8)
    trace.mode = "lines+markers"
    trace.line = {"color": COLOURS[role], "width": 2, "shape": "hv"}
    trace.error_x = whiskers(records, role)
    trace.name = "front, with interval"
    return trace


def _measured(member: FrontMember, record: Latency, front: SearchFront, role: str = "measured") -> Any:
    trace = _marker([member], [record.ms], front, role, "measured on the device", "diamond", 13)
    trace.error_x = whiskers([record], role)
    lead = lead_of(front.objectives).name
    shipped = verified_share(front, f"search_{lead}")
    if shipped is not None and lead in (ACCURACY, AVERAGE_PRECISION):
        trace.y, trace.name = [shipped], "what ships, measured on the device"
    trace.hovertext = [f"<b>measured {interval(record)}</b><br>{_hover(member, front, choices=True)}"]
    return trace


def _original(record: Latency, worth: float, name: str) -> Any:
    import plotly.graph_objects as graph_objects

    return graph_objects.Scatter(
        x=[record.ms],
        y=[worth],
        mode="markers",
        name="the whole model",
        marker={"color": COLOURS["original"], "size": 12, "symbol": "square"},
        meta={"role": "original"},
        error_x=whiskers([record], "original"),
        hovertext=[f"<b>the whole model: {words(name)} {worth:.2%}</b><br>predicted {interval(record)}"],
        hoverinfo="text",
    )


def whiskers(records: Sequence[Latency], role: str) -> dict[str, Any]:
    """Error bars along the axis of latency, in the colour of a role."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(record.high_ms - record.ms, 0.0) for record in records],
        "arrayminus": [max(record.ms - record.low_ms, 0.0) for record in records],
        "color": COLOURS[role],
        "thickness": 1,
        "width": 4,
    }


def _hover(entry: Trial | FrontMember, front: SearchFront, *, choices: bool) -> str:
    name = lead_of(front.objectives).name
    record = entry.latency.get(front.target)
    lines = [
        f"<b>{html.escape(words(name))} {value(entry.value(name), name)}</b>",
        f"predicted {interval(record)}" if record else "",
        f"{count(entry.params)} parameters, {count(entry.macs)} MACs",
        *(html.escape(line) for line in describe_choices(choices_in_words(entry.architecture) if choices else {})),
    ]
    return "<br>".join([f"trial {entry.number}", *filter(None, lines)])


def style(figure: Any, x_label: str, y_label: str, *, percent: bool = False, height: int = 480) -> None:
    """Give a figure its axes, and the look of the page."""
    size = {"size": 13}
    axis = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "automargin": True}
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 16, "t": 28 if height > 400 else 12, "b": 92},
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
        hoverlabel={"align": "left", "font": {"family": FONT, "size": 12}},
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        xaxis={**axis, "title": {"text": html.escape(x_label), "standoff": 10, "font": size}},
        yaxis={
            **axis,
            "title": {"text": y_label, "standoff": 10, "font": size},
            "tickformat": ".1%" if percent else None,
        },
    )
