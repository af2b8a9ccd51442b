"""The search itself: ask, predict, evaluate, record, tell; and the same again from the record when a run is resumed.

A controller is deterministic given its seed and what it was told. So a resumed run asks a fresh controller from the
start and answers from the record for as long as it lasts: nothing of the controller is ever stored, and a run that was
killed anywhere ends as it would have ended without that. Batches are of one size, evaluations of a batch may finish in
any order, and the controller is told in the order in which it was asked: results depend on seed and batch size alone.

Where all objectives are quantities a batch is recorded and remembered as a whole, see `nas.searching.columnar_trials`.

Legend of array suffixes: n proposals, c choices, k objectives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nas.controllers import Controller, Outcomes, SettlingController
from nas.errors import NasError, RunError
from nas.events import Progress, SearchFinished, SearchStarted, TrialFinished
from nas.executors.base import Executor, Task
from nas.executors.successive_halving import charge, evaluate_rungs
from nas.objectives.bounds import Bounds
from nas.objectives.objective import Objective, RunningFront, trade_off
from nas.objectives.pareto import Costs
from nas.records.trial import State, Trial
from nas.runs.run import Run
from nas.searching.batch import Batch, make_trial, plan_batch
from nas.searching.columnar_trials import ColumnarTrials
from nas.searching.plan import Budget, Plan
from search_spaces import Genotypes

if TYPE_CHECKING:
    from nas.searching.optuna_journal import Journal

IDLE_LIMIT = 1000
"""Proposals in a row without an evaluation that end the search: nothing new is left."""
FLUSH_SECONDS = 0.2
"""Trials that finish within this time of each other are written together, those in columns in any case."""
WRITE_SECONDS = 0.02
"""A trial that took longer is written at once, since writing takes less: nothing that was dear waits in memory."""


@dataclass
class _Clock:
    """Time spent on evaluations: of earlier sessions, and since this one began."""

    before: float
    started: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        return self.before + time.monotonic() - self.started


class SearchLoop:
    """One search in one run folder.

    Args:
        run: Open run folder.
        bounds: Space, devices and limits.
        plan: How to go about it.
        executor: Evaluates networks; None where all objectives are computed in columns.
        controller: Fresh controller; it is asked from the start even when the run is resumed.
        progress: Receives `TrialFinished` events; one for each batch where objectives are computed in columns.
        stop: Asked between evaluations; true ends the search as if its budget were spent.
    """

    def __init__(
        self,
        run: Run,
        bounds: Bounds,
        plan: Plan,
        executor: Executor | None,
        controller: Controller,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> None:
        self._run = run
        self._bounds = bounds
        self._plan = plan
        self._executor = executor
        self._controller = controller
        self._progress = progress
        self._stop = stop
        self._in_record = run.load_trials(bounds.space) if run.is_resumed else []
        early = {} if executor is None else dict(run.early_trials)
        self._recorded = {trial.number: trial for trial in self._in_record} | early
        self._clock = _Clock(sum(trial.seconds for trial in self._recorded.values()) / plan.workers)
        self._journal: Journal | None = None
        self._front = RunningFront(plan.objectives)
        self._device_fronts = _device_fronts(plan.objectives)
        self._position_of: dict[bytes, int] = {}
        self._ended: list[Trial] = []
        self._columns: ColumnarTrials | None = None
        self._unwritten: list[str] = []
        self._flushed = time.monotonic()
        if executor is None:
            objective = "" if plan.score is None else plan.objectives[0].name
            self._columns = ColumnarTrials(bounds.space, self._in_record, objective)
        self._evaluated = 0
        self._charged = 0.0
        self._since_improvement = 0

    def __call__(self, budget: Budget) -> str:
        """Search until the budget is spent; returns why it ended, as in `SearchFinished`.

        Raises:
            RunError: The record does not fit what the controller proposes.
            NasError: The disk is full, or no worker is left.
        """
        if self._columns is None:
            self._open_journal()
        self._announce(budget)
        self._clock = _Clock(self._clock.before)
        try:
            reason = self._search(budget)
        finally:
            self._flush()
        if reason != "interrupted" and self._is_replaying:
            raise self._does_not_fit(f"it ends after trial {len(self.trials) - 1}")
        self._progress(SearchFinished(self._run.path, self._evaluated, len(self._front), reason))
        return reason

    def _open_journal(self) -> None:
        """Only where networks are evaluated: trials in columns are soon computed again, however many they are."""
        from nas.searching.optuna_journal import Journal

        path, objectives = self._run.path / "journal.log", self._plan.objectives
        self._journal = Journal(path, self._bounds.space, self._run.path.name, objectives, self._in_record)

    def _search(self, budget: Budget) -> str:
        """Ask, find out and tell until the budget is spent; returns why it ended."""
        idle = 0
        while True:
            reason = "" if self._is_replaying else self._end_reason(budget)
            if reason:
                return reason
            genotypes = self._controller.ask(self._plan.batch)
            if not len(genotypes) or idle >= IDLE_LIMIT:
                return "exhausted"
            batch = self._planned(genotypes, budget)
            if self._columns is not None:
                self._compute(batch, self._columns)
            else:
                finished = self._finished(batch, budget)
                self._remember(batch, finished)
                if len(finished) < len(batch.numbers):
                    return self._end_reason(budget) or "interrupted"
            idle = len(batch) - 1 - batch.row_of[batch.tasks[-1]] if batch.tasks else idle + len(batch)
            self._controller.tell(batch.genotypes, self._outcomes(batch))

    def settled(self) -> Trial | None:
        """What the controller settles on, evaluated now if it never was; None for controllers that only propose."""
        genotype = self._controller.settle() if isinstance(self._controller, SettlingController) else None
        if genotype is None:
            return None
        known = self._position_of.get(genotype.tobytes())
        if known is not None:
            return self.trials[known]
        batch = plan_batch(self._bounds, genotype[None], {}, len(self.trials), self._plan.score)
        if batch.infeasible or self._executor is None:
            return make_trial(batch, batch.numbers[0], None, self._plan.objectives[0].name)
        return dict(self._evaluate(batch, {}))[batch.numbers[0]]

    @property
    def trials(self) -> Sequence[Trial]:
        """All trials so far, by number."""
        return self._ended if self._columns is None else self._columns

    @property
    def front(self) -> list[Trial]:
        """The evaluated trials that no other one dominates, by ascending latency."""
        return self._front.trials

    @property
    def contenders(self) -> list[Trial]:
        """The trials of the front, and those of the front of each device alone, by number."""
        fronts = (self._front, *self._device_fronts.values())
        found = {trial.number: trial for front in fronts for trial in front.trials}
        return [found[number] for number in sorted(found)]

    @property
    def evaluated(self) -> int:
        """Networks evaluated so far, failed ones included."""
        return self._evaluated

    @property
    def _is_replaying(self) -> bool:
        return len(self.trials) < len(self._recorded)

    def _end_reason(self, budget: Budget) -> str:
        if budget.evaluations is not None and self._charged >= budget.evaluations:
            return "evaluations"
        if budget.patience is not None and self._since_improvement >= budget.patience:
            return "patience"
        return self._sudden_end(budget)

    def _sudden_end(self, budget: Budget) -> str:
        """Why the search ends in the middle of a batch."""
        if budget.seconds is not None and self._evaluated and self._clock.spent >= budget.seconds:
            return "budget"
        return "interrupted" if self._stop() else ""

    # -- one batch -----------------------------------------------------------------------------------------------

    def _planned(self, genotypes: Genotypes, budget: Budget) -> Batch:
        """As many of the proposals ``[n, c]`` as the budget leaves room for; never a part of a bracket."""
        batch = plan_batch(self._bounds, genotypes, self._position_of, len(self.trials), self._plan.score)
        if budget.evaluations is None or len(self._plan.rungs) > 1:
            return batch
        room = budget.evaluations - self._evaluated
        for row, number in batch.task_rows:
            if room <= 0 and number not in self._recorded:
                return plan_batch(self._bounds, genotypes[:row], self._position_of, len(self.trials), self._plan.score)
            room -= 1
        return batch

    def _found(self, batch: Batch) -> dict[int, Trial]:
        """The trials of a batch that stand in the record, by number."""
        found = {number: self._recorded[number] for number in batch.numbers if number in self._recorded}
        for number, trial in found.items():
            expected = batch.genotypes[batch.row_of[number]].tolist()
            if list(trial.genotype) != expected:
                raise self._does_not_fit(f"trial {number} is {list(trial.genotype)}, expected {expected}")
        return found

    def _compute(self, batch: Batch, columns: ColumnarTrials) -> None:
        """Record and remember a batch of which everything is computed in columns."""
        found = self._found(batch)
        new = [number for number in batch.numbers if number not in found]
        if new:
            self._unwritten += columns.lines.of(batch, new)
        columns.add(batch)
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self._flush()
        rows = [batch.row_of[number] for number in batch.tasks]
        entered_n = self._enter(columns.of(batch.tasks), self._known_costs(batch)[rows])
        self._position_of.update((batch.keys[row], number) for number, row in batch.row_of.items())
        self._evaluated += len(rows)
        self._charged += len(rows) * charge(1.0, self._plan.rungs)
        after = np.flatnonzero(entered_n[::-1])
        self._since_improvement = int(after[0]) if len(after) else self._since_improvement + len(rows)
        if new:
            self._report(columns[-1])

    def _flush(self) -> None:
        """Write the lines of trials in columns that wait."""
        lines, self._unwritten, self._flushed = self._unwritten, [], time.monotonic()
        if lines:
            self._run.append_lines(len(self.trials) - len(lines), lines)

    def _finished(self, batch: Batch, budget: Budget) -> dict[int, Trial]:
        """The trials of a batch by number: from the record, out of bounds, or evaluated; all unless the search ends."""
        found = self._found(batch)
        waiting = {trial.number: trial for trial in batch.infeasible if trial.number not in found}
        is_bracket = len(self._plan.rungs) > 1 and any(number not in found for number in batch.tasks)
        # What is promoted depends on the whole bracket, so one that was cut short is evaluated again.
        evaluated = self._evaluate(batch, {} if is_bracket else found)
        if self._plan.batch > 1 and len(found) + len(waiting) < len(batch.numbers):
            self._run.start_trials([make_trial(batch, n, None, "") for n in batch.tasks if n not in found])
        flushed = time.monotonic()
        unwritten: list[Trial] = []
        for number, trial in evaluated:
            if number not in found:
                unwritten.append(trial)
            if trial.seconds >= WRITE_SECONDS or time.monotonic() - flushed >= FLUSH_SECONDS or self._plan.batch == 1:
                found |= self._record(unwritten, waiting)
                unwritten, flushed = [], time.monotonic()
            if self._sudden_end(budget) and self._plan.batch > 1:
                return found | self._record(unwritten, waiting)
        found |= self._record(unwritten, {})
        return found | self._record(list(waiting.values()), {})

    def _record(self, trials: Sequence[Trial], waiting: dict[int, Trial]) -> dict[int, Trial]:
        """Write finished trials, with those ``waiting`` that stand before one of them."""
        if not trials:
            return {}
        last = max(trial.number for trial in trials)
        written = {trial.number: trial for trial in trials}
        for number in [number for number in waiting if number < last]:
            written[number] = waiting.pop(number)
        added = self._run.append_trials([written[number] for number in sorted(written)])
        if self._journal is not None:
            self._journal.append(added)
        return written

    def _evaluate(self, batch: Batch, found: Mapping[int, Trial]) -> Iterator[tuple[int, Trial]]:
        """The trials of what is within bounds and not ``found``, as they finish."""
        assert self._executor is not None, "what is computed in columns needs no evaluation"
        numbers = [number for number in batch.tasks if number not in found]
        rows = [batch.row_of[number] for number in numbers]
        tasks = [Task(number, batch.architectures[number], self._plan.seed) for number in numbers]
        known_nk = self._known_costs(batch)[rows]
        name = self._plan.objectives[0].name
        for number, found_now in evaluate_rungs(self._executor, tasks, self._plan.rungs, known_nk):
            yield number, make_trial(batch, number, found_now, name)

    def _remember(self, batch: Batch, finished: Mapping[int, Trial]) -> None:
        """Take in the finished trials of a batch, in the order of their numbers."""
        trials = [finished[number] for number in sorted(finished)]
        done = [trial for trial in trials if trial.state is State.DONE]
        costs_nk = self._known_costs(batch)[[batch.row_of[trial.number] for trial in done]]
        entered_n = self._enter(done, self._with_evaluated(costs_nk, done))
        entering = {trial.number for trial, enters in zip(done, entered_n.tolist(), strict=True) if enters}
        for trial in trials:
            self._position_of[batch.keys[batch.row_of[trial.number]]] = len(self._ended)
            self._ended.append(trial)
            if trial.state is not State.INFEASIBLE:
                self._evaluated += 1
                self._charged += charge(trial.fidelity, self._plan.rungs)
                self._since_improvement = 0 if trial.number in entering else self._since_improvement + 1
            if trial.number not in self._recorded:
                self._report(trial)

    def _enter(self, trials: Sequence[Trial], costs_nk: Costs) -> npt.NDArray[np.bool_]:
        """Let done trials join the fronts; which of them ``[n]`` enlarge what the front dominates."""
        for columns, front in self._device_fronts.items():
            front.add(trials, costs_nk[:, columns])
        return self._front.add(trials, costs_nk)

    def _outcomes(self, batch: Batch) -> Outcomes:
        costs_nk, excess_n = self._known_costs(batch), self._bounds.excess(batch.predicted)
        if self._columns is not None:
            states = [State.INFEASIBLE if reason else State.DONE for reason in batch.reasons]
            return Outcomes(states, costs_nk, excess_n, batch.is_repeated_n, [{}] * len(states))
        trials = [self._ended[self._position_of[key]] for key in batch.keys]
        states, scores = [trial.state for trial in trials], [trial.scores for trial in trials]
        return Outcomes(states, self._with_evaluated(costs_nk, trials), excess_n, batch.is_repeated_n, scores)

    def _known_costs(self, batch: Batch) -> Costs:
        return batch.costs_of(self._bounds, self._plan.objectives)

    def _with_evaluated(self, known_nk: Costs, trials: Sequence[Trial]) -> Costs:
        """Known costs of trials with what evaluations have told of those that are done."""
        lead = self._plan.objectives[0]
        if lead.is_evaluated:
            known_nk[:, 0] = [-t.objectives[lead.name] if t.state is State.DONE else np.nan for t in trials]
        return known_nk

    # -- telling -------------------------------------------------------------------------------------------------

    def _announce(self, budget: Budget) -> None:
        bounds = self._bounds
        self._progress(
            SearchStarted(
                run=self._run.path,
                space=bounds.space.name,
                target=bounds.target,
                limit_ms=bounds.limit_ms,
                objective=self._plan.objectives[0].name,
                evaluations=budget.evaluations,
                budget_seconds=budget.seconds,
                recorded=len(self._recorded),
            )
        )

    def _report(self, trial: Trial) -> None:
        infeasible = len(self.trials) - self._evaluated
        self._progress(TrialFinished(trial, self._evaluated, infeasible, len(self._front), self._clock.spent))

    def _does_not_fit(self, what: str) -> NasError:
        return RunError(
            f"`{self._run.path / 'trials.jsonl'}` does not fit this search: {what}",
            hint="resume with the versions in `environment.json`, or start a new run",
        )


def _device_fronts(objectives: tuple[Objective, ...]) -> dict[tuple[int, ...], RunningFront]:
    """The front of each device alone, by the columns of its costs; none where that is the front of all objectives."""
    fronts = {}
    for target in [objective.target for objective in objectives if objective.target is not None]:
        traded = trade_off(objectives, target)
        if traded != objectives:
            fronts[tuple(map(objectives.index, traded))] = RunningFront(traded)
    return fronts
