"""Losses against their definitions, and in-place distillation's one-way gradient."""

from __future__ import annotations

import typing
from dataclasses import replace

import numpy as np
import pytest
import torch

from supernets.training.long_tail import effective_weights
from supernets.training.losses import (
    ImageTargets,
    Target,
    alpha_divergence_loss,
    distillation_loss,
    label_loss,
    supervised_loss,
    target_loss,
)

LOGITS_BK = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_loss_is_cross_entropy_with_smoothed_labels(smoothing: float) -> None:
    targets_BK = torch.full((2, 3), smoothing / 3)
    targets_BK[0, 2] += 1 - smoothing
    targets_BK[1, 0] += 1 - smoothing
    expected = -(targets_BK * LOGITS_BK.log_softmax(-1)).sum(-1).mean()
    assert torch.allclose(label_loss(LOGITS_BK, torch.tensor([2, 0]), smoothing), expected)


def test_distillation_loss_is_cross_entropy_with_the_teachers_outputs() -> None:
    teacher_BK = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.0, -2.0]])
    expected = -(teacher_BK.softmax(-1) * LOGITS_BK.log_softmax(-1)).sum(-1).mean()
    assert torch.allclose(distillation_loss(LOGITS_BK, teacher_BK), expected)


def test_no_gradient_reaches_the_teacher_and_an_equal_student_has_none_either() -> None:
    student = LOGITS_BK.clone().requires_grad_()
    teacher = LOGITS_BK.clone().requires_grad_()
    distillation_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert torch.allclose(student.grad, torch.zeros_like(student), atol=1e-7)
    distillation_loss(student, LOGITS_BK.flip(-1)).backward()
    assert float(student.grad.abs().max()) > 0.1


# -- hard teachers and weights of classes -----------------------------------------------------------------------------


def test_a_hard_teacher_is_learnt_by_the_class_that_it_says_weighted() -> None:
    teacher_BK, labels_B = torch.tensor([[0.3, 0.6, 0.1], [0.8, 0.1, 0.1]]), torch.tensor([2, 0])
    log_BK = LOGITS_BK.log_softmax(-1)
    on_labels = -(log_BK[0, 2] + log_BK[1, 0]) / 2
    targets = ImageTargets(labels_B, teacher_BK=teacher_BK, label_share=0.5, is_hard=True)
    even = -(log_BK[0, 1] + log_BK[1, 0]) / 2
    assert torch.allclose(supervised_loss(LOGITS_BK, targets, 0.0), (on_labels + even) / 2)
    weighted = replace(targets, weights_K=torch.tensor([3.0, 1.0, 7.0]))
    uneven = -(log_BK[0, 1] + 3 * log_BK[1, 0]) / 4
    assert torch.allclose(supervised_loss(LOGITS_BK, weighted, 0.0), (on_labels + uneven) / 2)
    alone = ImageTargets(labels_B, weights_K=torch.tensor([3.0, 1.0, 7.0]))
    assert torch.allclose(supervised_loss(LOGITS_BK, alone, 0.0), -(7 * log_BK[0, 2] + 3 * log_BK[1, 0]) / 10)


def test_effective_weights_are_those_of_the_formula() -> None:
    """(1 - b) / (1 - b^n) is 0.000254140, 0.002050317 and 0.020049042 for 5000, 500 and 50."""
    found = effective_weights(np.array([5000, 500, 50]))
    assert torch.allclose(found, torch.tensor([0.0341074, 0.2751672, 2.6907254]), rtol=1e-5)
    assert torch.equal(effective_weights(np.array([7, 7, 7])), torch.ones(3))


# -- adaptive alpha-divergence -----------------------------------------------------------------------------------------

STUDENT_BK = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
TARGET_BK = torch.tensor([[0.7, 0.2, 0.1], [0.98, 0.01, 0.01], [0.4, 0.3, 0.3]])
CHOSEN_B = (-1.38898, -3.23729, 3.01339)
"""Surrogates of ElasticViT's reference implementation: alpha -1 for two samples, alpha 1 for the last."""
GRADIENTS_BK = torch.tensor([[-0.1053, -0.1969, 0.3022], [-0.3452, 0.1726, 0.1726], [0.1956, -0.0978, -0.0978]])


def test_alpha_divergence_has_the_values_and_gradients_of_the_reference() -> None:
    student_BK = STUDENT_BK.clone().requires_grad_()
    loss = alpha_divergence_loss(student_BK, TARGET_BK)
    assert loss.item() == pytest.approx(-0.53763, abs=1e-5)
    loss.backward()
    assert student_BK.grad is not None
    assert torch.allclose(student_BK.grad, GRADIENTS_BK, atol=1e-4)
    for row, expected in enumerate(CHOSEN_B):
        single = alpha_divergence_loss(STUDENT_BK[row : row + 1], TARGET_BK[row : row + 1])
        assert single.item() == pytest.approx(expected, abs=1e-5)


def test_alpha_divergence_is_finite_where_probabilities_vanish() -> None:
    student_BK = torch.tensor([[200.0, 0.0, -200.0], [0.0, 1.0, 2.0]], requires_grad=True)
    target_BK = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], requires_grad=True)
    loss = alpha_divergence_loss(student_BK, target_BK)
    loss.backward()
    assert loss.isfinite()
    assert student_BK.grad is not None
    assert student_BK.grad.isfinite().all()
    assert target_BK.grad is None


def test_targets_of_a_step() -> None:
    labels_B = torch.tensor([0, 1, 2])
    earlier = [torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    mean_BK = (earlier[0].softmax(-1) + earlier[1].softmax(-1)) / 2
    on_labels = label_loss(STUDENT_BK, labels_B, 0.1)
    expected = {
        "labels": on_labels,
        "first": distillation_loss(STUDENT_BK, earlier[0]),
        "mean": alpha_divergence_loss(STUDENT_BK, mean_BK),
    }
    assert len({round(value.item(), 5) for value in expected.values()}) == 3
    for target in typing.get_args(Target):
        assert torch.allclose(
            target_loss(target, STUDENT_BK, ImageTargets(labels_B), earlier, 0.1, supervised_loss), expected[target]
        )
        assert torch.allclose(
            target_loss(target, STUDENT_BK, ImageTargets(labels_B), [], 0.1, supervised_loss), on_labels
        )
