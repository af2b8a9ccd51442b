"""As-ViT's metrics: closed forms, the definition by brute force, published values and named failures."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from nas.objectives.ranks import dense_ranks, rank_sums
from nas.scores.asvit import AsvitScorer, asvit_scores
from nas.scores.curvature import circle_curvature, curvature
from nas.scores.features import Build, draw_network, pooled_features_before_norm, remove_norms
from nas.scores.length_distortion import length_distortion, random_circle
from nas.scores.ntk import condition_of_draw, noise_images, ntk_condition_number, tangent_kernel
from nas.scores.series_attention import SeriesAttention, is_worthwhile, series_attention
from search_spaces import get_space
from search_spaces.asvit_topology import parse_topology
from supernets import build_network
from supernets.families.asvit import build_topology

SEED = "8,2,3|4,1,2|4,1,4|4,1,6|32"
SMALL = "4,8,2|2,4,2|2,2,2|2,1,2|16"
MIDDLE = "6,4,4|3,2,4|3,1,4|3,1,4|32"


def topology(text: str) -> Build:
    return partial(build_topology, parse_topology(text))


class Linear(nn.Module):
    """Features that are a linear function of the flattened image."""

    def __init__(self, side: int, outputs: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * side * side, outputs, bias=False)

    def forward_features(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.layer(x_BCHW.flatten(1))


def by_brute_force(network: nn.Module, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Gram matrix and length from one backward pass per image through every parameter named weight."""
    network.requires_grad_(True)
    weights = [parameter for name, parameter in network.named_parameters() if "weight" in name]
    rows = []
    for image in images_BCHW:
        total = pooled_features_before_norm(network, image[None]).sum()
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).double())
    gradient_BP = torch.stack(rows)
    return gradient_BP @ gradient_BP.T, gradient_BP.shape[1]


# -- tangent kernel ----------------------------------------------------------------------------------------------------


def test_one_linear_layer_has_the_condition_of_its_inputs() -> None:
    images = noise_images(8, 3)
    rows = images.flatten(1).double()
    eigenvalues = torch.linalg.eigvalsh(rows @ rows.T)
    found = ntk_condition_number(partial(Linear, 8, 4), image_side=8, seed=3, repeats=2)
    expected = float(eigenvalues[-1] / eigenvalues[0])
    assert found.repeats == pytest.approx((expected, expected), rel=1e-4)
    assert found.failure == ""


@pytest.mark.parametrize(
    ("text", "length"),
    [(SEED, 1_987_040), (f"{SEED},8", 126_200), (SMALL, 871_776), (MIDDLE, 1_438_016)],
)
def test_gradients_have_the_reference_length(text: str, length: int) -> None:
    network = draw_network(topology(text), 0)
    assert tangent_kernel(network, noise_images(224, 0)[:1]).parameters == length


