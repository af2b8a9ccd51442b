"""What a search optimises: objectives by name, what they are worth, and the fronts that they make.

An objective is what an evaluator finds out, for example ``accuracy``, or a quantity that is known beforehand, for
example ``params`` or ``latency:TARGET``, see `nas.objectives.quantities`. Evaluated ones are maximised.

Legend of array suffixes: n trials, k objectives, f trials on the front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.errors import UsageError
from nas.objectives.pareto import Costs, dominated_by, pareto_mask
from nas.objectives.quantities import find_quantity
from nas.records.network import LATENCY, NetworkRecord, latency_name, target_of
from nas.records.trial import State, Trial

ACCURACY, BALANCED, FIDELITY = "accuracy", "balanced_accuracy", "fidelity"
AVERAGE_PRECISION, MACRO_AUROC = "mean_average_precision", "macro_auroc"
"""What takes the place of accuracy and balanced accuracy where images have several labels."""
MEAN_IOU = "mean_iou"
"""Mean intersection over union, where masks say the class of each pixel."""
PREDICTED_ACCURACY = "predicted_accuracy"
"""Of a network whose accuracy is not known, from those that are."""


@dataclass(frozen=True)
class Objective:
    """One thing to optimise.

    Attributes:
        name: A quantity, ``latency:TARGET`` among them, or what the evaluator calls its own.
        is_evaluated: Whether an evaluator finds it out; it is then maximised.
    """

    name: str
    is_evaluated: bool = False

    @property
    def is_maximised(self) -> bool:
        """Whether more is better."""
        quantity = None if self.is_evaluated else find_quantity(self.name)
        return self.is_evaluated or (quantity is not None and quantity.is_maximised)

    @property
    def goal(self) -> str:
        """``maximise`` or ``minimise``."""
        return "maximise" if self.is_maximised else "minimise"

    @property
    def target(self) -> str | None:
        """The device of a latency; None for other objectives."""
        return target_of(self.name)

    def value(self, cost: float) -> float:
        """The value as people read it, of a cost that is minimised."""
        return -cost if self.is_maximised else cost

    def cost(self, value: float) -> float:
        """The cost that is minimised, of a value as people read it."""
        return -value if self.is_maximised else value


def latency_of(target: str) -> Objective:
    """The objective of being fast on a device."""
    return Objective(latency_name(target))


def parse_names(names: Sequence[str], target: str) -> list[str]:
    """The names of objectives, checked and in full; ``latency`` alone is that on ``target``.

    A quantity of which more is better leads where nothing else is evaluated: it then ranks networks as a score does.

    Raises:
        UsageError: There is none, one stands there twice, or more than one has to be evaluated.
    """
    full = [latency_name(target) if name == LATENCY else name for name in map(str.strip, names)]
    odd = [name for name in full if not name or name.endswith(":") or (":" in name and target_of(name) is None)]
    if not full or odd:
        raise UsageError(
            f"objectives: found `{odd[0] if odd else ''}`, expected accuracy or a score, latency:TARGET, params, macs",
            hint="for example `--objectives accuracy,latency:pixel6,params`",
        )
    twice = next((name for name in full if full.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"objectives: `{twice}` stands there more than once")
    evaluated = [name for name in full if find_quantity(name) is None]
    if len(evaluated) > 1:
        raise UsageError(
            f"objectives: {', '.join(f'`{name}`' for name in evaluated)} all have to be evaluated, expected only one",
            hint="a search evaluates one thing: accuracy, or one score",
        )
    return full


def evaluated_name(names: Sequence[str]) -> str | None:
    """Which of checked names an evaluator finds out; None where all are known.

    It is the one that is no quantity, else the first quantity of which more is better.
    """
    unknown = [name for name in names if find_quantity(name) is None]
    return next(iter(unknown or [name for name in names if Objective(name).is_maximised]), None)


def make_objectives(names: Sequence[str], evaluated: str | None) -> tuple[Objective, ...]:
    """The objectives of checked names, what is evaluated first.

    Args:
        names: Names as `parse_names` gives them.
        evaluated: What the evaluator calls its own; None where there is no evaluator.
    """
    known = tuple(
        Objective(name) for name in names if find_quantity(name) is not None and name.replace("-", "_") != evaluated
    )
    return known if evaluated is None else (Objective(evaluated, is_evaluated=True), *known)


def costs_of(network: NetworkRecord, objectives: Sequence[Objective]) -> list[float]:
    """The costs of one network, minimised; NaN where there is no value."""
    return [objective.cost(network.value(objective.name)) for objective in objectives]


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
    return sorted(trials, key=lambda trial: (first.cost(trial.value(first.name)), trial.number))


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
