"""The fronts of a search as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas.cli import display
from nas.report.words import is_share

if TYPE_CHECKING:
    from nas.result import SearchResult
    from nas.runs.front import FrontMember


def show_fronts(result: SearchResult) -> None:
    """Print the front; of a search for several devices one front for each, and how many networks there are in all."""
    if len(result.fronts) < 2:
        target = next(iter(result.fronts), result.target)
        _show_front(result, target, result.front, title="")
        return
    for target, front in result.fronts.items():
        _show_front(result, target, front, title=f"best trade-offs on {target}")
    names = ", ".join(objective.name for objective in result.objectives)
    display.say(f"{len(result.front)} networks are on the front over {names}; all are in {_file(result)}")


def _show_front(result: SearchResult, target: str, front: Sequence[FrontMember], title: str) -> None:
    from nas.objectives.quantities import get_quantity
    from nas.records.network import SIZES
    from nas.searching.extra_scores import MEMBERS, spread

    targets = list(dict.fromkeys([target, *result.fronts]))
    evaluated = [objective.name for objective in result.objectives if objective.is_evaluated]
    beside = sorted({name for member in front for name in member.scores})
    further = list(dict.fromkeys(name for member in front for name in member.costs if name not in SIZES))
    numbers = [name.replace("_", " ").replace("-", " ") for name in (*further, *evaluated, *beside)]
    columns = ["", "network", "params", "MACs", *(f"latency {name}" for name in targets), *numbers]
    is_main = target == result.target
    pick = result.default_pick if is_main else f"{target}:knee"
    picked = result.pick(pick).number if front else None
    shown = sorted({*spread(len(front), MEMBERS), *(i for i, member in enumerate(front) if member.number == picked)})
    rows = []
    for position in shown:
        member = front[position]
        values = [
            *((name, member.objectives[name]) for name in evaluated),
            *((name, member.scores.get(name, math.nan)) for name in beside),
        ]
        rows.append(
            [
                f"{position}" + (f" <- {pick.rpartition(':')[2]}" if member.number == picked else ""),
                display.describe(member.architecture),
                *display.size_text(member.params, member.macs),
                *(display.latency_text(vars(member.latency[name])) for name in targets),
                *(get_quantity(name).text(member.costs[name]) for name in further),
                *("" if math.isnan(value) else _number(name, value) for name, value in values),
            ]
        )
    display.print_table(columns, rows, title=title, left=2)
    if len(shown) < len(front):
        display.say(f"{len(shown)} of the {len(front)} networks on the front; all are in {_file(result)}")


def _file(result: SearchResult) -> str:
    return display.short(result.run / "front.json")


def _number(name: str, value: float) -> str:
    return f"{value:.2%}" if is_share(name) else f"{value:.4g}"
