"""Search near a limit: what one choice gives up another takes, led by what each choice is thought to cost.

The loss of a network is modelled as a sum over its choices, by Bayesian linear regression: every step of a choice to
its next smaller value adds something, whose prior is the measured loss of the whole network with that step alone, where
there are trained weights to measure it on. From the best networks so far a few steps up and down are drawn, those that
leave the bounds are dropped, and the most promising under one draw from the posterior is proposed (W. R. Thompson,
"On the likelihood that one unknown probability exceeds another", Biometrika 25, 1933). Additive losses of layers under
a measured latency are those of Shen et al., "Structural Pruning via Latency-Saliency Knapsack", NeurIPS 2022, arXiv
2210.06659; here they are learned while the search goes on, since far from the whole network they do not add up.

The loss is the mean cross-entropy where the evaluator reports it, which tells networks apart that are right on equally
many images, else the first cost.

Legend of array suffixes: n genotypes, c choices, s steps (of all choices in a row), f features (steps and a constant).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nas.controllers.base import Outcomes
from nas.controllers.proposals import distinct, fresh_proposals, informed_population, row_keys, within_bound, without
from nas.controllers.threads import on_one_thread
from nas.objectives.problem import Floats, SearchProblem
from search_spaces import Genotypes

LOSS = "cross_entropy"
STARTS, SUGGESTED = 6, 6
"""Networks to begin with: such as cost least if losses add up, and those that the weights suggest."""
PRICES = 64
"""Prices of a limit that the first are found at."""
PARENTS, DRAWN = 3, 512
"""Best networks that steps are taken from, and changed networks that are drawn."""
MOST_STEPS = 3
PRIOR_SHARE, NOISE_SHARE = 0.5, 0.5
"""Doubt about a step's loss, as a share of it beside a median step; what is left unexplained, as a share of that."""
FARTHER = 0.5
"""How much less a network explains that is worse than the best, as a share of that difference."""
_CONSTANT = 1e6
_TINY = 1e-9


