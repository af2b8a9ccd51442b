"""Averages of checkpoints, and teachers of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from search_spaces import get_space
from supernets.errors import CheckpointError
from supernets.supernet import Supernet
from supernets.training.events import TrainingProgress
from supernets.training.network_teacher import NetworkTeacher
from supernets.training.soup import KEPT, Ingredient, Snapshots, greedy_soup

Weights = Mapping[str, Tensor]


def ingredient(value: float, accuracy: float) -> Ingredient:
    weights = {"w": torch.tensor([value]), "count": torch.tensor(7)}
    return Ingredient(f"at {value:g}", accuracy, lambda: weights)


def nearness(weights: Weights) -> float:
    """Best at 2."""
    return 1 - abs(float(weights["w"]) - 2) / 10


def test_an_average_takes_in_what_does_not_make_it_worse() -> None:
    values = (1.0, 3.0, 9.0, 2.0)
    soup = greedy_soup([ingredient(value, nearness({"w": torch.tensor(value)})) for value in values], nearness)
    # 2 is the best and 1 and 3 as good as each other: 1 alone would make it worse, and so would 3.
    assert soup.members == ("at 2",)
    soup = greedy_soup([ingredient(1.0, 0.9), ingredient(9.0, 0.3), ingredient(3.0, 0.9)], nearness)
    assert soup.members == ("at 1", "at 3")
    assert float(soup.weights["w"]) == pytest.approx(2.0)
    assert soup.accuracy == pytest.approx(1.0)
    assert int(soup.weights["count"]) == 7


def test_an_average_weighs_its_members_equally() -> None:
    soup = greedy_soup([ingredient(value, 0.5) for value in (1.0, 2.0, 6.0)], lambda weights: 0.5)
    assert float(soup.weights["w"]) == pytest.approx(3.0)


def test_equally_good_checkpoints_go_in_from_the_first_on() -> None:
    soup = greedy_soup([ingredient(1.0, 0.5), ingredient(5.0, 0.5)], lambda weights: 0.4)
    assert soup.members == ("at 1",)


def progress(step: int, total: int = 20) -> TrainingProgress:
    return TrainingProgress(step, total, 0.0, 0.0, 0.0, 0.0)


def test_the_best_late_checkpoints_are_kept(tmp_path: Path) -> None:
    supernet = Supernet(get_space("resnas-mini", 2))
    bias = supernet.network.get_parameter("head.classifier.bias")

    def judge(judged: Supernet) -> float:
        return (7 * int(bias[0]) % 10) / 10

    snapshots = Snapshots(tmp_path / "kept", judge)
    for step in range(1, 21):
        with torch.no_grad():
            bias.fill_(step)
        snapshots.follow(progress(step))
        assert snapshots.validate(supernet) == {"network": judge(supernet)}
    found = snapshots.ingredients()
    best = sorted(range(10, 21), key=lambda step: (-(7 * step % 10), step))[:KEPT]
    assert [one.name for one in found] == [f"step {step}" for step in sorted(best)]
    for one in found:
        step = int(one.name.removeprefix("step "))
        assert one.accuracy == (7 * step % 10) / 10
        assert float(one.load()["network.head.classifier.bias"][0]) == step


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "step-000000004.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"step-000000004\.safetensors` is damaged"):
        Snapshots(tmp_path, lambda _: 0.0).ingredients()


def test_a_teacher_of_ours_gives_sharpened_probabilities_without_gradients() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    teach = NetworkTeacher(network, temperature=0.5)
    images = torch.randn(4, 3, 2, 2, requires_grad=True)
    found = teach(images)
    assert not found.requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert torch.allclose(found, (2 * network(images)).softmax(-1))
