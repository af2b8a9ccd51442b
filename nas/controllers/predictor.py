"""Search led by a predictor: what was evaluated predicts the rest, and the most promising is evaluated next.

The loop is that of Bayesian optimisation (D. R. Jones, M. Schonlau and W. J. Welch, "Efficient global optimization of
expensive black-box functions", Journal of Global Optimization 13, 1998), with `nas.predictors.FewLabelPredictor` for
quality, by ranks or as it is, whichever predicts better; tables for what is known beforehand; and expected hypervolume
improvement to trade them. The first networks are large for what they cost, and a few others. Then, where quality is
evaluated and traded against known costs, the front is explored as `nas.controllers.local` does, its least explored
member first, but of a member's neighbours the most promising is taken: where predictions are poor, as in supernets that
are hardly trained, the search of the whole space runs after its errors, and neighbours of what is good are good at any
rate. Otherwise candidates come from sampling the space, and then from varying the front and the best candidates,
thousands at a time.

Quality is the negative first cost. Of several known costs each fit trades quality against one weighted sum, with
weights drawn anew (as J. Knowles does, "ParEGO", IEEE Transactions on Evolutionary Computation 10, 2006); without known
costs the rule is expected improvement. Where there is a limit, the best network within it is what ships, so every
second fit proposes for quality alone, and the first networks show as many values of choices as they can: a value that
is rare within a limit may be what matters most.

Legend of array suffixes: n genotypes, c choices, k objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from heapq import heapify, heappop, heapreplace

import numpy as np
import numpy.typing as npt

from nas.controllers.base import Outcomes
from nas.controllers.improvement import Front, best_batch
from nas.controllers.neighbours import Neighbourhoods
from nas.controllers.proposals import (
    covering,
    distinct,
    fresh_proposal,
    informed_population,
    mutate,
    row_keys,
    within_bound,
    without,
)
from nas.controllers.threads import on_one_thread
from nas.errors import UsageError
from nas.objectives.pareto import pareto_mask, pareto_ranks
from nas.objectives.problem import SearchProblem
from nas.predictors import FewLabelPredictor, SpaceEncoder
from nas.predictors.few_label import LEAST_LABELS
from nas.predictors.label_scale import IDENTITY, LabelScale
from search_spaces import Genotypes

Floats = npt.NDArray[np.float64]

LARGE, SPREAD = 4, 4
"""Networks tried before anything is predicted: such as are large for their costs, and others that show new values."""
PER_SUGGESTION = 2
"""Proposals of its own for each network that the problem suggests."""
BATCH_SHARE = 0.15
"""Proposals made from one fit, as a share of its labels: with more labels a fit costs more and ages less."""
FEW = 50
"""Up to so many labels each proposal has a fit of its own, and then their number grows with the square of labels."""
MOST_LABELS = 512
"""Learned from at once, which bounds what a proposal costs however long the search."""
SAMPLED = 4096
VARIED = 2048
ROUNDS = 3
"""Of varying candidates, after the first that samples the space."""
PARENTS = 64
SHORTLIST = 512
"""Candidates that a batch is chosen from."""
CORNER_MARGIN = 0.1
"""How far the corner that area is measured from lies beyond the results, as a share of their extent."""

_TINY = 1e-12

Predict = Callable[[Genotypes], tuple[Floats, Floats]]
"""Means and standard deviations of the scores of genotypes ``[n, c]``, ``[n]`` each."""


@dataclass(frozen=True)
class _Candidates:
    """Genotypes ``[n, c]`` with their known cost and predicted score, ``[n]`` each."""

    genotypes: Genotypes
    cost_n: Floats
    mean_n: Floats
    std_n: Floats

    def promise(self, front: Front) -> Floats:
        """What each is expected to add to the area under a front, ``[n]``."""
        return front.expected_improvement(self.cost_n, self.mean_n, self.std_n)

    def take(self, rows: npt.NDArray[np.int64]) -> _Candidates:
        """Those of some rows."""
        return _Candidates(self.genotypes[rows], self.cost_n[rows], self.mean_n[rows], self.std_n[rows])

    def best(self, front: Front, count: int) -> _Candidates:
        """The ``count`` that promise most, best first."""
        return self.take(np.argsort(-self.promise(front), kind="stable")[:count])


Judge = Callable[[Genotypes], _Candidates]
"""Adds to genotypes what is known and predicted of them."""


class PredictorController:
    """Proposes what is expected to enlarge the area under the front of quality and known costs most.

    Networks out of bounds are never proposed. The predictor is fitted anew when the proposals of the last fit
    are used up, so it depends on what was told and on nothing else. Where no fit is possible proposals are random. What
    the problem suggests comes in between, so that a short search is not spent on it.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._generator = np.random.default_rng(problem.seed)
        self._encode = SpaceEncoder(problem.space)
        self._neighbourhoods = Neighbourhoods(problem)
        suggested = problem.feasible[:0] if problem.suggested is None else problem.suggested
        self._since_suggestion = PER_SUGGESTION
        self._suggested: list[Genotypes] = list(within_bound(problem, suggested))
        self._is_limited = bool(np.isfinite(problem.excess(problem.feasible)).any())
        first = informed_population(problem, LARGE, 0 if self._is_limited else SPREAD, self._generator)
        self._queue: list[Genotypes] = list(first)
        if self._is_limited:
            self._queue += list(covering(problem, first, SPREAD, self._generator))
        self._is_turn_of_best = False
        self._seen: set[bytes] = set()
        self._done: list[Genotypes] = []
        self._costs_k: list[Floats] = []

    def ask(self, count: int) -> Genotypes:
        """The next genotypes ``[n, c]``, all from one fit; none when nothing new within the bounds turns up."""
        if not self._queue:
            labels = len(self._done)
            wanted = max(count, int(min(BATCH_SHARE * labels, (labels / FEW) ** 2)))
            with on_one_thread():
                self._queue = self._with_suggestions(list(self._proposals(wanted)))
        if not self._queue:
            proposal = fresh_proposal(self._problem, self._seen, self._evaluated, self._generator)
            self._queue = [] if proposal is None else [proposal]
        asked, self._queue = self._queue[:count], self._queue[count:]
        return np.array(asked, dtype=np.int8).reshape(-1, len(self._problem.space.choices))

    def tell(self, genotypes: Genotypes, outcomes: Outcomes) -> None:
        """Learn from the outcomes, where there are any and they are new."""
        is_new_n = outcomes.is_new_n
        self._seen.update(row_keys(genotypes))
        self._done += list(genotypes[is_new_n])
        self._costs_k += list(outcomes.costs_nk[is_new_n])

    def _with_suggestions(self, proposals: list[Genotypes]) -> list[Genotypes]:
        """Proposals, and one suggestion that is new for every `PER_SUGGESTION` of them so far."""
        self._since_suggestion += len(proposals)
        while self._suggested and self._since_suggestion >= PER_SUGGESTION:
            suggestion = self._suggested.pop(0)
            if suggestion.tobytes() not in self._seen | {proposal.tobytes() for proposal in proposals}:
                proposals.append(suggestion)
                self._since_suggestion -= PER_SUGGESTION
        return proposals

    @property
    def _evaluated(self) -> Genotypes:
        return np.array(self._done, dtype=np.int8).reshape(-1, len(self._problem.space.choices))

    def _proposals(self, count: int) -> Genotypes:
        """Up to ``count`` new genotypes ``[n, c]`` within the bound."""
        fitted = self._fitted()
        if fitted is None:
            return self._fresh(self._problem.space.sample(SAMPLED, self._generator))[:count]
        predict, scale = fitted
        costs_nk = np.array(self._costs_k)
        self._is_turn_of_best = self._is_limited and not self._is_turn_of_best
        cost_of = _no_cost if self._is_turn_of_best else self._known_cost(costs_nk)
        cost_n, quality_n = cost_of(costs_nk), -costs_nk[:, 0]
        front = Front.of(cost_n, quality_n, *_corner(cost_n, quality_n), scale)
        on_front = self._evaluated[pareto_mask(costs_nk)]
        judge = partial(self._judged, predict=predict, cost_of=cost_of)
        is_traded = len(self._problem.objectives) > 1 and not self._is_turn_of_best
        if self._problem.objectives[0].is_evaluated and is_traded:
            near = self._near(on_front, judge, front, count)
            if len(near):
                return near
        best = judge(self._fresh(self._problem.space.sample(SAMPLED, self._generator))).best(front, SHORTLIST)
        for _ in range(ROUNDS):
            varied = self._varied(np.concatenate([on_front, best.genotypes[:PARENTS]]))
            best = judge(self._fresh(np.concatenate([best.genotypes, varied]))).best(front, SHORTLIST)
        return best.genotypes[best_batch(front, best.cost_n, best.mean_n, best.std_n, count)]

    def _near(self, on_front: Genotypes, judge: Judge, front: Front, count: int) -> Genotypes:
        """Up to ``count`` new neighbours ``[n, c]`` of members of the front, the least explored members first."""
        around = self._neighbourhoods.of(on_front)
        left = [without(neighbours, self._seen) for neighbours in around]
        candidates = judge(np.concatenate(left))
        member_n = np.repeat(np.arange(len(left)), [len(some) for some in left])
        _, twin_n = np.unique(candidates.genotypes, axis=0, return_inverse=True)
        turns = [(len(each) - len(some), member) for member, (each, some) in enumerate(zip(around, left, strict=True))]
        heapify(turns)
        chosen: list[int] = []
        while turns and len(chosen) < count:
            explored, member = turns[0]
            rows = np.flatnonzero(member_n == member)
            if not len(rows):
                heappop(turns)
                continue
            best = int(rows[np.argmax(candidates.take(rows).promise(front))])
            chosen.append(best)
            member_n[twin_n == twin_n[best]] = -1
            quality = float(front.scale.labels(candidates.mean_n[best]))
            front = front.with_point(float(candidates.cost_n[best]), quality)
            heapreplace(turns, (explored + 1, member))
        return candidates.genotypes[chosen]

    def _known_cost(self, costs_nk: Floats) -> Callable[[Floats], Floats]:
        """Maps costs ``[n, k]`` to the one known cost ``[n]`` that this fit trades quality against."""
        known = costs_nk.shape[1] - 1
        if known == 0:
            return _no_cost
        if known == 1:
            return lambda costs_nk: costs_nk[:, 1]
        low_k = costs_nk[:, 1:].min(axis=0)
        span_k = np.maximum(np.ptp(costs_nk[:, 1:], axis=0), _TINY)
        weights_k = self._generator.dirichlet(np.ones(known))
        return lambda costs_nk: np.asarray((costs_nk[:, 1:] - low_k) / span_k @ weights_k)

    def _fitted(self) -> tuple[Predict, LabelScale] | None:
        """Predicts scores, and the scale that maps them to qualities; None where too little is known."""
        if not self._problem.objectives[0].is_evaluated:
            return None if not self._done else (self._look_up, IDENTITY)
        if len(self._done) < LEAST_LABELS:
            return None
        costs_nk = np.array(self._costs_k)
        lessons = self._lessons(costs_nk)
        try:
            fitted = FewLabelPredictor(by_rank=False).fit(self._encode(self._evaluated[lessons]), -costs_nk[lessons, 0])
        except (UsageError, np.linalg.LinAlgError):
            return None
        return lambda genotypes: fitted.predict_scores(self._encode(genotypes)), fitted.scale

    def _lessons(self, costs_nk: Floats) -> npt.NDArray[np.int64]:
        """What to learn from: everything, or half the best trade-offs and half of the others by chance."""
        if len(costs_nk) <= MOST_LABELS:
            return np.arange(len(costs_nk))
        best, others = np.split(np.argsort(pareto_ranks(costs_nk), kind="stable"), [MOST_LABELS // 2])
        drawn = self._generator.choice(others, MOST_LABELS - len(best), replace=False)
        return np.sort(np.concatenate([best, drawn]))

    def _look_up(self, genotypes: Genotypes) -> tuple[Floats, Floats]:
        quality_n = -self._problem.known_costs(genotypes)[:, 0]
        return quality_n, np.full(len(genotypes), _TINY)

    def _judged(self, genotypes: Genotypes, predict: Predict, cost_of: Callable[[Floats], Floats]) -> _Candidates:
        return _Candidates(genotypes, cost_of(self._problem.known_costs(genotypes)), *predict(genotypes))

    def _varied(self, parents: Genotypes) -> Genotypes:
        """Neighbours of ``parents`` ``[n, c]``, near and far, and children that mix two of them."""
        first, second = parents[self._generator.integers(len(parents), size=(2, VARIED // 2))]
        takes_first = self._generator.random(first.shape) < 0.5
        mixed = self._problem.space.repair(np.where(takes_first, first, second))
        near, far = (mutate(self._problem, parents, VARIED // 4, changes, self._generator) for changes in (1, 3))
        return np.concatenate([mixed, near, far])

    def _fresh(self, genotypes: Genotypes) -> Genotypes:
        return without(distinct(within_bound(self._problem, genotypes)), self._seen)


def _no_cost(costs_nk: Floats) -> Floats:
    return np.zeros(len(costs_nk))


def _corner(cost_n: Floats, quality_n: Floats) -> tuple[float, float]:
    """The quality and the cost that improvement is measured from: a little beyond the cheapest and the dearest."""
    cheapest_quality, best_quality = float(quality_n[np.argmin(cost_n)]), float(quality_n.max())
    worst = cheapest_quality - CORNER_MARGIN * (best_quality - cheapest_quality)
    extent = float(np.ptp(cost_n)) or 1.0
    return worst, float(cost_n.max() + CORNER_MARGIN * extent)
