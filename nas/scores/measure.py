"""Scores of a network by name: several at once share weights and passes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nas.errors import EvaluationError, UsageError
from nas.scores.base import ScoreResult
from nas.scores.registry import get_score
from nas.scores.subject import ScoreSubject
from nas.scores.untrained import MINIMUM_IMAGES, UntrainedNetwork

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_REPEATS = 3
DEFAULT_BATCH_SIZE = 16


def evaluate_scores(
    subject: ScoreSubject,
    names: Iterable[str],
    *,
    seed: int = 0,
    repeats: int = DEFAULT_REPEATS,
    batch_size: int = DEFAULT_BATCH_SIZE,
    images: Tensor | None = None,
) -> dict[str, ScoreResult]:
    """Several scores of one network, which share what they can: weights, forward and backward passes.

    Args:
        subject: The network; it is built anew for every repeat, and what is built is not changed.
        names: Names of registered scores.
        seed: Repeat ``r`` draws weights, images and labels with ``seed + r``. The global random state is left as it
            was.
        repeats: Initialisations to average over.
        batch_size: Images per repeat: Gaussian noise.
        images: ``(B, 3, H, W)``, taken instead of noise in every repeat.

    Returns:
        One result per name, in their order. A score that cannot handle the network has a ``failure`` and no value;
        the others are given all the same.

    Raises:
        UnknownNameError: A score is not registered.
        UsageError: A number is out of range, or the images do not fit the network.
    """
    scores = [get_score(name) for name in names]
    if repeats < 1:
        raise UsageError(f"`repeats` is {repeats}, expected 1 or more")
    _check_images(subject, batch_size, images)
    outcomes: dict[str, list[tuple[float, float]]] = {score.name: [] for score in scores}
    failures: dict[str, str] = {}
    for repeat in range(repeats):
        network = UntrainedNetwork(subject, seed + repeat, batch_size, images)
        for score in scores:
            if score.name in failures or (score.is_free and repeat):
                continue
            value, seconds, failure = network.measure(score.function)
            outcomes[score.name].append((value, seconds))
            if failure:
                failures[score.name] = failure
    return {score.name: _summary(score.name, outcomes[score.name], failures.get(score.name, "")) for score in scores}


def evaluate_score(subject: ScoreSubject, name: str, *, seed: int, repeats: int = DEFAULT_REPEATS) -> float:
    """One score of one network.

    Raises:
        EvaluationError: The score cannot handle the network.
        UnknownNameError: The score is not registered.
    """
    result = evaluate_scores(subject, [name], seed=seed, repeats=repeats)[name]
    if result.failure:
        raise EvaluationError(f"score `{name}` of `{subject.name}`: {result.failure}")
    return result.value


def _summary(name: str, outcomes: Sequence[tuple[float, float]], failure: str) -> ScoreResult:
    values = tuple(value for value, _ in outcomes)
    seconds = sum(seconds for _, seconds in outcomes)
    return ScoreResult(name, math.nan if failure else statistics.fmean(values), values, seconds, failure)


def _check_images(subject: ScoreSubject, batch_size: int, images: Tensor | None) -> None:
    if images is not None and tuple(images.shape[1:]) != tuple(subject.input_shape):
        raise UsageError(
            f"network `{subject.name}`: found images of shape {tuple(images.shape[1:])}, expected {subject.input_shape}"
        )
    count = batch_size if images is None else len(images)
    if count < MINIMUM_IMAGES:
        raise UsageError(
            f"found {count} images, expected at least {MINIMUM_IMAGES}: gradients of two halves are compared"
        )
