"""Layer-wise decay of the learning rate: timm's own groups for its models, one layer per block for ours."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from search_spaces import get_space
from supernets.data.sources import load_data
from supernets.errors import TrainingError
from supernets.supernet import Supernet
from supernets.training.events import Callbacks, TrainingProgress
from supernets.training.optimizer import make_optimizer, set_learning_rate
from supernets.training.settings import TrainingSettings
from supernets.training.trainer import train_supernet

SETTINGS = TrainingSettings(
    epochs=1, batch_size=512, learning_rate=0.01, layer_decay=0.7, policy="uniform", checkpoint_every_seconds=0.0
)


def rates_of(supernet: Supernet, settings: TrainingSettings = SETTINGS) -> dict[str, float]:
    """The learning rate of each shared tensor at the peak."""
    optimizer = make_optimizer(supernet, settings)
    set_learning_rate(optimizer, settings.learning_rate)
    names = {id(parameter): name for name, parameter in supernet.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_rates_of_a_vision_transformer_are_those_of_timm() -> None:
    supernet = Supernet(get_space("timm:vit_tiny_patch16_224?img_size=32", 10))
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    theirs = {
        (names[id(parameter)], group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.7)
        for parameter in group["params"]
    }
    optimizer = make_optimizer(supernet, SETTINGS)
    own_names = {id(parameter): name for name, parameter in supernet.named_parameters()}
    ours = {
        (
            own_names[id(parameter)].removeprefix("network.").removeprefix("stem.").removeprefix("head."),
            group["lr_scale"],
            group["weight_decay"],
        )
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert ours == theirs
    assert {scale for _, scale, _ in ours} == {0.7**number for number in range(14)}


def test_rates_of_a_space_of_ours_fall_towards_the_stem() -> None:
    supernet = Supernet(get_space("elastic-mini", 10))
    rates = rates_of(supernet)
    assert rates.keys() == dict(supernet.named_parameters()).keys()
    by_block: dict[str, set[float]] = defaultdict(set)
    blocks = [name for name, _ in supernet.space.blocks(supernet.space.largest)]
    for name, rate in rates.items():
        (block,) = (block for block in blocks if name.startswith(f"network.{block}."))
        by_block[block].add(rate)
    assert [len(found) for found in by_block.values()] == [1] * len(blocks)
    own = [found for block in blocks for found in by_block[block]]
    assert own == pytest.approx([0.01 * 0.7**distance for distance in reversed(range(len(blocks)))])
    assert own[-1] == 0.01


def test_without_decay_there_is_one_rate_and_the_two_groups_of_weight_decay() -> None:
    supernet = Supernet(get_space("elastic-mini", 10))
    settings = dataclasses.replace(SETTINGS, layer_decay=1.0)
    assert set(rates_of(supernet, settings).values()) == {0.01}
    assert [group["weight_decay"] for group in make_optimizer(supernet, settings).param_groups] == [0.05, 0.0]


def test_a_training_that_is_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def stop(progress: TrainingProgress) -> None:
        if progress.step == 1:
            raise KeyboardInterrupt

    data, space = load_data("digits", 32), get_space("elastic-mini", 10)
    whole, torn, plain = (Supernet(space) for _ in range(3))
    train_supernet(whole, data, SETTINGS, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_supernet(Supernet(space), data, SETTINGS, tmp_path / "torn", callbacks=Callbacks(progress=stop))
    train_supernet(torn, data, SETTINGS, tmp_path / "torn", resume=True)
    train_supernet(plain, data, dataclasses.replace(SETTINGS, layer_decay=1.0), tmp_path / "plain")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, torn.state_dict()[name]), name
    assert not torch.equal(next(whole.parameters()), next(plain.parameters()))
    with pytest.raises(TrainingError, match=r"setting `layer_decay`: found 1\.0, but the training in"):
        train_supernet(plain, data, dataclasses.replace(SETTINGS, layer_decay=1.0), tmp_path / "torn", resume=True)


@pytest.mark.parametrize("value", [0.0, 1.1, -0.5])
def test_what_is_no_decay_is_refused(value: float) -> None:
    with pytest.raises(TrainingError, match=r"setting `layer_decay`: found .*, expected more than 0, and 1 at most"):
        dataclasses.replace(SETTINGS, layer_decay=value)
