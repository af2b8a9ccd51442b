"""Closed-form cases of the length distortion, and forward mode against the reverse-mode definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nas.scores.features import remove_norms
from nas.scores.length_distortion import circle_length, length_distortion, random_circle
from search_spaces import get_space
from supernets import build_network

SIDE = 8


@pytest.fixture
def circle() -> torch.Tensor:
    return random_circle(3 * SIDE * SIDE, 0)


def test_identity_has_length_ten(circle: torch.Tensor) -> None:
    assert circle_length(lambda x: x.flatten(1), circle, SIDE) == pytest.approx(10, rel=1e-5)


def test_one_linear_output(circle: torch.Tensor) -> None:
    weights = torch.randn(3 * SIDE * SIDE)
    angles = torch.linspace(0, 2 * math.pi, 10)
    expected = (-angles.sin() * (circle[0] @ weights) + angles.cos() * (circle[1] @ weights)).abs().sum()
    assert circle_length(lambda x: x.flatten(1) @ weights[:, None], circle, SIDE) == pytest.approx(
        float(expected), rel=1e-4
    )


def test_forward_mode_equals_one_backward_pass_per_feature() -> None:
    space = get_space("elastic-mini")
    torch.manual_seed(0)
    network = build_network(space, space.smallest)
    remove_norms(network)
    side = space.smallest["input.side"]
    circle = random_circle(3 * side * side, 0)

    def features(x: torch.Tensor) -> torch.Tensor:
        return network.forward_features(x).mean(dim=(2, 3))

    expected = 0.0
    for angle in torch.linspace(0, 2 * math.pi, 10):
        theta = angle.clone().requires_grad_()
        image = (theta.cos() * circle[0] + theta.sin() * circle[1]).reshape(1, 3, side, side)
        rows = [torch.autograd.grad(value, theta, retain_graph=True)[0] for value in features(image)[0]]
        expected += float(torch.stack(rows).norm())
    assert circle_length(features, circle, side) == pytest.approx(expected, rel=1e-5)


def test_same_seed_same_value_and_global_random_state_untouched() -> None:
    space = get_space("elastic-mini")
    state = torch.get_rng_state()
    first, second = (
        length_distortion(lambda: build_network(space, space.smallest), image_side=16, seed=3, repeats=2)
        for _ in range(2)
    )
    assert first == second
    assert first.repeats[0] != first.repeats[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_norms_are_removed() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(1, 4)))
    remove_norms(network)
    assert [type(layer) for layer in network.modules() if not list(layer.children())] == [
        nn.Conv2d,
        nn.Identity,
        nn.Identity,
    ]
