"""What several labels are judged and learned by: values by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.evaluation.label_judgement import LabelJudgement
from supernets.label_metrics import areas_under_roc, average_precisions, mean_average_precision
from supernets.probing import fit_classifier
from supernets.training.losses import ImageTargets, label_loss, supervised_loss


def test_values_by_hand() -> None:
    """Right at ranks 1 and 3: (1/1 + 2/3) / 2; two of three pairs, and then one, are in order."""
    scores_NK = torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    labels_NK = torch.tensor([[1], [0], [1], [0]])
    assert average_precisions(scores_NK, labels_NK) == [pytest.approx(5 / 6)]
    assert areas_under_roc(scores_NK, labels_NK) == [0.75]


def test_equal_scores_share_a_threshold_and_empty_classes_count_for_nothing() -> None:
    scores_NK, labels_NK = torch.zeros(4, 3), torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    assert average_precisions(scores_NK, labels_NK) == [0.25, None, 1.0]
    assert areas_under_roc(scores_NK, labels_NK) == [0.5, None, None]
    assert mean_average_precision(scores_NK, labels_NK) == 0.625
    judged = LabelJudgement.of(("a", "b", "c"), scores_NK, labels_NK)
    assert (judged.value, judged.prior, judged.beside, judged.count) == (0.625, 0.625, 0.5, 4)
    told = judged.to_dict("test", (3, 0, 9))
    assert told["test_by_label"]["b"] == {"prior": 0.0, "average_precision": None, "auroc": None, "training_images": 0}


def test_the_loss_of_several_labels_is_the_mean_binary_cross_entropy() -> None:
    logits_BK, labels_BK = torch.tensor([[0.0, 2.0]]), torch.tensor([[1, 0]])
    expected = (np.log(2) + np.log1p(np.exp(2))) / 2
    assert float(label_loss(logits_BK, labels_BK)) == pytest.approx(expected, rel=1e-6)
    assert float(supervised_loss(logits_BK, ImageTargets(labels_BK), 0.0)) == pytest.approx(expected, rel=1e-6)
    smoothed = float(label_loss(logits_BK, labels_BK, 0.2))
    assert smoothed == pytest.approx((np.log(2) + 0.9 * np.log1p(np.exp(2)) + 0.1 * np.log1p(np.exp(-2))) / 2, rel=1e-6)
    taught = ImageTargets(labels_BK, teacher_BK=torch.tensor([[0.5, 0.5]]), label_share=0.0)
    assert float(supervised_loss(logits_BK, taught, 0.0)) == pytest.approx((np.log(2) + np.log1p(np.exp(2)) - 1) / 2)


def test_a_fitted_classifier_tells_several_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    features_ND = torch.randn(200, 3, generator=generator)
    labels_NK = (features_ND[:, :2] > 0).long()
    fitted = fit_classifier(features_ND, labels_NK, 2)
    assert fitted.accuracy(features_ND, labels_NK) > 0.999
    assert float((fitted.outputs(features_ND) > 0).eq(labels_NK > 0).float().mean()) > 0.98
