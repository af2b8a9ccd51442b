"""Each score against a closed form, or against the definition computed in another way, on networks of a few numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.objectives.quantities import get_quantity
from nas.scores.activation_ranks import near, w_pca
from nas.scores.az_nas import combine_ranks, expressivity, progressivity, trainability
from nas.scores.dss import dss
from nas.scores.gradients import gradient_norm, snip
from nas.scores.length_distortion import length_distortion
from nas.scores.measure import evaluate_score
from nas.scores.naswot import naswot
from nas.scores.ntk import ntk_condition_number
from nas.scores.spectra import effective_rank, nuclear_norm, principal_components
from nas.scores.subject import ScoreSubject
from nas.scores.synflow import synflow
from nas.scores.untrained import UntrainedNetwork
from nas.scores.zico import zico
from search_spaces.graph import OpGraph, OpList

PARAMS = 7


def seen(module: nn.Module, shape: tuple[int, int, int], images: Tensor | None = None) -> UntrainedNetwork:
    """``module`` as scores see it."""
    graph: Any = SimpleNamespace(params=PARAMS)
    return UntrainedNetwork(ScoreSubject("tiny", lambda: module, shape, lambda: graph), 0, 4, images)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = weight.clone()
    if bias is not None:
        layer.bias.data = bias.clone()
    return layer


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# -- size ---------------------------------------------------------------------------------------------------------


def test_depth_and_mean_width() -> None:
    ops = OpList((3, 8, 8))
    stem = ops.conv("stem", "input", 16, kernel=3, stride=2)
    left = ops.conv("left", ops.activation("relu", stem, "relu"), 32)
    right = ops.conv("right.1", ops.conv("right.0", stem, 8), 32)
    ops.add("sum", left, right)
    graph = OpGraph([("all", ops.ops)], (3, 8, 8))
    assert get_quantity("depth").graph(graph) == 3
    assert get_quantity("width").graph(graph) == (16 + 32 + 8 + 32) / 4


# -- positive weights ---------------------------------------------------------------------------------------------


def test_synflow_of_a_linear_chain_is_layers_times_product_of_sums() -> None:
    """With weights of one sign per layer and equal rows the flow is the product of the layers' row sums."""
    weights = [torch.full((4, 3), -2.0), torch.full((4, 4), 0.5), torch.full((2, 4), 3.0)]
    chain = nn.Sequential(nn.Flatten(), *(linear(weight) for weight in weights))
    flow = (3 * 2) * (4 * 0.5) * (4 * 3) * 2  # two outputs
    assert synflow(seen(chain, (3, 1, 1))) == pytest.approx(math.log(3 * flow))


def test_synflow_leaves_norms_and_dropout_out_and_evens_attention() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = linear(torch.rand(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(1, 2) * torch.tensor([1.0, 100.0])[:, None]
            mixed = nn.functional.scaled_dot_product_attention(x, x, self.value(x))
            assert torch.allclose(mixed[:, 0], mixed[:, 1])
            return nn.functional.dropout(mixed, 0.9).mean(dim=1)

    def build(*layers: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), *layers, nn.Flatten(2), Attention(), head)

    head = linear(torch.rand(2, 4))
    torch.manual_seed(1)
    bare = build()
    torch.manual_seed(1)
    normed = build(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm([4, 1, 2]))
    normed[0], normed[5] = bare[0], bare[2]
    assert synflow(seen(normed, (3, 1, 2))) == pytest.approx(synflow(seen(bare, (3, 1, 2))))
    conv, value = bare[0].weight.abs().double(), bare[2].value.weight.abs().double()
    flow = (head.weight.double() @ value @ conv.flatten(1).sum(dim=1)).sum().detach() * (1 + 100) / 2
    assert synflow(seen(bare, (3, 1, 2))) == pytest.approx(math.log(3 * float(flow)))


def test_dss_is_nuclear_norms_in_attention_and_saliency_elsewhere() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 4)
            self.soften = nn.Softmax(dim=-1)

        def forward(self, x: Tensor) -> Tensor:
            query, key, value = self.qkv(x).chunk(3, dim=-1)
            return self.out(self.soften(query @ key.transpose(1, 2)) @ value)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.attention = nn.Linear(6, 4), nn.LayerNorm(4), Attention()
            self.position, self.head = nn.Parameter(torch.randn(2, 4)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x.reshape(-1, 2, 6)) + self.position
            return self.head((x + self.attention(self.norm(x))).mean(dim=1))

    network = Network()
    found = dss(seen(network, (3, 2, 2)))

    for parameter in network.double().parameters():
        parameter.data.abs_()
    network(torch.ones(1, 3, 2, 2, dtype=torch.float64)).sum().backward()
    expected = sum((layer.weight * layer.weight.grad).abs().sum() for layer in (network.embed, network.head))
    for layer in (network.attention.qkv, network.attention.out):
        norms = [torch.linalg.matrix_norm(matrix, "nuc") for matrix in (layer.weight, layer.weight.grad)]
        expected += norms[0] * norms[1]
    assert found == pytest.approx(expected.item(), rel=1e-6)


