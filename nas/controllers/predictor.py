"""Search led by a predictor: what was evaluated predicts the rest, and the most promising is evaluated next.

The loop is that of Bayesian optimisation (D. R. Jones, M. Schonlau and W. J. Welch, "Efficient global optimization of
expensive black-box functions", Journal of Global Optimization 13, 1998), with `nas.predictors.FewLabelPredictor` for
quality, the latency table for latency, and expected hypervolume improvement to trade them. Candidates come from
sampling the space, and then from varying the front and the best candidates, thousands at a time.

Legend of array suffixes: n genotypes, c choices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from nas.controllers.base import Outcome, SearchProblem
from nas.controllers.improvement import Front, best_batch
from nas.controllers.proposals import distinct, first_population, fresh_proposal, mutate, within_bound, without
from nas.errors import UsageError
from nas.objectives import pareto_mask
from nas.predictors import FewLabelPredictor, SpaceEncoder
from nas.predictors.few_label import LEAST_LABELS
from nas.trial import State
from search_spaces import Genotypes

Floats = npt.NDArray[np.float64]

INITIAL = 12
"""Networks tried before anything is predicted."""
BATCH_SHARE = 0.15
"""Proposals made from one fit, as a share of its labels: with more labels a fit costs more and ages less."""
SAMPLED = 4096
VARIED = 2048
ROUNDS = 3
"""Of varying candidates, after the first that samples the space."""
PARENTS = 64
SHORTLIST = 512
"""Candidates that a batch is chosen from."""
CORNER_MARGIN = 0.1
"""How far the corner that area is measured from lies beyond the results, as a share of their extent."""


@dataclass(frozen=True)
class _Candidates:
    """Genotypes ``[n, c]``, the most promising first, with their latency and predicted quality, ``[n]`` each."""

    genotypes: Genotypes
    latency_n: Floats
    mean_n: Floats
    std_n: Floats


class PredictorController:
    """Proposes what is expected to enlarge the area under the front of objective and latency most.

    Networks over the latency bound are never proposed. The predictor is fitted anew when the proposals of the last fit
    are used up, so it depends on what was told and on nothing else. Where no fit is possible proposals are random.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._generator = np.random.default_rng(problem.seed)
        self._encode = SpaceEncoder(problem.space)
        self._queue: list[Genotypes] = list(first_population(problem, INITIAL, self._generator))
        self._seen: set[bytes] = set()
        self._done: list[Genotypes] = []
        self._results: list[tuple[float, float]] = []

    def ask(self) -> Genotypes | None:
        """The next genotype ``[c]``; None when nothing new within the bound turns up."""
        if not self._queue:
            count = max(1, int(BATCH_SHARE * len(self._done)))
            # The last bits of matrix products change with the number of threads, and a resumed search must not.
            with threadpool_limits(limits=1, user_api="blas"):
                self._queue = list(self._proposals(count))
        if self._queue:
            return self._queue.pop(0)
        return fresh_proposal(self._problem, self._seen, self._evaluated, self._generator)

    def tell(self, genotype: Genotypes, outcome: Outcome) -> None:
        """Learn from the outcome, where there is one and it is new."""
        is_new = genotype.tobytes() not in self._seen
        self._seen.add(genotype.tobytes())
        if is_new and outcome.state is State.DONE:
            self._done.append(genotype)
            self._results.append((outcome.latency_ms, outcome.objective))

    @property
    def _evaluated(self) -> Genotypes:
        return np.array(self._done, dtype=np.int8).reshape(-1, len(self._problem.space.choices))

    def _proposals(self, count: int) -> Genotypes:
        """Up to ``count`` new genotypes ``[n, c]`` within the bound."""
        sampled = self._fresh(self._problem.space.sample(SAMPLED, self._generator))
        predictor = self._fitted()
        if predictor is None:
            return sampled[:count]
        latency_n, quality_n = np.array(self._results).T
        front = Front.of(latency_n, quality_n, *_corner(latency_n, quality_n))
        on_front = self._evaluated[pareto_mask(np.stack([latency_n, -quality_n], axis=1))]
        best = self._shortlist(sampled, front, predictor)
        for _ in range(ROUNDS):
            varied = self._varied(np.concatenate([on_front, best.genotypes[:PARENTS]]))
            best = self._shortlist(self._fresh(np.concatenate([best.genotypes, varied])), front, predictor)
        return best.genotypes[best_batch(front, best.latency_n, best.mean_n, best.std_n, count)]

    def _fitted(self) -> FewLabelPredictor | None:
        """A predictor of what was evaluated; None where that is too little or too much alike."""
        if len(self._done) < LEAST_LABELS:
            return None
        try:
            return FewLabelPredictor().fit(self._encode(self._evaluated), [quality for _, quality in self._results])
        except (UsageError, np.linalg.LinAlgError):
            return None

    def _shortlist(self, genotypes: Genotypes, front: Front, predictor: FewLabelPredictor) -> _Candidates:
        prediction = predictor.predict(self._encode(genotypes))
        latency_n = self._problem.latency_ms(genotypes)
        gain_n = front.expected_improvement(latency_n, prediction.mean_n, prediction.std_n)
        rows = np.argsort(-gain_n, kind="stable")[:SHORTLIST]
        return _Candidates(genotypes[rows], latency_n[rows], prediction.mean_n[rows], prediction.std_n[rows])

    def _varied(self, parents: Genotypes) -> Genotypes:
        """Neighbours of ``parents`` ``[n, c]``, near and far, and children that mix two of them."""
        first, second = parents[self._generator.integers(len(parents), size=(2, VARIED // 2))]
        takes_first = self._generator.random(first.shape) < 0.5
        mixed = self._problem.space.repair(np.where(takes_first, first, second))
        near, far = (mutate(self._problem, parents, VARIED // 4, changes, self._generator) for changes in (1, 3))
        return np.concatenate([mixed, near, far])

    def _fresh(self, genotypes: Genotypes) -> Genotypes:
        return without(distinct(within_bound(self._problem, genotypes)), self._seen)


def _corner(latency_n: Floats, quality_n: Floats) -> tuple[float, float]:
    """The quality and the latency that improvement is measured from: a little beyond the fastest and the slowest."""
    fastest_quality, best_quality = float(quality_n[np.argmin(latency_n)]), float(quality_n.max())
    worst = fastest_quality - CORNER_MARGIN * (best_quality - fastest_quality)
    return worst, float(latency_n.max() + CORNER_MARGIN * np.ptp(latency_n))
