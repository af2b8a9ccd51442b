"""Complexity-aware sampling that comes back to networks that did well and prefers wide ones to deep ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from search_spaces import Architecture, SearchSpace
from supernets.sampling.complexity_aware import DRAWN, LEVEL_PACE_STEPS, walk, with_smallest
from supernets.sampling.levels import levels_of
from supernets.sampling.memory_bank import MemoryBank
from supernets.sampling.policy import Assignment, step_generator
from supernets.sampling.preference import preference

CANDIDATES = 5
CAPACITIES = (150, 50)
"""Of the banks of the lower and the upper half of the levels."""
FIRST_SHARE, SHARE_RISE, RISES = 0.2, 0.15, 6


def exploit_share(progress: float) -> float:
    """The probability to come back to a known network, when the share ``progress`` of the training is done.

    As published it is 0.2 at first and rises by 0.15 after every sixth of the training (100 of 600 epochs).
    """
    return FIRST_SHARE + SHARE_RISE * min(int(RISES * progress), RISES - 1)


class ConflictAwarePolicy:
    """Three networks of the step's complexity level, known good ones or preferred ones, then the level's smallest.

    Each level owns a bank of networks and scores: minus the cross-entropy on the labels of a step's images. For each of
    three slots, when the bank is more than half full, a network is drawn from it with probability `exploit_share`, in
    proportion to ``exp(score)``; otherwise the one of five drawn networks that `preference` likes best is taken, with
    the best of the lowest level's bank as anchor. While the bank is not half full, one drawn network is taken. Levels,
    smallest networks and targets are those of `ComplexityAwarePolicy`.

    Source: Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse
    Mobile Devices", ICCV 2023, arXiv 2303.09730. Deviations beside those of `ComplexityAwarePolicy`: the exploited
    share rises with the share of the training done, because trainings here are not 600 epochs long. A network's score
    is read off the forward pass that trains it, which sees the same weights and images, and an exploited one's is kept
    too. Old scores are taken again one per step, the oldest of the step's level, where the reference takes all
    of them again at the start of every epoch and the current bank's at its quarters: on ImageNet that is about as many
    forward passes, while an epoch of a small data set has fewer steps than the banks have networks.
    """

    def begin(self, space: SearchSpace, seed: int) -> ConflictAwareSampler:
        """A sampler with empty banks."""
        return ConflictAwareSampler(space, seed)


@dataclass(frozen=True)
class _Step:
    level: int
    networks: frozenset[Architecture]


class ConflictAwareSampler:
    """`ConflictAwarePolicy` in one training.

    Args:
        space: The search space.
        seed: Of all that is drawn.
    """

    learns = True
    pace_steps = LEVEL_PACE_STEPS

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space, self.seed = space, seed
        self.levels = levels_of(space)
        half = len(self.levels) / 2
        self.banks = [MemoryBank(CAPACITIES[number >= half]) for number in range(len(self.levels))]
        self._step = _Step(0, frozenset())

    def assign(self, step: int, progress: float) -> tuple[Assignment, ...]:
        """The three networks of the step's level on labels, then the smallest on the mean of their outputs."""
        level, generator = walk(self.seed, step, len(self.levels)), step_generator(self.seed, step)
        bank = self.banks[level]
        exploits = generator.random(DRAWN) < exploit_share(progress)
        networks: list[Architecture] = []
        if bank.is_half_full:
            networks += [bank.draw(generator) for _ in range(np.count_nonzero(exploits))]
            networks += self._preferred(level, DRAWN - len(networks), generator)
        else:
            networks += self.levels.draw(level, DRAWN, generator)
        self._step = _Step(level, frozenset(networks))
        return with_smallest(networks, self.levels[level].smallest)

    def observe(self, architecture: Architecture, score: float) -> None:
        """Offer a network of the step, or a re-scored one of its bank, to the bank of the step's level."""
        bank = self.banks[self._step.level]
        if architecture in self._step.networks or architecture in bank:
            bank.add(architecture, score)

    def stale(self) -> tuple[Architecture, ...]:
        """The network of the step's bank whose score was taken longest ago, unless the step trained it."""
        stalest = self.banks[self._step.level].stalest
        return () if stalest is None or stalest in self._step.networks else (stalest,)

    def state(self) -> dict[str, Any]:
        """The banks, as choice indices and scores from the oldest score to the latest."""
        return {"banks": [self._bank_state(bank) for bank in self.banks]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Fill the banks with what `state` gave."""
        for bank, saved in zip(self.banks, state["banks"], strict=True):
            genotypes = np.array(saved["genotypes"], dtype=np.int8).reshape(-1, len(self.space.choices))
            bank.restore(list(zip(self.space.decode(genotypes), saved["scores"], strict=True)))

    def _preferred(self, level: int, count: int, generator: np.random.Generator) -> list[Architecture]:
        if count == 0:
            return []
        candidates = self.levels.draw(level, count * CANDIDATES, generator)
        best = self.banks[0].best if level > 0 else None
        values = preference(self.space, candidates, best or self.space.smallest).reshape(count, CANDIDATES)
        return [candidates[slot * CANDIDATES + int(choice)] for slot, choice in enumerate(values.argmin(axis=1))]

    def _bank_state(self, bank: MemoryBank) -> dict[str, Any]:
        networks = [network for network, _ in bank.entries]
        return {
            "genotypes": self.space.encode(networks).tolist(),
            "scores": [score for _, score in bank.entries],
        }
