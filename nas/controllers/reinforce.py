"""REINFORCE over one independent categorical per choice, as As-ViT searches its seed topology.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921. The reward is
not a metric but its change since the network before, divided by the metric's range over the last 20 networks; with
several metrics (As-ViT's tangent kernel and length distortion) their rewards are added. The baseline is a moving
average of rewards, updated before it is used. What the policy settles on, its most probable network, is the answer.

Deviations: a network without metrics (failed, or over a latency bound, which the paper does not have) counts as the
worst of those in the window, in place of the reference's -1, which would be the best; a network that is proposed again
has the metrics it had, while the reference draws new weights for it; where the space's rules change a proposal, the
policy learns as if its own draw had been tried.

Legend: c choices, v values of one choice.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.controllers.base import Outcome, Outcomes
from nas.objectives.problem import SearchProblem
from nas.objectives.ranks import dense_ranks
from nas.records.trial import State
from search_spaces import Genotypes

LEARNING_RATE = 0.08
INITIAL_SCALE = 1e-3
WINDOW = 20
MOMENTUM = 0.9
SMALLEST_RANGE = 1e-6
METRIC_SIGNS: Mapping[str, int] = {"ntk_condition": -1, "length_distortion": 1}
"""As-ViT's metrics, as far as an outcome reports all of them; the objective otherwise."""

Logits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReinforceOptions:
    """How the controller differs from the published one.

    Attributes:
        rewards_value: Reward where a metric lies in its window's range (-1 to 1), in place of its change since the
            network before: the same network then gets the same reward, whichever came before it.
        settles_on_best: Settle on the best network that was tried, by the sum of ranks of its metrics, in place of the
            policy's most probable one, which may never have been tried.
    """

    rewards_value: bool = False
    settles_on_best: bool = False


class ReinforceController:
    """Proposes samples of a policy that moves towards what made the metrics better.

    It ends after as many proposals as the budget has evaluations; repetitions and failures are steps as well.
    """

    def __init__(self, problem: SearchProblem, options: ReinforceOptions | None = None) -> None:
        self._problem = problem
        self._options = options or ReinforceOptions()
        self._generator = np.random.default_rng(problem.seed)
        sizes = problem.space.cardinalities.tolist()
        self._policy = CategoricalPolicy([INITIAL_SCALE * self._generator.standard_normal(size) for size in sizes])
        self._baseline = Baseline()
        self._metrics: dict[str, MetricWindow] = {}
        self._drawn: list[list[int]] = []
        self._steps = 0
        self._tried: list[tuple[Genotypes, Mapping[str, float]]] = []

    def ask(self, count: int) -> Genotypes:
        """The next genotypes ``[n, c]``, all drawn from the same policy; none after as many as the budget has."""
        if self._problem.evaluations is not None:
            count = min(count, self._problem.evaluations - self._steps)
        self._steps += count
        self._drawn = [self._policy.sample(self._generator) for _ in range(count)]
        drawn = np.array(self._drawn, dtype=np.int8).reshape(-1, len(self._problem.space.choices))
        return self._problem.space.repair(drawn)

    def tell(self, genotypes: Genotypes, outcomes: Outcomes) -> None:
        """Move the policy by one step for each outcome."""
        for drawn, genotype, outcome in zip(self._drawn, genotypes, outcomes, strict=False):
            metrics = signed_metrics(outcome)
            if metrics:
                self._tried.append((genotype, metrics))
            reward = self._reward(metrics)
            advantage = reward - self._baseline.update(reward)
            self._policy.step(drawn, advantage)

    def settle(self) -> Genotypes | None:
        """The genotype ``[c]`` that the search has led to; None before the first result."""
        if not self._tried:
            return None
        if not self._options.settles_on_best:
            return self._repaired(self._policy.most_probable())
        columns = [[metrics.get(name, math.nan) for _, metrics in self._tried] for name in self._metrics]
        ranks_n = sum(dense_ranks(column, larger_is_better=True) for column in columns)
        return self._tried[int(np.argmin(ranks_n))][0]

    def _reward(self, metrics: Mapping[str, float]) -> float:
        for name in metrics:
            self._metrics.setdefault(name, MetricWindow())
        return sum(window.reward(metrics.get(name), self._options) for name, window in self._metrics.items())

    def _repaired(self, indices: Sequence[int]) -> Genotypes:
        genotype: Genotypes = self._problem.space.repair(np.array([indices], dtype=np.int8))[0]
        return genotype


