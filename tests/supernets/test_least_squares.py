"""Ridge regression of linear layers against what is known of it."""

from __future__ import annotations

import pytest
import torch

from supernets.least_squares import DegenerateError, damped_factor, prefix_prediction, ridge_change


def _problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, a layer that explains what is wanted, and another one to begin with."""
    generator = torch.Generator().manual_seed(0)
    a_MI = torch.randn(300, 12, generator=generator, dtype=torch.float64) + 0.5
    draws = [torch.randn(5, width, generator=generator, dtype=torch.float64) for width in (12, 1, 12)]
    return a_MI, draws[0], draws[1][:, 0], draws[2]


@pytest.mark.parametrize("intercept", [True, False])
def test_what_is_linear_is_found_and_much_damping_changes_nothing(intercept: bool) -> None:
    a_MI, weight_OI, bias_O, before_OI = _problem()
    error_MO = a_MI @ (weight_OI - before_OI).T + (bias_O if intercept else 0)
    change_OI, change_O = ridge_change(a_MI, error_MO, 1e-12, intercept=intercept)
    assert torch.allclose(before_OI + change_OI, weight_OI, atol=1e-8)
    assert torch.allclose(change_O, bias_O if intercept else torch.zeros_like(bias_O), atol=1e-8)
    damped_OI, _ = ridge_change(a_MI, error_MO, 1e6, intercept=intercept)
    assert damped_OI.abs().max() < 1e-4


def test_the_change_is_that_of_the_closed_form() -> None:
    a_MI, weight_OI, bias_O, before_OI = _problem()
    wanted_MO = torch.tanh(a_MI @ weight_OI.T + bias_O)
    change_OI, change_O = ridge_change(a_MI, wanted_MO - a_MI @ before_OI.T, 0.1)
    a, y = a_MI - a_MI.mean(dim=0), wanted_MO - wanted_MO.mean(dim=0)
    gram_II = a.T @ a / len(a)
    damping = 0.1 * gram_II.trace() / 12
    damped_II = gram_II + damping * torch.eye(12, dtype=torch.float64)
    found_OI = (y.T @ a / len(a) + damping * before_OI) @ torch.linalg.inv(damped_II)
    assert torch.allclose(before_OI + change_OI, found_OI, atol=1e-12)
    assert torch.allclose(change_O, wanted_MO.mean(dim=0) - found_OI @ a_MI.mean(dim=0), atol=1e-12)


def test_one_factor_serves_every_number_of_kept_inputs() -> None:
    a_MI, *_ = _problem()
    gram_II = a_MI.T @ a_MI / len(a_MI)
    factor_II = damped_factor(gram_II)
    damped_II = factor_II @ factor_II.T
    for kept in range(1, 12):
        direct_CK = torch.linalg.solve(damped_II[:kept, :kept], damped_II[:kept, kept:]).T
        assert torch.allclose(prefix_prediction(factor_II, kept), direct_CK, atol=1e-10), kept


def test_inputs_that_never_change_move_the_bias_alone() -> None:
    change_OI, change_O = ridge_change(torch.ones(40, 3), torch.full((40, 2), 0.25))
    assert change_OI.abs().max() == 0
    assert torch.allclose(change_O, torch.full((2,), 0.25, dtype=torch.float64))


def test_numbers_that_are_not_finite_are_refused() -> None:
    a_MI, *_ = _problem()
    with pytest.raises(DegenerateError, match="not finite"):
        ridge_change(torch.full_like(a_MI, torch.inf), a_MI)
    with pytest.raises(DegenerateError, match="not finite"):
        ridge_change(a_MI, torch.full_like(a_MI, torch.nan))
