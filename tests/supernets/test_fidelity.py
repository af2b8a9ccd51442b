"""Fidelity by hand, components, and a last layer that is solved anew."""

from __future__ import annotations

import pytest
import torch

from supernets.errors import DataError
from supernets.fidelity import components_for, fidelity, principal_components, refitted
from supernets.probing import FittedClassifier


def drawn(images: int, features: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(images, features, generator=torch.Generator().manual_seed(seed))


def test_components_are_orthonormal_centred_and_descend() -> None:
    features_ND = drawn(200, 12) * torch.arange(12, 0, -1) + 5
    told = principal_components(features_ND, 8)
    assert torch.allclose(told.weight_KD @ told.weight_KD.T, torch.eye(8), atol=1e-5)
    outputs_NK = told.outputs(features_ND)
    assert float(outputs_NK.mean(dim=0).abs().max()) < 1e-4
    variances = outputs_NK.var(dim=0)
    assert (variances.diff() < 0).all()
    assert torch.equal(principal_components(features_ND, 8).weight_KD, told.weight_KD)
    assert [components_for(*sizes) for sizes in ((10_000, 384), (10_000, 48), (100, 384))] == [192, 48, 25]


def test_features_that_say_nothing_are_refused() -> None:
    for features_ND in (torch.ones(40, 6), torch.full((40, 6), torch.nan)):
        with pytest.raises(DataError, match="not finite, or the same for all images"):
            principal_components(features_ND, 4)


def test_what_is_linear_in_features_is_found_again_and_noise_is_not() -> None:
    """A last layer that is wrong costs nothing, since it is fitted anew; features of something else do."""
    whole_ND = drawn(400, 16)
    wanted_NK = principal_components(whole_ND, 8).outputs(whole_ND)
    mixed_ND = whole_ND @ drawn(16, 16, seed=1)
    wrong_NK = drawn(400, 8, seed=2)
    assert fidelity(whole_ND, wanted_NK, wanted_NK) == pytest.approx(1, abs=1e-6)
    assert fidelity(mixed_ND, 0 * wrong_NK, wanted_NK, alpha=1e-9) > 0.999
    assert abs(fidelity(drawn(400, 16, seed=3), 0 * wrong_NK, wanted_NK)) < 0.2
    half = fidelity(whole_ND[:, :8], 0 * wrong_NK, wanted_NK)
    assert 0.3 < half < 0.95


def test_a_last_layer_is_solved_for_what_is_wanted() -> None:
    features_ND, weight_KD = drawn(300, 10), drawn(4, 10, seed=1)
    wanted_NK = features_ND @ weight_KD.T + 3
    found = refitted(FittedClassifier(torch.zeros(4, 10), torch.zeros(4), 0, 0), features_ND, wanted_NK, alpha=1e-8)
    assert torch.allclose(found.weight_KD, weight_KD, atol=1e-4)
    assert torch.allclose(found.bias_K, torch.full((4,), 3.0), atol=1e-4)
