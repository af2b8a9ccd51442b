"""The search itself: ask, predict, evaluate, record, tell; and the same again from the record when a run is resumed.

A controller is deterministic given its seed and what it was told. So a resumed run asks a fresh controller from the
start and answers from the record for as long as it lasts: nothing of the controller is ever stored, and a run that was
killed anywhere ends as it would have ended without that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nas.bound import LatencyBound
from nas.controllers import Controller, Outcome, SettlingController
from nas.errors import EvaluationError, NasError, RunError
from nas.evaluate import EvaluationResult, Evaluator
from nas.journal import Journal
from nas.objectives import pareto_mask
from nas.progress import Progress, SearchFinished, SearchStarted, TrialFinished
from nas.run import Run
from nas.trial import State, Trial
from search_spaces import Genotypes, population_cost

IDLE_LIMIT = 1000
"""So many proposals in a row without an evaluation, and the search ends: nothing new is left."""


@dataclass(frozen=True)
class Budget:
    """When a search ends: at whichever limit comes first.

    Attributes:
        evaluations: Networks to evaluate, earlier sessions included; proposals over the bound are free.
        seconds: Time to spend, earlier sessions' evaluations included.
    """

    evaluations: int | None
    seconds: float | None


class SearchLoop:
    """One search in one run folder.

    Args:
        run: Open run folder.
        bound: Space, target and limit.
        evaluator: Gives the objective.
        controller: Fresh controller; it is asked from the start even when the run is resumed.
        seed: Handed to the evaluator.
        progress: Receives `TrialFinished` events.
        stop: Asked before each evaluation; true ends the search as if its budget were spent.
    """

    def __init__(
        self,
        run: Run,
        bound: LatencyBound,
        evaluator: Evaluator,
        controller: Controller,
        seed: int,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> None:
        self._run = run
        self._bound = bound
        self._evaluator = evaluator
        self._controller = controller
        self._seed = seed
        self._progress = progress
        self._stop = stop
        self.trials: list[Trial] = []
        self._by_genotype: dict[bytes, Trial] = {}
        self._recorded: Sequence[Trial] = run.load_trials(bound.space) if run.is_resumed else []
        self._spent = sum(trial.seconds for trial in self._recorded)
        self._evaluated = 0
        self._front: list[Trial] = []

    def __call__(self, budget: Budget) -> str:
        """Search until the budget is spent; returns why it ended, as in `SearchFinished`.

        Raises:
            RunError: The record does not fit what the controller proposes.
            NasError: The disk is full.
        """
        run, bound = self._run, self._bound
        journal = Journal(
            run.path / "journal.log", bound.space, run.path.name, self._evaluator.name, bound.target, self._recorded
        )
        self._announce(budget)
        started, idle, reason = time.monotonic(), 0, ""
        while not reason:
            is_replayed = len(self.trials) < len(self._recorded)
            if not is_replayed:
                reason = self._end_reason(budget, time.monotonic() - started)
                if reason:
                    break
            genotype = self._controller.ask()
            if genotype is None or idle >= IDLE_LIMIT:
                reason = "exhausted"
                break
            known = self._by_genotype.get(genotype.tobytes())
            trial = known or self._next_trial(genotype)
            if known is None:
                self._remember(trial)
                if not is_replayed:
                    run.append_trial(trial)
                    journal.append(trial)
                    self._report(trial, time.monotonic() - started)
            idle = 0 if known is None and trial.state is not State.INFEASIBLE else idle + 1
            self._controller.tell(genotype, self._outcome(trial, is_repeated=known is not None))
        if len(self.trials) < len(self._recorded):
            raise self._does_not_fit(f"it ends after trial {len(self.trials) - 1}")
        self._progress(SearchFinished(run.path, self._evaluated, len(self._front), reason))
        return reason

    def settled(self) -> Trial | None:
        """What the controller settles on, evaluated now if it never was; None for controllers that only propose."""
        genotype = self._controller.settle() if isinstance(self._controller, SettlingController) else None
        if genotype is None:
            return None
        return self._by_genotype.get(genotype.tobytes()) or self._try(len(self.trials), genotype)

    @property
    def front(self) -> list[Trial]:
        """The evaluated trials that no other one dominates, by ascending latency."""
        return self._front

    @property
    def evaluated(self) -> int:
        """Networks evaluated so far, failed ones included."""
        return self._evaluated

    def _end_reason(self, budget: Budget, elapsed: float) -> str:
        if budget.evaluations is not None and self._evaluated >= budget.evaluations:
            return "evaluations"
        if budget.seconds is not None and self._evaluated and self._spent + elapsed >= budget.seconds:
            return "budget"
        return "interrupted" if self._stop() else ""

    def _next_trial(self, genotype: Genotypes) -> Trial:
        number = len(self.trials)
        if number >= len(self._recorded):
            return self._try(number, genotype)
        recorded = self._recorded[number]
        if recorded.genotype != tuple(genotype.tolist()):
            raise self._does_not_fit(f"trial {number} is {list(recorded.genotype)}, expected {genotype.tolist()}")
        return recorded

    def _try(self, number: int, genotype: Genotypes) -> Trial:
        space, row = self._bound.space, genotype[None]
        architecture = space.decode(row)[0]
        latency = self._bound.predict(row)[0]
        cost = population_cost(space, row)
        limit_ms = self._bound.limit_ms
        state, reason, result, seconds = State.DONE, "", EvaluationResult(math.nan, {}), 0.0
        if limit_ms is not None and not latency.high_ms <= limit_ms:
            state = State.INFEASIBLE
            reason = f"up to {latency.high_ms:.4g} ms on {self._bound.target}, limit {limit_ms:g} ms"
        else:
            started = time.monotonic()
            try:
                result = self._evaluator.evaluate(architecture, self._seed)
            except (EvaluationError, ArithmeticError) as error:
                state, reason = State.FAILED, f"{type(error).__name__}: {error}"
            seconds = time.monotonic() - started
            if state is State.DONE and not math.isfinite(result.objective):
                state, reason = State.FAILED, f"{self._evaluator.name} is {result.objective}, expected a finite number"
        return Trial(
            number=number,
            state=state,
            reason=reason,
            architecture=architecture,
            genotype=tuple(genotype.tolist()),
            params=int(cost.params[0]),
            macs=int(cost.macs[0]),
            latency={self._bound.target: latency},
            objectives={self._evaluator.name: result.objective} if state is State.DONE else {},
            scores=result.scores,
            seconds=seconds,
        )

    def _remember(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._by_genotype[trial.row.tobytes()] = trial
        self._evaluated += trial.state is not State.INFEASIBLE
        self._front = front_of([*self._front, trial], self._evaluator.name, self._bound.target)

    def _outcome(self, trial: Trial, is_repeated: bool) -> Outcome:
        latency, limit_ms = trial.latency[self._bound.target], self._bound.limit_ms
        return Outcome(
            state=trial.state,
            objective=trial.objectives.get(self._evaluator.name, math.nan),
            latency_ms=latency.ms,
            excess_ms=-math.inf if limit_ms is None else latency.high_ms - limit_ms,
            is_repeated=is_repeated,
            scores=trial.scores,
        )

    def _announce(self, budget: Budget) -> None:
        bound = self._bound
        self._progress(
            SearchStarted(
                run=self._run.path,
                space=bound.space.name,
                target=bound.target,
                limit_ms=bound.limit_ms,
                objective=self._evaluator.name,
                evaluations=budget.evaluations,
                budget_seconds=budget.seconds,
                recorded=len(self._recorded),
            )
        )

    def _report(self, trial: Trial, elapsed: float) -> None:
        infeasible = len(self.trials) - self._evaluated
        event = TrialFinished(trial, self._evaluated, infeasible, len(self._front), self._spent + elapsed)
        self._progress(event)

    def _does_not_fit(self, what: str) -> NasError:
        return RunError(
            f"`{self._run.path / 'trials.jsonl'}` does not fit this search: {what}",
            hint="resume with the versions in `environment.json`, or start a new run",
        )


def front_of(trials: Sequence[Trial], objective: str, target: str) -> list[Trial]:
    """The done trials with the best trade-offs between objective and predicted latency, by ascending latency."""
    done = [trial for trial in trials if trial.state is State.DONE]
    costs = [(trial.latency[target].ms, -trial.objectives[objective]) for trial in done]
    mask = pareto_mask(np.array(costs, dtype=np.float64).reshape(-1, 2))
    front = [trial for trial, is_on_front in zip(done, mask, strict=True) if is_on_front]
    return sorted(front, key=lambda trial: (trial.latency[target].ms, trial.number))
