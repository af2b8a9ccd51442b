"""Gradients at the worst point nearby."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from search_spaces import SingleSpace, get_space
from supernets.data.sources import load_data
from supernets.errors import TrainingError
from supernets.sampling import get_policy
from supernets.supernet import Supernet
from supernets.training.distributed import ProcessGroup
from supernets.training.losses import label_loss
from supernets.training.settings import TrainingSettings
from supernets.training.sharpness import uphill
from supernets.training.step import StepContext, TrainStep

SETTINGS = TrainingSettings(policy="uniform", batch_size=8, clipping="none", learning_rate=1e-12, sharpness=0.05)


def test_parameters_stand_uphill_and_come_back() -> None:
    first, second = torch.nn.Parameter(torch.tensor([1.0, 2.0])), torch.nn.Parameter(torch.tensor([3.0]))
    left_alone = torch.nn.Parameter(torch.tensor([5.0]))
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([-4.0])
    with uphill([first, second, left_alone], 0.5):
        assert torch.allclose(first, torch.tensor([1.3, 2.0]))
        assert torch.allclose(second, torch.tensor([2.6]))
        assert left_alone.item() == 5.0
    assert (first.tolist(), second.tolist()) == ([1.0, 2.0], [3.0])


def test_a_step_takes_the_gradient_uphill() -> None:
    space = get_space("asvit-mini", 10)
    single = SingleSpace(space, space.smallest)
    supernet = Supernet(single).double().train()
    images, labels = next(load_data("digits", 32).train_batches(8, 0, 0))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    sampler = get_policy("uniform").begin(single, 0, 8)
    step = TrainStep(supernet, SETTINGS, ProcessGroup(), Path("nowhere"))
    step.run(StepContext(number=0, progress=0.0, rate=1.0, patch_stride=1), (images, labels), sampler)
    found = {
        name: parameter.grad.clone() for name, parameter in supernet.named_parameters() if parameter.grad is not None
    }
    after = supernet.state_dict()
    assert all(torch.allclose(after[name], tensor, atol=1e-10) for name, tensor in before.items())

    def gradients() -> dict[str, torch.Tensor]:
        supernet.zero_grad()
        label_loss(supernet(images.double(), space.smallest), labels, SETTINGS.label_smoothing).backward()  # type: ignore[no-untyped-call]
        return {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}

    supernet.load_state_dict(before)
    here = gradients()
    norm = torch.sqrt(sum((gradient**2).sum() for gradient in here.values()))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            parameter.add_(0.05 * here[name] / norm)
    there = gradients()
    assert max(float((found[name] - there[name]).abs().max()) for name in there) < 1e-9
    assert max(float((here[name] - there[name]).abs().max()) for name in there) > 1e-4


def test_scaled_gradients_are_refused() -> None:
    with pytest.raises(TrainingError, match="`sharpness` needs gradients that are not scaled"):
        TrainingSettings(sharpness=0.05, precision="fp16")
    with pytest.raises(TrainingError, match="`sharpness`: found -1"):
        TrainingSettings(sharpness=-1)