class ExchangeController:
    """Proposes networks a few steps away from the best ones; never one out of bounds."""

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._generator = np.random.default_rng(problem.seed)
        self._seen: set[bytes] = set()
        self._done: list[Genotypes] = []
        self._losses: list[float] = []
        self._prior_s = _steps_of(problem)
        self._queue = self._starts()

    def ask(self, count: int) -> Genotypes:
        """The next genotypes ``[n, c]``; none when nothing new within the bounds turns up."""
        if not len(self._queue):
            with on_one_thread():
                self._queue = self._proposals(count) if self._done else self._queue
        if not len(self._queue):
            done = np.array(self._done, dtype=np.int8).reshape(-1, len(self._problem.space.choices))
            self._queue = fresh_proposals(self._problem, self._seen, done, self._generator, count)
        asked, self._queue = self._queue[:count], self._queue[count:]
        return asked

    def tell(self, genotypes: Genotypes, outcomes: Outcomes) -> None:
        """Learn from the outcomes, where there are any and they are new."""
        self._seen.update(row_keys(genotypes))
        for genotype, outcome, is_new in zip(genotypes, outcomes, outcomes.is_new_n, strict=True):
            if is_new:
                self._done.append(genotype)
                self._losses.append(outcome.scores.get(LOSS, outcome.costs[0]))

    def _starts(self) -> Genotypes:
        """Networks ``[n, c]`` within the bounds to begin with, those that use most of them first."""
        problem = self._problem
        suggested = problem.feasible[:0] if problem.suggested is None else within_bound(problem, problem.suggested)
        if problem.sensitivities is None:
            known = informed_population(problem, STARTS, STARTS, self._generator)
        else:
            known = within_bound(problem, self._priced(problem.sensitivities))
            known = known[np.argsort(-problem.overshoot(known), kind="stable")][:STARTS]
        found = distinct(np.concatenate([known, suggested[:SUGGESTED]]))
        return found if len(found) else problem.feasible

    def _priced(self, sensitivities: list[Floats]) -> Genotypes:
        """Networks ``[n, c]`` that cost least at each of many prices of what the limits ask for, if all adds up."""
        space = self._problem.space
        whole_c = space.encode([space.largest])[0]
        changed = [
            (column, value) for column, count in enumerate(space.cardinalities.tolist()) for value in range(count)
        ]
        rows: Genotypes = np.repeat(whole_c[None], len(changed), axis=0)
        for row, (column, value) in zip(rows, changed, strict=True):
            row[column] = value
        excess_n = self._problem.overshoot(np.concatenate([whole_c[None], space.repair(rows)]))
        saved_n = excess_n[0] - excess_n[1:] if np.isfinite(excess_n).all() else np.zeros(len(changed))
        saved = np.split(saved_n, np.cumsum(space.cardinalities)[:-1])
        lost = np.concatenate(sensitivities).sum() / max(np.concatenate(saved).sum(), _TINY)
        prices = lost * np.geomspace(1e-2, 1e2, PRICES)
        pairs = list(zip(sensitivities, saved, strict=True))
        chosen = [
            [len(loss) - 1 - int(np.argmin((loss - price * gain)[::-1])) for loss, gain in pairs] for price in prices
        ]
        return distinct(space.repair(np.array(chosen, dtype=np.int8)))

    def _proposals(self, count: int) -> Genotypes:
        """Up to ``count`` genotypes ``[n, c]`` that are new, each the best under a draw of its own."""
        order = np.argsort(self._losses, kind="stable")[:PARENTS]
        parents = np.array([self._done[number] for number in order], dtype=np.int8)
        candidates = distinct(without(within_bound(self._problem, self._stepped(parents)), self._seen))
        mean_f, factor_ff = self._posterior()
        features_nf = _features(self._problem, candidates)
        chosen: list[int] = []
        for _ in range(min(count, len(candidates))):
            drawn_f = mean_f + np.linalg.solve(factor_ff.T, self._generator.standard_normal(len(mean_f)))
            promise_n = features_nf @ drawn_f
            promise_n[chosen] = np.inf
            chosen.append(int(np.argmin(promise_n)))
        return candidates[chosen]

    def _stepped(self, parents: Genotypes) -> Genotypes:
        """Genotypes ``[n, c]`` one to three steps away from parents, each step one value up or down, or any label."""
        space, generator = self._problem.space, self._generator
        rows = parents[generator.integers(len(parents), size=DRAWN)].astype(np.int64)
        steps_n = generator.integers(1, MOST_STEPS + 1, size=DRAWN)
        has_labels_c = np.array([bool(choice.labels) for choice in space.choices])
        for step in range(MOST_STEPS):
            column_n = generator.integers(len(space.choices), size=DRAWN)
            value_n = rows[np.arange(DRAWN), column_n]
            stepped_n = np.where(
                has_labels_c[column_n],
                generator.integers(0, space.cardinalities[column_n]),
                value_n + generator.choice((-1, 1), size=DRAWN),
            )
            rows[np.arange(DRAWN), column_n] = np.where(step < steps_n, stepped_n, value_n)
        return space.repair(np.clip(rows, 0, space.cardinalities - 1).astype(np.int8))

    def _posterior(self) -> tuple[Floats, Floats]:
        """Mean ``[f]`` of what steps add, and the lower Cholesky factor ``[f, f]`` of its precision."""
        losses_n = np.array(self._losses)
        worse_n = losses_n - losses_n.min()
        prior_s = self._prior_s
        unit = max(float(np.median(prior_s)), float(np.median(worse_n)) / len(prior_s), _TINY)
        doubt_f = np.append(PRIOR_SHARE * prior_s + unit, _CONSTANT * unit)
        noise_n = NOISE_SHARE * unit + FARTHER * worse_n
        prior_f = np.append(prior_s, losses_n.min())
        features_nf = _features(self._problem, np.array(self._done, dtype=np.int8)) / noise_n[:, None]
        factor_ff = np.linalg.cholesky(np.diag(doubt_f**-2.0) + features_nf.T @ features_nf)
        unexplained_f = features_nf.T @ (losses_n / noise_n - features_nf @ prior_f)
        return prior_f + np.linalg.solve(factor_ff.T, np.linalg.solve(factor_ff, unexplained_f)), factor_ff


def _steps_of(problem: SearchProblem) -> Floats:
    """What each step to a smaller value adds to the loss before anything is known, ``[s]``."""
    if problem.sensitivities is None:
        return np.zeros(int((problem.space.cardinalities - 1).sum()))
    return np.concatenate(
        [
            loss[:-1] - loss[-1] if choice.labels else np.maximum(-np.diff(loss), 0)
            for choice, loss in zip(problem.space.choices, problem.sensitivities, strict=True)
        ]
    )


def _features(problem: SearchProblem, genotypes: Genotypes) -> npt.NDArray[np.float64]:
    """Which steps down from the largest value each genotype ``[n, c]`` takes, and a constant, ``[n, f]``.

    Of a choice with labels every label but the last is a step of its own.
    """
    columns = []
    for column, choice in enumerate(problem.space.choices):
        value_n1, steps = genotypes[:, [column]], np.arange(len(choice.values) - 1)[None]
        columns.append(value_n1 == steps if choice.labels else value_n1 <= steps)
    return np.concatenate([*columns, np.ones((len(genotypes), 1))], axis=1).astype(np.float64)
