"""Losses against their definitions, and in-place distillation's one-way gradient."""

from __future__ import annotations

import pytest
import torch

from supernets.losses import distillation_loss, label_loss

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
