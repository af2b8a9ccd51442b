"""Expected length distortion: how far an untrained network stretches a circle in image space.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921. A circle on the
unit sphere of images is pushed through the network with every normalisation layer replaced by the identity; the score
sums the speed of the pooled features along it. The reference differentiates backwards, once per feature channel; one
forward-mode product with a tangent along the circle gives the same number (`benchmarks/length_distortion.py` times
both).

Deviations: the first and the last of the paper's ten angles coincide, so nine are computed and the first counts twice;
all weights are drawn anew for each repeat, while the reference keeps one draw of the patch embedding.

Shape letters: A angles, B batch, C channels, F features, H and W sides.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from nas.errors import EvaluationError
from nas.scores.features import Build, draw_network, first_overflow, pooled_features, remove_norms
from search_spaces import Architecture, SearchSpace
from supernets.family import build_network

ANGLES = 10
REPEATS = 5


@dataclass(frozen=True)
class LengthDistortion:
    """The score of one network; higher is better.

    Attributes:
        value: Mean over the repeats; NaN or infinite where the network overflows.
        repeats: One value per circle and initialisation.
        failure: Where the first repeat that is not finite overflows; empty where all are.
    """

    value: float
    repeats: tuple[float, ...]
    failure: str = ""


def score_architecture(space: SearchSpace, architecture: Architecture, seed: int, repeats: int = REPEATS) -> float:
    """The expected length distortion of an architecture at its own input side.

    Raises:
        EvaluationError: The network does not fit into memory.
    """
    side = space.input_shape(dict(architecture.settings))[-1]
    try:
        build = partial(build_network, space, architecture)
        return length_distortion(build, image_side=side, seed=seed, repeats=repeats).value
    except torch.OutOfMemoryError as error:
        raise EvaluationError(f"out of memory: {error}") from error


def length_distortion(build: Build, *, image_side: int, seed: int, repeats: int = REPEATS) -> LengthDistortion:
    """The expected length distortion of an architecture.

    Args:
        build: Makes a freshly initialised network; called once per repeat.
        image_side: Side in pixels of the images on the circle.
        seed: Seed of circles and weights; repeat ``r`` uses ``seed + r``, and the same circle for every network. The
            global random state is left as it was.
        repeats: Circles and initialisations to average over; the paper takes 5.

    Returns:
        The score; higher is better.
    """
    drawn = [length_of_draw(draw_network(build, seed + r), image_side, seed + r) for r in range(repeats)]
    return combined(drawn)


def length_of_draw(network: nn.Module, image_side: int, circle_seed: int) -> LengthDistortion:
    """One repeat: the length that ``network`` gives to one circle. Its norms are removed, in place."""
    remove_norms(network.eval())
    circle = random_circle(3 * image_side * image_side, circle_seed)
    value = circle_length(partial(pooled_features, network), circle, image_side)
    failure = ""
    if not math.isfinite(value):
        layer = first_overflow(network, circle[0].reshape(1, 3, image_side, image_side))
        failure = f"length distortion is {value}: {layer or 'the derivative'} overflows once norms are removed"
    return LengthDistortion(value, (value,), failure)


def combined(draws: list[LengthDistortion]) -> LengthDistortion:
    """The mean over single repeats."""
    values = tuple(draw.value for draw in draws)
    failures = [draw.failure for draw in draws if draw.failure]
    return LengthDistortion(sum(values) / len(values), values, failures[0] if failures else "")


@lru_cache(maxsize=8)
def random_circle(dimensions: int, seed: int) -> Tensor:
    """Two orthonormal vectors ``(2, dimensions)`` that span a random plane; do not write to them."""
    generator = torch.Generator().manual_seed(seed)
    plane: Tensor = torch.linalg.qr(torch.randn(dimensions, 2, generator=generator)).Q
    return plane.T.contiguous()


def circle_images(circle: Tensor, image_side: int, angle_A: Tensor) -> tuple[Tensor, Tensor]:
    """Images at angles of the unit circle, and their derivative by the angle, ``(A, 3, H, W)`` each."""
    shape = (-1, 3, image_side, image_side)
    cos_A1, sin_A1 = angle_A[:, None].cos(), angle_A[:, None].sin()
    return (
        (cos_A1 * circle[0] + sin_A1 * circle[1]).reshape(shape),
        (cos_A1 * circle[1] - sin_A1 * circle[0]).reshape(shape),
    )


def circle_angles() -> Tensor:
    """The paper's angles without the last, which is the first again: ``(A,)``."""
    return torch.linspace(0, 2 * math.pi, ANGLES)[:-1]


def sum_over_circle(value_A: Tensor) -> float:
    """The sum over the paper's ten angles of one value for each of `circle_angles`."""
    return float(value_A.sum() + value_A[0])


@torch.no_grad()
def circle_length(features: Callable[[Tensor], Tensor], circle: Tensor, image_side: int) -> float:
    """Sum over ten angles of the speed of ``features`` along a circle of unit radius.

    Args:
        features: Images ``(B, 3, H, W)`` to vectors ``(B, F)``.
        circle: Two orthonormal vectors ``(2, 3 * H * W)``.
        image_side: H and W.
    """
    images_ACHW, tangents_ACHW = circle_images(circle, image_side, circle_angles())
    with forward_mode():
        velocity_AF: Tensor = jvp(features, (images_ACHW,), (tangents_ACHW,))[1]
    return sum_over_circle(velocity_AF.norm(dim=1))


@contextmanager
def forward_mode() -> Iterator[None]:
    """A context in which forward-mode derivatives work: attention in plain operators."""
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own decompositions, loaded by the first call
        yield
