"""Which of a finish's weights are averaged: those it began with, its checkpoints, and those of other runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.finishing.source import Inherited, take_over

if TYPE_CHECKING:
    from supernets.supernet import Supernet
    from supernets.training.soup import Ingredient, Soup, Weights

Judge = Callable[[str | None], float]
"""Says how good the network is with the weights that it has, by the name of a stage, for which it is kept, or None."""


@dataclass(frozen=True)
class Ingredients:
    """What may be averaged.

    Attributes:
        start: Weights that the finish began with.
        checkpoints: Good checkpoints of its training.
        others: Weights of other runs, by run.
    """

    start: Sequence[Ingredient]
    checkpoints: Sequence[Ingredient]
    others: Mapping[str, Inherited]


def average(network: Supernet, ingredients: Ingredients, checkpoint: Path, judge: Judge) -> Soup:
    """Average good weights of a network alone, which then has the last ones that were judged.

    Args:
        network: The network.
        ingredients: What may be averaged, beside the end of the training.
        checkpoint: Where the training ended.
        judge: How good the network is.
    """
    from supernets.checkpoint import read_checkpoint
    from supernets.training.soup import Ingredient, greedy_soup

    found = [*ingredients.start, *ingredients.checkpoints, *_others(network, ingredients.others, judge)]

    def judge_weights(weights: Weights, stage: str | None = None) -> float:
        network.load_state_dict(weights)
        return judge(stage)

    last = read_checkpoint(checkpoint)
    judge_weights(last.averages or last.weights, "trained")
    if last.averages or len(found) == len(ingredients.start):
        found.append(Ingredient("last step", judge_weights(last.weights), lambda: last.weights))
    soup = greedy_soup(found, judge_weights)
    return replace(soup, accuracy=judge_weights(soup.weights, "averaged"))


def _others(network: Supernet, others: Mapping[str, Inherited], judge: Judge) -> Iterator[Ingredient]:
    from supernets.training.soup import Ingredient

    for run, inherited in others.items():
        take_over(inherited, network)
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        yield Ingredient(f"run {run}", judge(None), lambda weights=weights: weights)  # type: ignore[misc]
