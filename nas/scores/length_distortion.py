"""Expected length distortion: how far an untrained network stretches a circle in image space.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921. A circle on the
unit sphere of images is pushed through the network with every normalisation layer replaced by the identity; the score
sums the speed of the pooled features along it. The reference differentiates backwards, once per feature channel; one
forward-mode product with a tangent along the circle gives the same number.

Deviations: the first and the last of the paper's ten angles coincide, so nine are computed and the first counts twice;
BatchNorm and GroupNorm, which As-ViT's own networks do not have, are replaced as well.

Shape letters: A angles, B batch, C channels, F features, H and W sides.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.modules.batchnorm import _BatchNorm

from nas.errors import EvaluationError
from search_spaces import Architecture, SearchSpace
from supernets.family import build_network

ANGLES = 10


@dataclass(frozen=True)
class LengthDistortion:
    """The score of one network.

    Attributes:
        value: Mean over the repeats; NaN or infinite where the network overflows.
        repeats: One value per circle and initialisation.
    """

    value: float
    repeats: tuple[float, ...]


def score_architecture(space: SearchSpace, architecture: Architecture, seed: int, repeats: int = 5) -> float:
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


def length_distortion(
    build: Callable[[], nn.Module], *, image_side: int, seed: int, repeats: int = 5
) -> LengthDistortion:
    """The expected length distortion of an architecture.

    Args:
        build: Makes a freshly initialised network that has ``forward_features``; called once per repeat.
        image_side: Side in pixels of the images on the circle.
        seed: Of circles and weights; repeat ``r`` uses ``seed + r``. The global random state is left as it was.
        repeats: Circles and initialisations to average over; the paper takes 5.

    Returns:
        The score; higher is better.
    """
    values = []
    for repeat in range(repeats):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + repeat)
            network = build()
            circle = random_circle(3 * image_side * image_side)
        remove_norms(network)
        values.append(circle_length(partial(_pooled, network), circle, image_side))
    return LengthDistortion(sum(values) / len(values), tuple(values))


def random_circle(dimensions: int) -> Tensor:
    """Two orthonormal vectors ``(2, dimensions)`` that span a random plane."""
    plane: Tensor = torch.linalg.qr(torch.randn(dimensions, 2)).Q
    return plane.T.contiguous()


def remove_norms(network: nn.Module) -> None:
    """Replace every normalisation layer of ``network`` by the identity, in place."""
    for name, child in network.named_children():
        if isinstance(child, (_BatchNorm, nn.GroupNorm, nn.LayerNorm)):
            setattr(network, name, nn.Identity())
        else:
            remove_norms(child)


@torch.no_grad()
def circle_length(features: Callable[[Tensor], Tensor], circle: Tensor, image_side: int) -> float:
    """Sum over ten angles of the speed of ``features`` along a circle of unit radius.

    Args:
        features: Images ``(B, 3, H, W)`` to vectors ``(B, F)``.
        circle: Two orthonormal vectors ``(2, 3 * H * W)``.
        image_side: H and W.
    """
    angle_A1 = torch.linspace(0, 2 * math.pi, ANGLES)[:-1, None]
    images_BCHW, tangents_BCHW = (
        (x_A * circle[0] + y_A * circle[1]).reshape(-1, 3, image_side, image_side)
        for x_A, y_A in ((angle_A1.cos(), angle_A1.sin()), (-angle_A1.sin(), angle_A1.cos()))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own decompositions, loaded by the first call
        velocity_AF: Tensor = jvp(features, (images_BCHW,), (tangents_BCHW,))[1]
    speed_A = velocity_AF.norm(dim=1)
    return float(speed_A.sum() + speed_A[0])


def _pooled(network: nn.Module, x_BCHW: Tensor) -> Tensor:
    features: Tensor = network.forward_features(x_BCHW)  # type: ignore[operator]
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features.mean(dim=1)
