"""A teacher that is worse than chance or than its student is told of, and does not teach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nas.events import Notice
from nas.training import heeding
from supernets.data.image_data import ImageData
from supernets.data.sources import load_data
from supernets.training.distributed import ProcessGroup
from supernets.training.settings import TrainingSettings


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", 16)


@pytest.mark.parametrize(
    ("teacher", "student", "heeded", "said"),
    [
        (0.9, None, True, ""),
        (0.9, 0.8, True, ""),
        (0.79, 0.8, True, ""),  # as good, as far as so few images can tell
        (0.5, 0.8, False, "its student on 80.0%"),
        (0.1, None, False, "no more than chance"),
        (0.05, 0.02, False, "no more than chance"),
    ],
)
def test_whom_to_heed(teacher: float, student: float | None, heeded: bool, said: str, digits: ImageData) -> None:
    events: list[object] = []
    assert heeding.is_heeded(teacher, student, digits, events.append) is heeded
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert bool(texts) is not heeded
    assert all(said in text for text in texts)


@pytest.mark.parametrize("shift", [0, 1])
def test_a_named_teacher_of_classes_in_another_order(
    shift: int, digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[bytes, int] = {}
    for x_BCHW, labels_B in digits.batches("search", 64):
        known |= {x_CHW.numpy().tobytes(): label for x_CHW, label in zip(x_BCHW, labels_B.tolist(), strict=True)}

    def teacher(images_BCHW: Tensor) -> Tensor:
        classes = [(known[x_CHW.numpy().tobytes()] + shift) % 10 for x_CHW in images_BCHW]
        return torch.nn.functional.one_hot(torch.tensor(classes), 10).float()

    monkeypatch.setattr("supernets.training.targets.make_teacher", lambda *_: teacher)
    settings = TrainingSettings(teachers=("resnet18",), teacher_weights=("file",))
    events: list[object] = []
    group = ProcessGroup(device=torch.device("cpu"))
    training, found = heeding.named_teacher(settings, digits, group, events.append)
    assert (found is None) is bool(shift)
    assert training.teachers == (() if shift else ("resnet18",))
    assert bool(events) is bool(shift)