# -- gradients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [snip, gradient_norm])
def test_gradients_of_a_linear_classifier(score: Callable[[UntrainedNetwork], float]) -> None:
    """Cross-entropy of a linear classifier: the gradient is the mean of (probabilities - label) times input."""
    images = torch.randn(6, 3, 2, 2)
    layer = nn.Linear(12, 5)
    found = score(seen(nn.Sequential(nn.Flatten(), layer), (3, 2, 2), images))

    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.randint(5, (3,), generator=generator) for _ in range(2)])
    x = images.flatten(1)
    error = layer(x).softmax(dim=1) - nn.functional.one_hot(labels, 5)
    gradient = error.T @ x / 6
    expected = (gradient * layer.weight).abs().sum() if score is snip else gradient.norm()
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_gradients_without_dropout_and_with_statistics_of_the_half() -> None:
    images = torch.randn(6, 3, 2, 2)
    body = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.Linear(16, 5)]
    found = snip(seen(nn.Sequential(*body), (3, 2, 2), images))

    plain = nn.Sequential(*(layer for layer in body if not isinstance(layer, nn.Dropout))).train()
    generator = torch.Generator().manual_seed(0)
    for half in images.tensor_split(2):
        labels = torch.randint(5, (3,), generator=generator)
        (nn.functional.cross_entropy(plain(half), labels) / 2).backward()
    expected = sum((layer.weight * layer.weight.grad).abs().sum() for layer in (plain[0], plain[3]))
    assert found == pytest.approx(float(expected), rel=1e-4)


def test_zico_is_mean_over_standard_deviation_of_gradients() -> None:
    gradients = ({"a": torch.randn(4, 3), "b": torch.randn(5)}, {"a": torch.randn(4, 3), "b": torch.randn(5)})
    gradients[1]["b"][2] = gradients[0]["b"][2]  # does not vary: left out
    network: Any = SimpleNamespace(gradients=gradients)
    expected = 0.0
    for name, varies in (("a", np.ones((4, 3), dtype=bool)), ("b", np.array([1, 1, 0, 1, 1], dtype=bool))):
        both = np.stack([half[name].numpy() for half in gradients])
        ratio = np.abs(both).mean(axis=0)[varies] / both.std(axis=0)[varies]
        expected += math.log(ratio.sum())
    assert zico(network) == pytest.approx(expected, rel=1e-5)


# -- activations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.Hardswish(inplace=True)])
def test_naswot_of_known_patterns(activation: nn.Module) -> None:
    signs = torch.tensor([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, -1, -1]]).float()
    network = nn.Sequential(nn.Flatten(), linear(2 * torch.eye(3)), activation)
    agreeing = np.array([[3, 2, 2, 0], [2, 3, 1, 1], [2, 1, 3, 1], [0, 1, 1, 3]])
    found = naswot(seen(network, (3, 1, 1), signs.reshape(4, 3, 1, 1)))
    assert found == pytest.approx(math.log(np.linalg.det(agreeing)))


def test_naswot_of_equal_images_is_minus_infinity() -> None:
    network = nn.Sequential(nn.Flatten(), linear(torch.eye(3)), nn.ReLU())
    assert naswot(seen(network, (3, 1, 1), torch.ones(4, 3, 1, 1))) == -math.inf


