"""Scores by name; one file each beside this one, and whatever others register."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nas.scores import size
from search_spaces import Architecture, SearchSpace, UnknownNameError

DEFAULT_SCORE = "capacity"


@dataclass(frozen=True)
class Score:
    """A number from an untrained network; higher is better.

    Attributes:
        name: What users type, for example ``length-distortion``.
        function: Gives the score of an architecture of a space; the same seed gives the same number.
        is_free: Whether it takes no more time than looking up a table.
    """

    name: str
    function: Callable[[SearchSpace, Architecture, int], float]
    is_free: bool = False

    @property
    def key(self) -> str:
        """The name under which results are recorded, for example ``length_distortion``."""
        return self.name.replace("-", "_")


def _length_distortion(space: SearchSpace, architecture: Architecture, seed: int) -> float:
    # Imported here: the scores that need no network must not wait for torch.
    from nas.scores.length_distortion import score_architecture

    return score_architecture(space, architecture, seed)


_scores: dict[str, Score] = {
    score.name: score
    for score in (
        Score("capacity", size.capacity, is_free=True),
        Score("params", size.params, is_free=True),
        Score("macs", size.macs, is_free=True),
        Score("length-distortion", _length_distortion),
    )
}


def register_score(score: Score) -> None:
    """Register a score.

    Raises:
        ValueError: Its name is taken.
    """
    if score.name in _scores:
        raise ValueError(f"score `{score.name}` is registered already")
    _scores[score.name] = score


def get_score(name: str) -> Score:
    """The score called ``name``.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in _scores:
        raise UnknownNameError("score", name, _scores)
    return _scores[name]


def score_names() -> list[str]:
    """The names of all registered scores."""
    return sorted(_scores)
