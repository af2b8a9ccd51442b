"""Training through thin factors: what changes, by how much, and that a killed training goes on to the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from search_spaces import get_space
from supernets.checkpoint import load_supernet, read_checkpoint
from supernets.data.image_data import ImageData
from supernets.errors import TrainingError
from supernets.supernet import Supernet
from supernets.training.events import Callbacks
from supernets.training.losses import class_logits, label_loss
from supernets.training.low_rank import LowRank
from supernets.training.settings import TrainingSettings
from supernets.training.trainer import train_supernet

VIT = "timm:vit_tiny_patch16_224?img_size=32&patch_size=8&embed_dim=64&depth=2&num_heads=2"
RANK = 2
SETTINGS = TrainingSettings(
    epochs=2, batch_size=8, learning_rate=1e-2, policy="uniform", low_rank=RANK, checkpoint_every_seconds=0.0
)


def new_supernet(space: str) -> Supernet:
    return Supernet(get_space(space, 2), seed=1)


def weights_of(supernet: Supernet) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in supernet.named_parameters()}


@pytest.mark.parametrize("space", [VIT, "elastic-mini"])
def test_matrices_change_by_that_rank_and_the_rest_as_it_likes(space: str, data: ImageData, tmp_path: Path) -> None:
    supernet = new_supernet(space)
    before = weights_of(supernet)
    factors = {name.partition(":")[0] for name in LowRank(supernet, RANK, 0).trained if ":" in name}
    assert len(factors) >= 6
    train_supernet(supernet, data, SETTINGS, tmp_path)
    *_, (last, _) = supernet.space.blocks(supernet.space.largest)
    changed = 0
    for name, after in weights_of(supernet).items():
        change = (after - before[name]).reshape(len(after), -1)
        if name in factors:
            assert not name.startswith(f"network.{last}.")
            values = torch.linalg.svdvals(change.double())
            assert (values[RANK:] < 1e-5 * max(float(values[0]), 1e-3)).all(), name
        changed += bool(change.any())
    assert changed == len(before)


def test_factors_get_the_gradients_of_the_product() -> None:
    supernet = new_supernet(VIT).double().train()
    low_rank = LowRank(supernet, RANK, seed=3)
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        for name, factor in low_rank.trained.items():
            if name.endswith(":up"):
                factor.normal_(std=0.02)
    low_rank.apply()
    with supernet.borrow(supernet.space.largest) as subnet:
        label_loss(class_logits(subnet(images)), labels).backward()  # type: ignore[no-untyped-call]
    low_rank.project_gradients()
    found = {name: factor.grad for name, factor in low_rank.trained.items() if ":" in name}

    parts = {name: torch.nn.Parameter(tensor.detach().clone()) for name, tensor in low_rank.trained.items()}
    frozen = {name.removeprefix("low_rank/"): tensor for name, tensor in low_rank.state().items()}
    tensors = {}
    for name, shared in supernet.named_parameters():
        if name in parts:
            tensors[name] = parts[name]
            continue
        product = parts[f"{name}:up"] @ parts[f"{name}:down"]
        tensors[name] = (frozen[f"{name}:frozen"] + product).reshape(shared.shape)
    logits = functional_call(supernet, tensors, (images, supernet.space.largest))
    label_loss(class_logits(logits), labels).backward()  # type: ignore[no-untyped-call]
    for name, gradient in found.items():
        expected = parts[name].grad
        assert gradient is not None, name
        assert expected is not None, name
        assert torch.allclose(gradient, expected, atol=1e-12), name
    assert all(shared.grad is None for name, shared in supernet.named_parameters() if name not in parts)


def test_a_training_that_is_stopped_goes_on_to_the_same_bits(data: ImageData, tmp_path: Path) -> None:
    whole = new_supernet(VIT)
    result = train_supernet(whole, data, SETTINGS, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(progress: object) -> None:
        if getattr(progress, "step", 0) == 5:
            raise Stop

    with pytest.raises(Stop):
        train_supernet(new_supernet(VIT), data, SETTINGS, tmp_path / "run", callbacks=Callbacks(progress=stop))
    again = new_supernet(VIT)
    train_supernet(again, data, SETTINGS, tmp_path / "run", resume=True)
    found, expected = (read_checkpoint(tmp_path / name / "supernet.safetensors") for name in ("run", "whole"))
    assert found.metadata["step"] == result.steps == 6
    for left, right in ((found.weights, expected.weights), (found.optimizer, expected.optimizer)):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    loaded, _ = load_supernet(result.checkpoint)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_moments_are_those_of_the_factors(data: ImageData, tmp_path: Path) -> None:
    sizes = {}
    for rank in (0, RANK):
        settings = dataclasses.replace(SETTINGS, low_rank=rank, epochs=1)
        result = train_supernet(new_supernet(VIT), data, settings, tmp_path / str(rank))
        state = read_checkpoint(result.checkpoint).optimizer
        sizes[rank] = sum(tensor.numel() for name, tensor in state.items() if name.endswith("exp_avg"))
    assert sizes[RANK] < 0.25 * sizes[0]


@pytest.mark.parametrize(
    "changes", [{"sharpness": 0.05}, {"clipping": "adaptive"}, {"low_rank": -1}], ids=["sharpness", "clipping", "-1"]
)
def test_settings_that_do_not_go_together(changes: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match="setting `low_rank`: found"):
        dataclasses.replace(SETTINGS, **changes)


def test_policies_that_put_tensors_into_another_order_are_refused(data: ImageData, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, policy="multi-architecture")
    with pytest.raises(TrainingError, match="`multi-architecture` puts shared tensors into another order"):
        train_supernet(new_supernet("resnas-mini"), data, settings, tmp_path)
