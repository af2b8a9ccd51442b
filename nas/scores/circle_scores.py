"""As-ViT's measures as scores: length distortion with norms and without, curvature, the tangent kernel's condition.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921. The measures
stand in modules of their own, which name their deviations; As-ViT's combination of ranks over a population is in
`nas.scores.asvit`. Each score draws its own network, since the measures change it.
"""

from __future__ import annotations

from functools import partial

from nas.errors import EvaluationError
from nas.scores.base import Score
from nas.scores.curvature import Curvature, curvature_of_draw
from nas.scores.features import draw_network, pooled_features
from nas.scores.length_distortion import circle_length, length_of_draw, random_circle
from nas.scores.ntk import condition_of_draw
from nas.scores.untrained import UntrainedNetwork


def length_distortion(network: UntrainedNetwork) -> float:
    """The length that the network, without norms, gives to a circle in image space."""
    found = length_of_draw(draw_network(network.build, network.seed), network.image_side, network.seed)
    return _value(found.value, found.failure)


def length_distortion_with_norms(network: UntrainedNetwork) -> float:
    """The same with norms as they are: a variant that the paper does not use."""
    side = network.image_side
    module = draw_network(network.build, network.seed).eval()
    return circle_length(partial(pooled_features, module), random_circle(3 * side * side, network.seed), side)


def extrinsic_curvature(network: UntrainedNetwork) -> float:
    """How much the network, without norms, bends the circle."""
    found = _curvature(network)
    return _value(found.extrinsic, found.failure)


def gauss_map_length(network: UntrainedNetwork) -> float:
    """How far the direction of the circle's image turns."""
    found = _curvature(network)
    return _value(found.gauss_length, found.failure)


def tangent_kernel_condition(network: UntrainedNetwork) -> float:
    """Minus the condition number of the neural tangent kernel, so that higher is better."""
    found = condition_of_draw(draw_network(network.build, network.seed), network.images)
    return -_value(found.value, found.failure)


def _curvature(network: UntrainedNetwork) -> Curvature:
    build, side, seed = network.build, network.image_side, network.seed
    return network.share("curvature", lambda: curvature_of_draw(draw_network(build, seed), side, seed))


def _value(value: float, failure: str) -> float:
    if failure:
        raise EvaluationError(failure)
    return value


LENGTH_DISTORTION = Score("length-distortion", length_distortion, "Chen et al., ICLR 2022")
LENGTH_DISTORTION_WITH_NORMS = Score(
    "length-distortion-norms", length_distortion_with_norms, "variant of Chen et al., ICLR 2022"
)
CURVATURE = Score("curvature", extrinsic_curvature, "Poole et al., NeurIPS 2016")
GAUSS_MAP_LENGTH = Score("gauss-map-length", gauss_map_length, "Poole et al., NeurIPS 2016")
NTK = Score("ntk", tangent_kernel_condition, "Chen et al., ICLR 2022; minus the condition number")