def value_reinforce(problem: SearchProblem) -> ReinforceController:
    """REINFORCE with rewards for where metrics lie, which settles on the best network that it tried."""
    return ReinforceController(problem, ReinforceOptions(rewards_value=True, settles_on_best=True))


def signed_metrics(outcome: Outcome) -> dict[str, float]:
    """The metrics of an outcome, larger is better; empty where it has none."""
    if outcome.state is not State.DONE:
        return {}
    if all(name in outcome.scores for name in METRIC_SIGNS):
        return {name: sign * outcome.scores[name] for name, sign in METRIC_SIGNS.items()}
    return {"objective": -outcome.costs[0]}


class MetricWindow:
    """The last values of one metric, larger is better, and the reward for the newest."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=WINDOW)

    def reward(self, value: float | None, options: ReinforceOptions) -> float:
        """The reward for ``value``; without one, that of the worst in the window."""
        if value is None or not math.isfinite(value):
            value = min(self._values, default=0.0)
        previous = self._values[-1] if self._values else value
        self._values.append(value)
        low, high = min(self._values), max(self._values)
        if options.rewards_value:
            return (2 * value - low - high) / (high - low + SMALLEST_RANGE)
        return (value - previous) / (high - low + SMALLEST_RANGE)


class Baseline:
    """A moving average without bias towards its start."""

    def __init__(self) -> None:
        self._sum, self._weight = 0.0, 0.0

    def update(self, reward: float) -> float:
        """Take in a reward; the average with it."""
        self._sum = MOMENTUM * self._sum + (1 - MOMENTUM) * reward
        self._weight = MOMENTUM * self._weight + (1 - MOMENTUM)
        return self._sum / self._weight


class CategoricalPolicy:
    """One categorical per choice, its logits moved by Adam. Logits of all choices stand one behind the other.

    Args:
        logits_v: The first logits of each choice.
    """

    def __init__(self, logits_v: Sequence[Logits]) -> None:
        self._starts = np.cumsum([0, *(len(logits) for logits in logits_v)])
        self._logits = np.concatenate(logits_v)
        self._mean, self._square = np.zeros_like(self._logits), np.zeros_like(self._logits)
        self._steps = 0

    def probabilities(self) -> list[Logits]:
        """The distribution of each choice, ``[v]`` each."""
        return [_softmax(logits_v) for logits_v in np.split(self._logits, self._starts[1:-1])]

    def sample(self, generator: np.random.Generator) -> list[int]:
        """One index per choice."""
        return [int(generator.choice(len(p_v), p=p_v)) for p_v in self.probabilities()]

    def most_probable(self) -> list[int]:
        """The most probable index of each choice."""
        return [int(np.argmax(p_v)) for p_v in self.probabilities()]

    def step(self, indices: Sequence[int], advantage: float) -> None:
        """One step of Adam down the gradient of ``-advantage * log p(indices)``."""
        gradient = np.concatenate(self.probabilities())
        gradient[self._starts[:-1] + np.array(indices)] -= 1
        gradient *= advantage
        self._steps += 1
        self._mean = 0.9 * self._mean + 0.1 * gradient
        self._square = 0.999 * self._square + 0.001 * gradient**2
        mean = self._mean / (1 - 0.9**self._steps)
        square = self._square / (1 - 0.999**self._steps)
        self._logits = self._logits - LEARNING_RATE * mean / (np.sqrt(square) + 1e-8)


def _softmax(logits_v: Logits) -> Logits:
    weights_v: Logits = np.exp(logits_v - logits_v.max())
    total = float(weights_v.sum())
    return np.asarray(weights_v / total, dtype=np.float64)
