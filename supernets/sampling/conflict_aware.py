"""Complexity-aware sampling that comes back to networks that did well and prefers wide ones to deep ones."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import numpy as np

from search_spaces import Architecture, SearchSpace
from supernets.sampling.complexity_aware import DRAWN, ComplexityAwareSampler, with_smallest
from supernets.sampling.level_tables import Progress
from supernets.sampling.levels import levels_of
from supernets.sampling.memory_bank import MemoryBank
from supernets.sampling.policy import Assignment, SamplingPolicy, step_generator
from supernets.sampling.preference import preference

CANDIDATES = 5
CAPACITIES = (150, 50)
"""Capacities of the banks of the lower and of the upper half of the levels."""
FIRST_SHARE, SHARE_RISE = 0.2, 0.15
PUBLISHED_EPOCHS, RISE_EPOCHS = 600, 100
LEAST_PERIOD = 1000
"""Steps between two times that all banks are scored again; with full banks that is a tenth of the training's cost."""


def exploit_share(progress: float) -> float:
    """The probability to come back to a known network, when the share ``progress`` of the training is done.

    As published it is 0.2 at first and rises by 0.15 when epoch 99 of 600 begins, counted from 0, and every 100 epochs
    after that: in the last epoch it is more than 1.
    """
    # The share that a training has done when an epoch begins may lie a rounding below the epoch's.
    epoch = int(PUBLISHED_EPOCHS * progress + 1e-6)
    return FIRST_SHARE + SHARE_RISE * ((epoch + 1) // RISE_EPOCHS)


class ConflictAwarePolicy(SamplingPolicy):
    """Three networks of the step's complexity level, known good ones or preferred ones, then the level's smallest.

    Each level owns a bank of networks and scores: minus the cross-entropy on the labels of a step's images as they were
    before they were mixed. For each of three slots, when the bank is more than half full, a network is drawn from it
    with probability `exploit_share`, in proportion to ``exp(score)``; otherwise the one of five drawn networks that
    `preference` likes best is taken, with the best of the lowest level's bank as anchor. While the bank is not half
    full, one drawn network is taken. Networks that were drawn are offered to the bank with their scores. All banks are
    scored again in the first step of an epoch, and the bank of the step's level after each quarter of it. Levels,
    smallest networks and targets are those of `ComplexityAwarePolicy`.

    Source: Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse
    Mobile Devices", ICCV 2023, arXiv 2303.09730. Deviations beside those of `ComplexityAwarePolicy`:

    - The exploited share rises with the share of the training done, because trainings here are not 600 epochs long.
    - Epochs of fewer than 1,000 steps are taken together until they have as many, since scoring 800 networks again
      would cost more than the epoch of a small data set; in the first epoch, whose length is not known yet, no score is
      taken again.
    - A network that is trained on images that are not mixed needs no further forward pass for its score: that one would
      see the same weights and images, and repeat its outputs.
    - Networks are scored again after the step's training, not before it.
    - Nothing is dropped: the reference drops networks of more MACs than their level has, and none of these gets in.
    """

    def begin(self, space: SearchSpace, seed: int, batch_size: int | None = None) -> ConflictAwareSampler:
        """A sampler with empty banks."""
        return ConflictAwareSampler(space, seed)

    def prepare(self, space: SearchSpace, progress: Progress | None = None) -> None:
        """Make the tables of the space's levels, see `Levels.prepare`."""
        levels_of(space).prepare(progress)


class ConflictAwareSampler(ComplexityAwareSampler):
    """`ConflictAwarePolicy` in one training.

    Args:
        space: The search space.
        seed: Seed of all that is drawn.
    """

    learns = True

    def __init__(self, space: SearchSpace, seed: int) -> None:
        super().__init__(space, seed)
        half = len(self.levels) / 2
        self.banks = [MemoryBank(CAPACITIES[number >= half]) for number in range(len(self.levels))]
        self.steps_per_epoch: int | None = None
        self._begins_epoch = False
        self._level = 0
        self._explored: dict[Architecture, None] = {}
        """Those of the step whose scores are not known yet, in order."""
        self._due: tuple[MemoryBank, ...] = ()

    def before_epoch(self, epoch: int, epochs: float, supernet: object, moments: object, average: object) -> None:
        """Move once more; the next step tells how long epochs are."""
        super().before_epoch(epoch, epochs, supernet, moments, average)
        self._begins_epoch = epoch > 0

    def assign(self, step: int, progress: float) -> tuple[Assignment, ...]:
        """The three networks of the step's level on labels, then the smallest on the mean of their outputs."""
        if self._begins_epoch:
            self.steps_per_epoch, self._begins_epoch = step // self.epoch, False
        level, generator = self.level_of(step), step_generator(self.seed, step)
        bank = self.banks[level]
        exploits = generator.random(DRAWN) < exploit_share(progress)
        exploited: list[Architecture] = []
        if bank.is_half_full:
            exploited = [bank.draw(generator) for _ in range(np.count_nonzero(exploits))]
            explored = self._preferred(level, DRAWN - len(exploited), generator)
        else:
            explored = self.levels.draw(level, DRAWN, generator)
        self._level, self._explored, self._due = level, dict.fromkeys(explored), self._due_banks(step, bank)
        return with_smallest(exploited + explored, self.levels[level])

    def observe(self, architecture: Architecture, score: float) -> None:
        """Offer a network that the step explored to the bank of its level; renew the score of one that was stale."""
        if architecture in self._explored:
            del self._explored[architecture]
            self.banks[self._level].add(architecture, score)
        for bank in self._due:
            if architecture in bank:
                bank.add(architecture, score)

    def stale(self) -> tuple[Architecture, ...]:
        """Networks that the step explored and nobody scored yet, then those of the banks that are due."""
        known = (network for bank in self._due for network, _ in bank.entries)
        return tuple({**self._explored, **dict.fromkeys(known)})

    def state(self) -> dict[str, Any]:
        """The banks, as choice indices and scores, and the number and length of the epoch."""
        banks = [self._bank_state(bank) for bank in self.banks]
        return {**super().state(), "banks": banks, "steps_per_epoch": self.steps_per_epoch}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Remember what `state` gave."""
        super().load_state(state)
        self.steps_per_epoch = state.get("steps_per_epoch")
        for bank, saved in zip(self.banks, state["banks"], strict=True):
            genotypes = np.array(saved["genotypes"], dtype=np.int8).reshape(-1, len(self.space.choices))
            bank.restore(list(zip(self.space.decode(genotypes), saved["scores"], strict=True)))

    def _due_banks(self, step: int, bank: MemoryBank) -> tuple[MemoryBank, ...]:
        """The banks to score again in a step: all of them in the first of a period, its own after each quarter."""
        if self.steps_per_epoch is None:
            return ()
        period = self.steps_per_epoch * ceil(LEAST_PERIOD / self.steps_per_epoch)
        quarters = [quarter * period // 4 for quarter in range(4)]
        if step % period not in quarters:
            return ()
        return (bank,) if step % period else tuple(self.banks)

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
