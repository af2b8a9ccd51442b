"""Accuracy beside what it means: class by class, balanced, and that of always saying the commonest class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.cli.search import baseline_lines
from nas.evaluation.accuracy import accuracy_of, guessed, judge
from nas.evaluation.evaluators import BalancedEvaluator, SupernetEvaluator
from search_spaces import get_space
from supernets.data.image_data import Division, LoadOptions
from supernets.data.memory_images import AffineRanges, MemoryData
from supernets.supernet import Supernet

COMMON, RARE = 20, 1


def network(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Always says the first of two classes."""
    return torch.tensor([[1.0, 0.0]]).expand(len(x_BCHW), 2)


def batches(labels: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.zeros(len(part), 3, 4, 4), torch.tensor(part)) for part in (labels[:5], labels[5:]) if part]


def test_a_network_that_says_the_commonest_class_is_found_out() -> None:
    judged = judge(network, batches([0] * COMMON + [1] * RARE), ("common", "rare"))
    assert judged.accuracy == COMMON / (COMMON + RARE)
    assert judged.balanced_accuracy == 0.5
    assert judged.commonest == ("common", COMMON / (COMMON + RARE))
    assert judged.is_uneven
    facts = judged.to_dict("test")
    assert facts["test_by_class"] == {
        "common": {"images": COMMON, "accuracy": 1.0},
        "rare": {"images": RARE, "accuracy": 0.0},
    }
    lines = "\n".join(baseline_lines(facts))
    assert "balanced accuracy 50.00%; always saying `common` would be right on 95.24%" in lines
    assert "warning: classes are uneven, so look at each class; least accurate: `rare` 0% of 1, `common` 100%" in lines
    assert "warning: the network is no better than always saying the commonest class" in lines


def test_even_classes_are_no_warning() -> None:
    whole = [(torch.zeros(5, 3, 4, 4), torch.tensor([0, 0, 0, 1, 1]))]
    facts = judge(lambda x_BCHW: torch.eye(2)[whole[0][1]], whole, ("a", "b")).to_dict("test")
    assert (facts["test_accuracy"], facts["test_is_uneven"], facts["test_images"]) == (1.0, False, 5)
    assert not any("warning" in line for line in baseline_lines(facts))
    assert baseline_lines({"test_accuracy": 0.5}) == []


def test_classes_are_grouped_by_their_training_images() -> None:
    judged = judge(network, batches([0] * COMMON + [1] * RARE), ("common", "rare"))
    for counts, groups in {(1010, 20): ("many", "some"), (220, 19): ("many", "few"), (100, 9): ("some", "few")}.items():
        found = judged.to_dict("test", counts)["test_by_frequency"]
        assert found == {
            name: {"classes": 1, "accuracy": right} for name, right in zip(groups, (1.0, 0.0), strict=True)
        }
    assert judged.by_frequency((500, 101)) == {"many": {"classes": 2, "accuracy": 0.5}}
    assert "test_by_frequency" not in judged.to_dict("test", (500, 101))


def test_classes_without_images_do_not_count() -> None:
    judged = judge(network, batches([1, 1]), ("a", "b"))
    assert (judged.accuracy, judged.balanced_accuracy, judged.is_uneven) == (0.0, 0.0, False)
    assert list(judged.to_dict("x")["x_by_class"]) == ["b"]


@pytest.mark.parametrize(("common", "rare", "is_uneven"), [(10, 1, False), (11, 1, True), (30, 3, False)])
def test_more_than_ten_times_as_many_is_uneven(common: int, rare: int, is_uneven: bool) -> None:
    assert judge(network, batches([0] * common + [1] * rare), ("a", "b")).is_uneven is is_uneven


def few(labels: list[int], side: int) -> MemoryData:
    """Random images: two to train on, the others to search by, the second half of all to test on."""
    found, half = torch.tensor(labels), len(labels) // 2
    parts = {"train": np.arange(2), "search": np.arange(2, len(labels)), "test": np.arange(half, len(labels))}
    noise_N1HW = torch.randint(256, (len(labels), 1, side, side), generator=torch.Generator().manual_seed(0)).byte()
    division = Division(parts, "")  # type: ignore[arg-type]
    return MemoryData("x", ("a", "b"), division, noise_N1HW, found, LoadOptions(side), AffineRanges())


def test_networks_are_judged_by_every_class_alike_where_that_is_asked() -> None:
    """Accuracy stands beside it; where classes are even, records of accuracy are what they were."""
    supernet, even = Supernet(get_space("elastic-mini", 2)), few([0, 1] * 6, 32)
    uneven, smallest = few([0, 1] + [0] * 24 + [1] * 2, 32), supernet.space.smallest
    accuracy, balanced = (
        make(supernet, uneven).evaluate(smallest, 0) for make in (SupernetEvaluator, BalancedEvaluator)
    )
    assert accuracy.objective == balanced.scores["accuracy"]
    assert balanced.objective == accuracy.scores["balanced_accuracy"]
    assert balanced.objective in (0.5, *(count / 48 for count in range(49)))
    assert SupernetEvaluator(supernet, even).evaluate(smallest, 0).scores.keys() == {"cross_entropy"}


def test_the_commonest_class_of_a_part() -> None:
    data = few([0, 0, 0, 1, 0, 1], 4)
    assert guessed(data, "search") == 0.5
    assert guessed(data, "test") == 2 / 3
    assert accuracy_of(network, data, "test", "cpu") == 1 / 3