def test_kernel_equals_one_backward_pass_per_image() -> None:
    network = draw_network(topology(f"{SMALL},8"), 0)
    images = noise_images(224, 0)[:3]
    kernel = tangent_kernel(network, images)
    expected, length = by_brute_force(network, images)
    assert kernel.parameters == length
    assert torch.allclose(kernel.gram_BB, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


class Mixed(nn.Module):
    """Layers that run twice, norms of three kinds, groups, windows in place of images, a weight without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.group_norm = nn.GroupNorm(2, 8)
        self.shared = nn.Linear(8, 8)
        self.windowed = nn.Linear(8, 8)
        self.own_weight = nn.Parameter(torch.randn(8, 8))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.grouped(self.stem(x)))
        x = self.group_norm(x).flatten(2).transpose(1, 2)
        x = torch.tanh(self.shared(torch.tanh(self.shared(x))))
        x = self.windowed(x.reshape(2 * len(x), -1, 8)).reshape(x.shape)
        return self.norm(torch.tanh(x @ self.own_weight))


def test_kernel_of_layers_of_all_kinds() -> None:
    network = draw_network(Mixed, 0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    images = noise_images(8, 0)[:5]
    kernel = tangent_kernel(network, images)
    expected, length = by_brute_force(network, images)
    assert (
        kernel.parameters
        == length
        == sum(
            parameter.numel()
            for name, parameter in network.named_parameters()
            if "weight" in name and not name.startswith(("norm.", "head."))
        )
    )
    assert torch.allclose(kernel.gram_BB, expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


def test_singular_and_infinite_kernels_are_named() -> None:
    network = draw_network(partial(Linear, 4), 0)
    twice = noise_images(4, 0)[:2].repeat(2, 1, 1, 1)
    assert "singular" in condition_of_draw(network, twice).failure
    network.layer.weight.fill_(math.inf)
    deep = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)).requires_grad_(False)
    deep[0].weight.fill_(3e38)
    found = condition_of_draw(deep, noise_images(4, 0))
    assert math.isnan(found.value)
    assert "`0` (Conv2d) overflows" in found.failure


def test_one_source_of_images_is_asked_for() -> None:
    with pytest.raises(ValueError, match="one of `image_side` and `images_BCHW`"):
        ntk_condition_number(partial(Linear, 4), seed=0)


# -- length and curvature ----------------------------------------------------------------------------------------------


def test_overflow_names_the_layer() -> None:
    def build() -> nn.Module:
        network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm(4), nn.Conv2d(4, 4, 1))
        nn.init.constant_(network[2].weight, 3e38)
        return network

    found = length_distortion(build, image_side=4, seed=0, repeats=2)
    assert not math.isfinite(found.value)
    assert "`2` (Conv2d) overflows once norms are removed" in found.failure


def test_library_norms_are_removed_and_fused_activations_kept() -> None:
    timm_layers = pytest.importorskip("timm.layers")
    network = nn.Sequential(timm_layers.BatchNormAct2d(4), timm_layers.RmsNorm(4), timm_layers.LayerNorm2d(4))
    remove_norms(network)
    assert [type(layer) for layer in network] == [nn.ReLU, nn.Identity, nn.Identity]


def test_a_circle_keeps_its_curvature() -> None:
    circle = random_circle(3 * 8 * 8, 0)
    extrinsic, gauss = circle_curvature(lambda x: 5 * x.flatten(1), circle, 8)
    assert extrinsic == pytest.approx(10 / 5, rel=1e-5)
    assert gauss == pytest.approx(10, rel=1e-5)


def test_curvature_of_a_bent_curve() -> None:
    """Features (cos 2t, sin t) have v = (-2 sin 2t, cos t) and a = (-4 cos 2t, -sin t)."""
    circle = random_circle(3 * 8 * 8, 1)

    def features(x: torch.Tensor) -> torch.Tensor:
        cos, sin = x.flatten(1) @ circle[0].double(), x.flatten(1) @ circle[1].double()
        return torch.stack([cos**2 - sin**2, sin], dim=1)

    t = torch.linspace(0, 2 * math.pi, 10, dtype=torch.float64)
    v = torch.stack([-2 * (2 * t).sin(), t.cos()])
    a = torch.stack([-4 * (2 * t).cos(), -t.sin()])
    across = (v[0] * a[1] - v[1] * a[0]).abs()
    extrinsic, gauss = circle_curvature(features, circle, 8)
    assert extrinsic == pytest.approx(float((across / v.norm(dim=0) ** 3).sum()), rel=1e-4)
    assert gauss == pytest.approx(float((across / v.norm(dim=0) ** 2).sum()), rel=1e-4)


def test_curvature_of_a_network_is_positive_and_repeatable() -> None:
    space = get_space("elastic-mini")
    build = partial(build_network, space, space.smallest)
    first, second = (curvature(build, image_side=16, seed=1, repeats=2) for _ in range(2))
    assert first == second
    assert first.extrinsic > 0
    assert first.gauss_length > 0
    assert first.failure == ""


# -- attention by its series -------------------------------------------------------------------------------------------


def test_series_equals_attention_where_logits_are_small() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 400, 4, requires_grad=True) for _ in range(3))
    small_q, small_k = q * 0.1, k * 0.1
    with torch.no_grad():
        assert is_worthwhile(small_q, small_k, v)
        assert not is_worthwhile(q * 2, k * 2, v)
        assert not is_worthwhile(small_q[..., :20, :], small_k[..., :20, :], v[..., :20, :])
    exact = nn.functional.scaled_dot_product_attention(small_q, small_k, v)
    found = series_attention(small_q, small_k, v)
    assert torch.allclose(found, exact, atol=1e-4)
    direction = torch.randn_like(exact)
    expected_gradients = torch.autograd.grad(exact, (q, k, v), direction, retain_graph=True)
    for expected, gradient in zip(expected_gradients, torch.autograd.grad(found, (q, k, v), direction), strict=True):
        assert float((gradient - expected).norm() / expected.norm()) < 1e-3


def test_series_leaves_the_condition_as_it_is() -> None:
    build = topology("8,2,3|4,1,2|4,1,4|4,1,6|32,8")
    images = noise_images(224, 0)[:4]
    exact = condition_of_draw(draw_network(build, 0), images)
    with SeriesAttention():
        found = condition_of_draw(draw_network(build, 0), images)
    assert found.value == pytest.approx(exact.value, rel=1e-5)


# -- both metrics ------------------------------------------------------------------------------------------------------


def test_both_metrics_from_the_same_weights_and_any_number_of_workers() -> None:
    space = get_space("elastic-mini")
    builds = [partial(build_network, space, network) for network in (space.smallest, space.middle)]
    with AsvitScorer(image_side=16, seed=3, repeats=2) as scorer:
        alone = list(scorer.score_all(builds))
    assert [scores.ntk for scores in alone] == [
        ntk_condition_number(build, image_side=16, seed=3, repeats=2) for build in builds
    ]
    assert [scores.length_distortion for scores in alone] == [
        length_distortion(build, image_side=16, seed=3, repeats=2) for build in builds
    ]
    assert alone[0] == asvit_scores(builds[0], image_side=16, seed=3, repeats=2)


@pytest.mark.slow
def test_workers_change_nothing() -> None:
    builds = [topology(f"{SMALL},{width}") for width in (8, 12)]
    found = []
    for workers in (1, 2):
        with AsvitScorer(image_side=224, seed=0, repeats=2, workers=workers) as scorer:
            found.append(list(scorer.score_all(builds)))
    for one, two in zip(*found, strict=True):
        assert one.ntk.repeats == pytest.approx(two.ntk.repeats, rel=1e-5)
        assert one.length_distortion.repeats == pytest.approx(two.length_distortion.repeats, rel=1e-5)


def test_dense_ranks() -> None:
    assert dense_ranks([3.0, 1.0, 1.0, 2.0], larger_is_better=False).tolist() == [2, 0, 0, 1]
    assert dense_ranks([3.0, 1.0, math.nan, 3.0], larger_is_better=True).tolist() == [0, 1, 2, 0]
    assert rank_sums([5.0, 4.0, 4.0], [1.0, 2.0, 1.5]).tolist() == [3, 0, 1]


def within_three_errors(values: tuple[float, ...], mean: float, deviation: float, count: int) -> bool:
    error = math.sqrt(np.var(values, ddof=1) / len(values) + deviation**2 / count)
    return abs(float(np.mean(values)) - mean) <= 3 * error


def test_narrow_seed_has_the_reference_values() -> None:
    scores = asvit_scores(topology(f"{SEED},8"), image_side=224, seed=0)
    assert within_three_errors(scores.length_distortion.repeats, 5.63e-4, 0.24e-4, 4)
    assert within_three_errors(scores.ntk.repeats, 4.9, 1.3, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "length", "condition"),
    [
        (SEED, (8.10e-3, 0.28e-3, 8), (5.2, 0.3, 5)),
        (SMALL, (1.135e-3, 0.052e-3, 8), (24.9, 4.8, 5)),
        ("4,4,2|2,2,2|2,1,2|2,1,2|16", (1.110e-3, 0.040e-3, 4), (21.7, 1.5, 3)),
        (MIDDLE, (3.56e-3, 0.14e-3, 4), (12.5, 1.3, 3)),
        ("8,2,3,2|4,1,2,1|4,1,4,1|4,1,6,1|32,8", (5.13e-4, 0.06e-4, 3), (5.9, 2.3, 3)),
        ("8,2,3,1|4,1,2,1|4,1,4,1|4,1,6,2|32,10", (8.02e-4, 0.48e-4, 3), (3.7, 0.7, 3)),
    ],
)
def test_reference_values(text: str, length: tuple[float, float, int], condition: tuple[float, float, int]) -> None:
    scores = asvit_scores(topology(text), image_side=224, seed=0, repeats=8)
    assert within_three_errors(scores.length_distortion.repeats, *length)
    assert within_three_errors(scores.ntk.repeats, *condition)
