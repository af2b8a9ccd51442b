"""Scores by name: ours, one line each, and those that other packages register as entry points `nas.scores`.

Size is a score too: parameters, MACs, and every quantity of which more is better. Cleverer scores have to beat these
first. The default, ``capacity``, is the geometric mean of parameters and MACs: parameters alone would always choose the
smallest image, since a network's parameters do not depend on it, and MACs alone would spend everything on early, large
maps. No published training-free score that we know of ranks trained vision transformers better than their size does
everywhere.
"""

from __future__ import annotations

from functools import cache

from nas.objectives.quantities import Quantity, get_quantity, quantity_names
from nas.records.network import SIZES
from nas.scores.base import Score
from search_spaces import UnknownNameError
from search_spaces.plugins import Registry

DEFAULT_SCORE = "capacity"

SCORES: Registry[Score] = Registry(
    "score",
    "nas.scores",
    {
        "length-distortion": "nas.scores.circle_scores:LENGTH_DISTORTION",
        "length-distortion-norms": "nas.scores.circle_scores:LENGTH_DISTORTION_WITH_NORMS",
        "curvature": "nas.scores.circle_scores:CURVATURE",
        "gauss-map-length": "nas.scores.circle_scores:GAUSS_MAP_LENGTH",
        "ntk": "nas.scores.circle_scores:NTK",
        "as-vit": "nas.scores.asvit:AS_VIT",
        "synflow": "nas.scores.synflow:SYNFLOW",
        "dss": "nas.scores.dss:DSS",
        "snip": "nas.scores.gradients:SNIP",
        "grad-norm": "nas.scores.gradients:GRADIENT_NORM",
        "zico": "nas.scores.zico:ZICO",
        "naswot": "nas.scores.naswot:NASWOT",
        "near": "nas.scores.activation_ranks:NEAR",
        "w-pca": "nas.scores.activation_ranks:W_PCA",
        "az-expressivity": "nas.scores.az_nas:EXPRESSIVITY",
        "az-progressivity": "nas.scores.az_nas:PROGRESSIVITY",
        "az-trainability": "nas.scores.az_nas:TRAINABILITY",
    },
)


def register_score(score: Score) -> None:
    """Register a score for this process.

    Raises:
        ValueError: Its name is taken.
    """
    if score.name in _sizes():
        raise ValueError(f"score `{score.name}` is registered already")
    SCORES.register(score.name, score)


def get_score(name: str) -> Score:
    """The score called ``name``.

    Raises:
        UnknownNameError: There is none.
    """
    if name in _sizes():
        return _of_quantity(get_quantity(name))
    found = SCORES.find(name)
    if found is None:
        raise UnknownNameError("score", name, score_names())
    return found


def score_names() -> list[str]:
    """The names of all scores: size first, then ours by kind, then other packages'."""
    return [*_sizes(), *SCORES.names()]


def _sizes() -> list[str]:
    """The names of quantities that are scores."""
    return [name for name in quantity_names() if name in SIZES or get_quantity(name).is_maximised]


@cache
def _of_quantity(quantity: Quantity) -> Score:
    return Score.of_quantity(quantity)
