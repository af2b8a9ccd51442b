"""How an untrained network bends a circle in image space: extrinsic curvature and the length of the Gauss map.

Source: the metrics that Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921
compare length distortion with, after Poole et al., "Exponential expressivity in deep neural networks through transient
chaos", NeurIPS 2016, arXiv 1606.05340. With v and a the first and second derivative by the angle of the pooled features
along the circle, norms removed, both are summed over the angles and averaged over circles and weights:

- extrinsic curvature: ``|v|^-3 sqrt((v.v)(a.a) - (v.a)^2)``;
- Gauss-map length: ``|d(v / |v|) / d angle| = |v|^-2 sqrt((v.v)(a.a) - (v.a)^2)``.

Deviations: the reference holds ``|v|`` constant while it differentiates the Gauss map and so computes ``|a| / |v|``;
here the definition is followed. v comes from a forward-mode product, a from the difference of two of them at angles a
ten thousandth apart, in double precision: PyTorch cannot differentiate every activation forwards twice.

Shape letters: A angles, F features, H and W sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import jvp

from nas.scores.features import Build, draw_network, first_overflow, pooled_features, remove_norms
from nas.scores.length_distortion import (
    REPEATS,
    circle_angles,
    circle_images,
    forward_mode,
    random_circle,
    sum_over_circle,
)

STEP = 1e-4
"""Radians between the two first derivatives whose difference gives the second."""


@dataclass(frozen=True)
class Curvature:
    """Both numbers of one network; larger is better.

    Attributes:
        extrinsic: Extrinsic curvature; NaN or infinite where the network overflows or stands still.
        gauss_length: Length of the Gauss map along the circle.
        failure: Why they are not finite; empty where they are.
    """

    extrinsic: float
    gauss_length: float
    failure: str = ""


def curvature(build: Build, *, image_side: int, seed: int, repeats: int = REPEATS) -> Curvature:
    """The expected curvature and Gauss-map length of an architecture; arguments as of `length_distortion`."""
    draws = [curvature_of_draw(draw_network(build, seed + r), image_side, seed + r) for r in range(repeats)]
    failures = [draw.failure for draw in draws if draw.failure]
    return Curvature(
        sum(draw.extrinsic for draw in draws) / repeats,
        sum(draw.gauss_length for draw in draws) / repeats,
        failures[0] if failures else "",
    )


def curvature_of_draw(network: nn.Module, image_side: int, circle_seed: int) -> Curvature:
    """One repeat: one circle through ``network``. Its norms are removed and it becomes double, in place."""
    remove_norms(network.eval())
    circle = random_circle(3 * image_side * image_side, circle_seed)
    extrinsic, gauss_length = circle_curvature(partial(pooled_features, network.double()), circle, image_side)
    failure = ""
    if not (math.isfinite(extrinsic) and math.isfinite(gauss_length)):
        layer = first_overflow(network, circle[0].reshape(1, 3, image_side, image_side))
        failure = f"curvature is {extrinsic}: {layer or 'a derivative'} overflows, or the features stand still"
    return Curvature(extrinsic, gauss_length, failure)


@torch.no_grad()
def circle_curvature(features: Callable[[Tensor], Tensor], circle: Tensor, image_side: int) -> tuple[float, float]:
    """Extrinsic curvature and Gauss-map length of ``features`` along a circle of unit radius, summed over ten angles.

    Args:
        features: Images ``(B, 3, H, W)`` to vectors ``(B, F)``, in double precision.
        circle: Two orthonormal vectors ``(2, 3 * H * W)``.
        image_side: H and W.
    """
    circle = circle.double()

    def velocity(angle_A: Tensor) -> Tensor:
        v_AF: Tensor
        with forward_mode():
            v_AF = jvp(features, *((tensor,) for tensor in circle_images(circle, image_side, angle_A)))[1]
        return v_AF

    angle_A = circle_angles().double()
    v_AF = velocity(angle_A)
    a_AF = (velocity(angle_A + STEP / 2) - velocity(angle_A - STEP / 2)) / STEP
    speed_A = v_AF.norm(dim=1)
    along_A = (v_AF * a_AF).sum(dim=1) / speed_A
    across_A = ((a_AF * a_AF).sum(dim=1) - along_A**2).clamp(min=0).sqrt()
    return sum_over_circle(across_A / speed_A**2), sum_over_circle(across_A / speed_A)