def test_near_is_the_effective_ranks_before_and_after() -> None:
    images = torch.randn(4, 3, 1, 1)
    layer = nn.Linear(3, 8)
    before = layer(images.flatten(1)).detach()
    expected = 0.0
    for matrix in (before, before.relu()):
        share = torch.linalg.svdvals(matrix.double())
        share = share / share.sum()
        expected += math.exp(-float((share * share.clamp(min=1e-300).log()).sum()))
    found = near(seen(nn.Sequential(nn.Flatten(), layer, nn.ReLU(inplace=True)), (3, 1, 1), images))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("channels_last", [False, True])
def test_near_takes_positions_as_rows_whatever_the_layout(channels_last: bool) -> None:
    """Two directions in four channels: both layouts of the map must see rank two, not that of the positions."""
    directions = torch.zeros(4, 3)
    directions[0, 0] = directions[1, 1] = 1.0

    class Map(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1, bias=False)
            self.linear = linear(directions)
            self.conv.weight.data = directions[:, :, None, None].clone()
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            if channels_last:
                return self.head(nn.functional.leaky_relu(self.linear(x.movedim(1, -1)), 1.0).mean(dim=(1, 2)))
            return self.head(nn.functional.leaky_relu(self.conv(x), 1.0).mean(dim=(2, 3)))

    found = near(seen(Map(), (3, 6, 6)))
    assert 2 < found <= 4 + 1e-6  # two matrices of rank two


def test_w_pca_counts_components() -> None:
    directions = torch.zeros(4, 3, 1, 1)
    directions[:, 0, 0, 0] = torch.tensor([1.0, -1.0, 2.0, -2.0])
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 6), nn.GELU(), nn.Linear(6, 2))
    assert w_pca(seen(network, (3, 1, 1), directions)) == PARAMS * 1
    directions[:2, 1, 0, 0] = torch.tensor([5.0, -5.0])
    assert w_pca(seen(network, (3, 1, 1), directions)) == PARAMS * 2


def test_effective_rank_and_nuclear_norm_of_known_singular_values() -> None:
    assert effective_rank(3 * torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(6, 4)) == pytest.approx(1, abs=1e-5)
    assert effective_rank(torch.zeros(6, 4)) == 0
    assert math.isnan(effective_rank(torch.full((2, 2), math.nan)))
    left, right = (torch.linalg.qr(torch.randn(size, 3)).Q for size in (7, 4))
    matrix = left @ torch.diag(torch.tensor([4.0, 2.0, 2.0])) @ right.T
    assert effective_rank(matrix) == pytest.approx(math.exp(1.5 * math.log(2)), rel=1e-5)
    assert nuclear_norm(matrix) == pytest.approx(8, rel=1e-5)
    assert nuclear_norm(matrix.double() * 1e300) == pytest.approx(8e300, rel=1e-5)
    assert nuclear_norm(torch.zeros(2, 2)) == 0


def test_principal_components_of_known_variances() -> None:
    rows = torch.zeros(8, 5)
    for column, size in enumerate((10.0, 5.0, 1.0)):  # variances 100 : 25 : 1
        rows[2 * column, column], rows[2 * column + 1, column] = size, -size
    rows += 3  # the mean does not count
    assert [principal_components(rows, share) for share in (0.5, 0.79, 0.8, 0.99, 0.999)] == [1, 1, 2, 2, 3]
    assert principal_components(torch.ones(4, 3) / 3, 0.99) == 0


# -- feature maps -------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """``steps`` residual connections, each adding ``factor`` times its input, on maps of three channels."""

    def __init__(self, factors: list[float], in_place: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1, bias=False)
        self.stem.weight.data = torch.eye(3)[:, :, None, None].clone()
        self.branches = nn.ModuleList(nn.Conv2d(3, 3, 1, bias=False) for _ in factors)
        for branch, factor in zip(self.branches, factors, strict=True):
            branch.weight.data = factor * torch.eye(3)[:, :, None, None]
        self.in_place = in_place
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            y = branch(x)
            if self.in_place:
                y += x
                x = y
            else:
                x = x + y
        return self.head(x.mean(dim=(2, 3)))


