"""What every choice costs by itself is the loss of the network with that choice alone changed."""

from __future__ import annotations

import pytest
import torch

from supernets.sensitivity import step_losses
from supernets.timm_models.compensation import Compensator
from tests.support.timm_networks import calibration_of, made

MODELS = (
    "vit_tiny_patch16_224?img_size=32&depth=3&embed_dim=48&num_heads=3",
    "swin_tiny_patch4_window7_224?img_size=56&depths=[1,1,1,1]&embed_dim=24",
)


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("variant", ["none", "prefix"])
def test_losses_are_those_of_the_networks(model: str, variant: str) -> None:
    supernet = made(model).eval()
    calibration, space = calibration_of(supernet), supernet.space
    make = Compensator(supernet, calibration.images_BCHW.repeat(4, 1, 1, 1)[:64], variant)
    losses = step_losses(supernet, make, calibration)
    assert [len(found) for found in losses] == space.cardinalities.tolist()
    whole = calibration.loss(supernet.network)
    for column, choice in enumerate(space.choices):
        genotype_1c = space.encode([space.largest])
        assert losses[column][-1] == pytest.approx(whole, rel=1e-5)
        genotype_1c[0, column] = 0
        network = make(space.decode(space.repair(genotype_1c))[0]).eval()
        assert losses[column][0] == pytest.approx(calibration.loss(network), rel=1e-4), choice.name
