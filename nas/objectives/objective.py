"""What a search optimises: objectives by name, what they are worth, and the fronts that they make.

An objective is what an evaluator finds out, for example ``accuracy``, or is known beforehand: ``params``, ``macs``, or
``latency:TARGET``. Evaluated ones are maximised, known ones minimised.

Legend of array suffixes: n trials, k objectives, f trials on the front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.errors import UsageError
from nas.objectives.pareto import Costs, dominated_by, pareto_mask
from nas.records.trial import State, Trial

LATENCY = "latency"
SIZES = ("params", "macs")
ACCURACY = "accuracy"


@dataclass(frozen=True)
class Objective:
    """One thing to optimise.

    Attributes:
        name: ``params``, ``macs``, ``latency:TARGET``, or the evaluator's.
        is_evaluated: Whether an evaluator finds it out; it is then maximised. Known ones are minimised.
    """

    name: str
    is_evaluated: bool = False

    @property
    def goal(self) -> str:
        """``maximise`` or ``minimise``."""
        return "maximise" if self.is_evaluated else "minimise"

    @property
    def target(self) -> str | None:
        """The device of a latency; None for other objectives."""
        kind, _, target = self.name.partition(":")
        return target if kind == LATENCY else None

    def value(self, cost: float) -> float:
        """The value as people read it, of a cost that is minimised."""
        return -cost if self.is_evaluated else cost

    def cost(self, value: float) -> float:
        """The cost that is minimised, of a value as people read it."""
        return -value if self.is_evaluated else value


def latency_of(target: str) -> Objective:
    """The objective of being fast on a device."""
    return Objective(f"{LATENCY}:{target}")


def parse_names(names: Sequence[str], target: str) -> list[str]:
    """The names of objectives, checked and in full; ``latency`` alone is that on ``target``.

    Raises:
        UsageError: There is none, one stands there twice, or more than one has to be evaluated.
    """
    full = [latency_of(target).name if name == LATENCY else name for name in map(str.strip, names)]
    odd = [name for name in full if not name or name.endswith(":") or (":" in name and Objective(name).target is None)]
    if not full or odd:
        raise UsageError(
            f"objectives: found `{odd[0] if odd else ''}`, expected accuracy or a score, latency:TARGET, params, macs",
            hint="for example `--objectives accuracy,latency:pixel6,params`",
        )
    twice = next((name for name in full if full.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"objectives: `{twice}` stands there more than once")
    evaluated = [name for name in full if not is_known(name)]
    if len(evaluated) > 1:
        raise UsageError(
            f"objectives: {', '.join(f'`{name}`' for name in evaluated)} all have to be evaluated, expected only one",
            hint="a search evaluates one thing: accuracy, or one score",
        )
    return full


def is_known(name: str) -> bool:
    """Whether an objective is known without an evaluation."""
    return name in SIZES or Objective(name).target is not None


def make_objectives(names: Sequence[str], evaluated: str | None) -> tuple[Objective, ...]:
    """The objectives of checked names, what is evaluated first.

    Args:
        names: As `parse_names` gives them.
        evaluated: What the evaluator calls its own; None where there is no evaluator.
    """
    known = tuple(Objective(name) for name in names if is_known(name))
    return known if evaluated is None else (Objective(evaluated, is_evaluated=True), *known)


def value_of(trial: Trial, name: str) -> float:
    """The value of an objective of a trial; NaN where it has none."""
    if name in trial.objectives:
        return trial.objectives[name]
    if name in SIZES:
        return float(trial.params if name == "params" else trial.macs)
    latency = trial.latency.get(Objective(name).target or "")
    return math.nan if latency is None else latency.ms


def costs_of(trial: Trial, objectives: Sequence[Objective]) -> list[float]:
    """The costs of one trial, minimised; NaN where an evaluation has not told."""
    values = [trial.objectives.get(o.name, math.nan) if o.is_evaluated else value_of(trial, o.name) for o in objectives]
    return [-value if o.is_evaluated else value for o, value in zip(objectives, values, strict=True)]


def front_of(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The done trials with the best trade-offs, by ascending order of the first known objective."""
    done = [trial for trial in trials if trial.state is State.DONE]
    costs = np.array([costs_of(trial, objectives) for trial in done], dtype=np.float64).reshape(-1, len(objectives))
    chosen = [trial for trial, is_on_front in zip(done, pareto_mask(costs), strict=True) if is_on_front]
    return in_order(chosen, objectives)


def in_order(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Trials by ascending latency on the first device, else by the first known objective there is."""
    known = [objective for objective in objectives if not objective.is_evaluated]
    first = next((objective for objective in known if objective.target is not None), known[0] if known else None)
    if first is None:
        return sorted(trials, key=lambda trial: trial.number)
    return sorted(trials, key=lambda trial: (value_of(trial, first.name), trial.number))


def lead_of(objectives: Sequence[Objective]) -> Objective:
    """The objective that latency is traded for: what is evaluated, or the first that is no latency, or the first."""
    return next((objective for objective in objectives if objective.target is None), objectives[0])


def trade_off(objectives: Sequence[Objective], target: str) -> tuple[Objective, ...]:
    """What a search for one device alone optimises: the leading objective and the latency there."""
    lead, latency = lead_of(objectives), latency_of(target)
    return (latency,) if lead.target is not None else (lead, latency)


def device_fronts(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Mapping[str, list[Trial]]:
    """The front of each device by its name: what a search for that device alone makes of the same trials."""
    targets = [objective.target for objective in objectives if objective.target is not None]
    return {target: front_of(trials, trade_off(objectives, target)) for target in targets}


class RunningFront:
    """The front of everything that was added so far, kept up at the cost of what is new."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._objectives = tuple(objectives)
        self._costs_fk: Costs = np.empty((0, len(self._objectives)))
        self._members: list[tuple[Sequence[Trial], int]] = []

    def __len__(self) -> int:
        return len(self._members)

    def add(self, trials: Sequence[Trial], costs_nk: Costs) -> npt.NDArray[np.bool_]:
        """Take in done trials with their costs; which of them ``[n]`` enlarge what the front dominates.

        No trial is looked at before the front is asked for.
        """
        is_new_n = ~np.isnan(costs_nk).any(axis=1) & ~dominated_by(costs_nk, self._costs_fk)
        entering = np.flatnonzero(is_new_n)
        entering = entering[pareto_mask(costs_nk[entering])]
        is_new_n[:] = False
        if not len(entering):
            return is_new_n
        rows_nk = costs_nk[entering]
        is_kept_f = ~dominated_by(self._costs_fk, rows_nk)
        known = {row.tobytes() for row in self._costs_fk}
        for position, row in zip(entering.tolist(), rows_nk, strict=True):
            is_new_n[position] = row.tobytes() not in known
            known.add(row.tobytes())
        self._members = [member for member, kept in zip(self._members, is_kept_f.tolist(), strict=True) if kept]
        self._members += [(trials, position) for position in entering.tolist()]
        self._costs_fk = np.concatenate([self._costs_fk[is_kept_f], rows_nk])
        return is_new_n

    @property
    def trials(self) -> list[Trial]:
        """The trials on the front, by ascending latency."""
        return in_order([trials[position] for trials, position in self._members], self._objectives)
