"""The report's figures, as `plotly` figures that also stand alone in a notebook.

Every trace and shape carries the role that it plays; the page repaints roles when the reader's colour scheme is dark.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.objectives.pareto import knee
from nas.report.reading import Candidate, Evaluated, Front, LatencyRecord, Trial, parse_front, parse_trials
from nas.report.stages import describe_choices
from nas.report.statistics import hypervolume_curve
from nas.report.words import count, interval, is_share, value, words

if TYPE_CHECKING:
    import plotly.graph_objects

COLOURS = {
    "trial": "rgba(96, 103, 112, 0.38)",
    "front": "#2457c5",
    "pick": "#c2410c",
    "measured": "#0f766e",
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
    return draw_front(parse_front(front_document), parse_trials(trials or ()))


def pick_of(front: Front) -> Candidate | None:
    """The recommended network: the knee of the front; None where the front is empty."""
    name = front.objectives.lead
    members = [member for member in front.members if _point(member, name, front.target) is not None]
    if not members:
        return None
    signs = (1.0, -float(front.objectives.sign))
    costs_n2 = np.array([_point(member, name, front.target) for member in members], dtype=np.float64) * signs
    return members[knee(costs_n2)]


def draw_front(front: Front, trials: Sequence[Trial]) -> plotly.graph_objects.Figure:
    """`front_figure` of records that have been checked."""
    import plotly.graph_objects as graph_objects

    name, target = front.objectives.lead, front.target
    figure = graph_objects.Figure()
    evaluated = [trial for trial in trials if trial.state == "done" and _point(trial, name, target)]
    if evaluated:
        cloud = _cloud(evaluated, [_must(trial.latency_ms(target)) for trial in evaluated], front)
        cloud.hovertext = [_hover(trial, front, trial.choices) for trial in evaluated]
        figure.add_trace(cloud)
    members = [member for member in front.members if _point(member, name, target)]
    if members:
        figure.add_trace(_front_trace(members, front))
    pick = pick_of(front)
    if pick is not None:
        figure.add_trace(_marker([pick], [pick.latency[target].ms], front, "pick", "recommended", "star", 17))
    verified = next((member for member in members if member.number == front.verified_number), pick)
    if front.verified_latency is not None and verified is not None:
        figure.add_trace(_measured(verified, front.verified_latency, front))
    better = "higher" if front.objectives.sign > 0 else "lower"
    _style(
        figure, f"predicted latency on {target} (ms)", f"{axis_label(name)}, {better} is better", percent=is_share(name)
    )
    if front.limit_ms is not None:
        figure.add_vline(
            x=front.limit_ms,
            line={"color": COLOURS["limit"], "width": 1.5, "dash": "dash"},
            annotation={
                "text": f"limit {front.limit_ms:g} ms",
                "yref": "paper",
                "y": 1.0,
                "yanchor": "bottom",
                "xanchor": "right",
                "font": {"color": COLOURS["limit"]},
            },
        )
    return figure


def draw_progress(front: Front, done: Sequence[Trial]) -> tuple[plotly.graph_objects.Figure, ...]:
    """Hypervolume against evaluations, and the objective of each trial with the best so far."""
    import plotly.graph_objects as graph_objects

    name, target = front.objectives.lead, front.target
    objective_n = np.array([_must(trial.objective(name)) for trial in done])
    latency_n = np.array([_must(trial.latency_ms(target)) for trial in done])
    volume = graph_objects.Figure(
        graph_objects.Scatter(
            x=np.arange(1, len(done) + 1),
            y=hypervolume_curve(latency_n, front.objectives.sign * objective_n),
            mode="lines",
            line={"color": COLOURS["front"], "width": 2, "shape": "hv"},
            meta={"role": "front"},
            hovertemplate="after %{x} evaluations: %{y:.3f}<extra></extra>",
            showlegend=False,
        )
    )
    _style(volume, "networks evaluated", "hypervolume (share of the box)", height=330)
    course = graph_objects.Figure(_cloud(done, [trial.number for trial in done], front))
    course.add_trace(
        graph_objects.Scatter(
            x=[trial.number for trial in done],
            y=(np.maximum if front.objectives.sign > 0 else np.minimum).accumulate(objective_n),
            mode="lines",
            name="best so far",
            line={"color": COLOURS["front"], "width": 2, "shape": "hv"},
            meta={"role": "front"},
            hoverinfo="skip",
        )
    )
    _style(course, "trial number", axis_label(name), percent=is_share(name), height=330)
    return volume, course


def draw_size(front: Front, done: Sequence[Trial]) -> tuple[plotly.graph_objects.Figure, ...]:
    """The objective against parameters and against MACs."""
    import plotly.graph_objects as graph_objects

    name = front.objectives.lead
    figures = []
    for label, attribute in (("parameters (millions)", "params"), ("MACs (millions)", "macs")):
        sized = [trial for trial in done if getattr(trial, attribute) is not None]
        millions = [getattr(trial, attribute) / 1e6 for trial in sized]
        figure = graph_objects.Figure(_cloud(sized, millions, front))
        members = [member for member in front.members if member.objective(name) is not None]
        millions = [getattr(member, attribute) / 1e6 for member in members]
        figure.add_trace(_marker(members, millions, front, "front", "front", "circle", 8))
        _style(figure, label, axis_label(name), percent=is_share(name), height=330)
        figures.append(figure)
    return tuple(figures)


def axis_label(name: str) -> str:
    """The axis title of an objective; a share carries its unit at the ticks."""
    return html.escape(words(name))


def _cloud(trials: Sequence[Evaluated], x: Sequence[float], front: Front) -> Any:
    return _marker(trials, x, front, "trial", "evaluated", "circle", 6)


def _marker(
    entries: Sequence[Evaluated], x: Sequence[float], front: Front, role: str, label: str, symbol: str, size: int
) -> Any:
    import plotly.graph_objects as graph_objects

    return graph_objects.Scatter(
        x=list(x),
        y=[entry.objective(front.objectives.lead) for entry in entries],
        mode="markers",
        name=label,
        marker={"color": COLOURS[role], "size": size, "symbol": symbol},
        meta={"role": role},
        hovertext=[
            _hover(entry, front, entry.architecture.choices if isinstance(entry, Candidate) else {})
            for entry in entries
        ],
        hoverinfo="text",
    )


def _front_trace(members: Sequence[Candidate], front: Front) -> Any:
    records = [member.latency[front.target] for member in members]
    trace = _marker(members, [record.ms for record in records], front, "front", "front", "circle", 8)
    trace.mode = "lines+markers"
    trace.line = {"color": COLOURS["front"], "width": 2, "shape": "hv"}
    trace.error_x = _whiskers(records, "front")
    trace.name = "front, with interval"
    return trace


def _measured(member: Candidate, record: LatencyRecord, front: Front) -> Any:
    trace = _marker([member], [record.ms], front, "measured", "measured on the device", "diamond", 13)
    trace.error_x = _whiskers([record], "measured")
    trace.hovertext = [f"<b>measured {interval(record)}</b><br>{_hover(member, front, member.architecture.choices)}"]
    return trace


def _whiskers(records: Sequence[LatencyRecord], role: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [max((record.high_ms or record.ms) - record.ms, 0.0) for record in records],
        "arrayminus": [max(record.ms - (record.low_ms or record.ms), 0.0) for record in records],
        "color": COLOURS[role],
        "thickness": 1,
        "width": 4,
    }


def _hover(entry: Evaluated, front: Front, choices: dict[str, int]) -> str:
    name = front.objectives.lead
    record = entry.latency.get(front.target)
    lines = [
        f"<b>{html.escape(words(name))} {value(entry.objective(name), name)}</b>",
        f"predicted {interval(record)}" if record else "",
        f"{count(entry.params)} parameters, {count(entry.macs)} MACs",
        *(html.escape(line) for line in describe_choices(choices)),
    ]
    return "<br>".join([f"trial {entry.number}", *filter(None, lines)])


def _point(entry: Evaluated, name: str, target: str) -> tuple[float, float] | None:
    latency, objective = entry.latency_ms(target), entry.objective(name)
    return None if latency is None or objective is None else (latency, objective)


def _must(number: float | None) -> float:
    if number is None:
        raise ValueError("expected a trial with an objective and a latency")
    return number


def _style(figure: Any, x_label: str, y_label: str, *, percent: bool = False, height: int = 480) -> None:
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
        legend={"orientation": "h", "x": 0, "y": -0.16 if height > 400 else -0.24, "yanchor": "top"},
        xaxis={**axis, "title": {"text": html.escape(x_label), "standoff": 10, "font": size}},
        yaxis={
            **axis,
            "title": {"text": y_label, "standoff": 10, "font": size},
            "tickformat": ".1%" if percent else None,
        },
    )