def test_expressivity_of_isotropic_and_of_flat_maps() -> None:
    """Equal variance in all channels gives log C; all of it in one direction gives 0."""
    images = torch.cat([torch.eye(3), -torch.eye(3)]).reshape(6, 3, 1, 1)
    assert expressivity(seen(Residual([0.5, 0.5]), (3, 1, 1), images)) == pytest.approx(2 * math.log(3))
    assert progressivity(seen(Residual([0.5, 0.5]), (3, 1, 1), images)) == pytest.approx(0, abs=1e-6)
    flat = torch.tensor([1.0, -1.0, 2.0, -2.0])[:, None, None, None].expand(4, 3, 1, 1).contiguous()
    assert expressivity(seen(Residual([0.5]), (3, 1, 1), flat)) == pytest.approx(0, abs=1e-4)


def test_progressivity_is_the_smallest_growth() -> None:
    """A projection on one channel between the second and third map loses all entropy."""
    images = torch.cat([torch.eye(3), -torch.eye(3)]).reshape(6, 3, 1, 1)
    network = Residual([0.5, 0.5, -1.0, 1.0])
    network.branches[2].weight.data[0, 0] = 0.0
    assert progressivity(seen(network, (3, 1, 1), images)) == pytest.approx(-math.log(3), abs=1e-4)


@pytest.mark.parametrize("in_place", [False, True])
def test_trainability_of_a_scaled_identity(in_place: bool) -> None:
    """Its Jacobian is 1.5 times the identity; random signs estimate that up to their own correlation."""
    found = trainability(seen(Residual([0.5, 0.5, 0.5], in_place), (3, 64, 64)))
    assert found == pytest.approx(2 - 1.5 - 1 / 1.5, abs=0.03)


def test_trainability_folds_positions_where_the_resolution_falls() -> None:
    """A 2 x 2 window with stride 2 that passes each position on to a channel of its own keeps gradients' size."""

    class Halving(Residual):
        def __init__(self) -> None:
            super().__init__([1.0])
            self.merge = nn.Conv2d(12, 12, 1, bias=False)
            self.merge.weight.data = 0.5 * torch.eye(12)[:, :, None, None]
            self.head = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = x + self.branches[0](x)
            merged = nn.functional.pixel_unshuffle(x, 2)
            x = self.merge(merged) + self.merge(merged)
            return self.head(x.mean(dim=(2, 3)))

    assert trainability(seen(Halving(), (3, 64, 64))) == pytest.approx(0, abs=0.03)


def test_rank_combination_over_a_population() -> None:
    parts = [[1.0, 2.0, 3.0, 4.0], [10.0, 40.0, 30.0, 20.0]]
    expected = [math.log(a / 4) + math.log(b / 4) for a, b in zip((1, 2, 3, 4), (1, 4, 3, 2), strict=True)]
    assert combine_ranks(parts) == pytest.approx(expected)
    with_failure = combine_ranks([[1.0, math.nan, 3.0], [1.0, 9.0, 5.0]])
    assert with_failure[[0, 2]] == pytest.approx([2 * math.log(1 / 2), 0])
    assert math.isnan(with_failure[1])
    assert combine_ranks([[5.0, 5.0]]) == pytest.approx([math.log(0.75)] * 2)


# -- circles ------------------------------------------------------------------------------------------------------


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.norm, self.head = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 1), nn.GroupNorm(1, 8), None

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(nn.functional.gelu(self.mix(self.stem(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x).mean(dim=(2, 3))


def test_circle_scores_are_the_measures() -> None:
    subject = ScoreSubject("features", Features, (3, 8, 8), lambda: OpGraph([], (3,)))
    length = length_distortion(Features, image_side=8, seed=2, repeats=3).value
    assert evaluate_score(subject, "length-distortion", seed=2, repeats=3) == pytest.approx(length)
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    condition = ntk_condition_number(Features, images_BCHW=images, seed=2, repeats=1).value
    assert evaluate_score(subject, "ntk", seed=2, repeats=1) == pytest.approx(-condition)


def test_norms_matter_to_the_variant_with_norms_alone() -> None:
    class Bare(Features):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.Identity()

    with_norm, bare = (
        ScoreSubject("features", build, (3, 8, 8), lambda: OpGraph([], (3,))) for build in (Features, Bare)
    )
    values = [evaluate_score(subject, "length-distortion", seed=0, repeats=1) for subject in (with_norm, bare)]
    variant = [evaluate_score(subject, "length-distortion-norms", seed=0, repeats=1) for subject in (with_norm, bare)]
    assert values[0] == values[1] == pytest.approx(variant[1])
    assert variant[0] > 2 * variant[1]
