"""Compensation of sliced networks: nothing changes where nothing is lost, and what can be made up for is."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from search_spaces import Architecture
from supernets import Supernet
from supernets.errors import DataError
from supernets.least_squares import DegenerateError
from supernets.timm_models import calibration_rows, compensation
from supernets.timm_models.branches import WRITERS
from supernets.timm_models.compensation import NONE, PREFIX, SEQUENTIAL, Compensator
from tests.support.timm_networks import images, made, timm_space

PLAIN = "vit_tiny_patch16_224?img_size=32&depth=3&embed_dim=48&num_heads=3"
MODELS = {
    "class token": PLAIN,
    "layer scale, registers": "vit_small_patch14_reg4_dinov2?img_size=28&depth=2&embed_dim=48&num_heads=3",
    "attention pooling": "vit_base_patch16_siglip_224?img_size=32&depth=2&embed_dim=48&num_heads=3",
    "distillation token": "deit_tiny_distilled_patch16_224?img_size=32&depth=2&embed_dim=48",
    "norms behind": "vit_relpos_small_patch16_rpn_224?img_size=32&depth=2&embed_dim=48&num_heads=3",
    "rotary positions, gated": "eva02_tiny_patch14_224?img_size=28&depth=2",
    "gated behind a norm": "vitamin_small_224?img_size=32&depth=2",
    "relative positions": "beit_base_patch16_224?img_size=32&depth=2&embed_dim=48&num_heads=3",
    "talking heads": "cait_xxs24_224?img_size=32&depth=2&embed_dim=48",
    "windows, stages": "swin_tiny_patch4_window7_224?img_size=56&depths=[1,1,2,1]&embed_dim=24",
    "cosine attention": "swinv2_tiny_window8_256?img_size=64&window_size=4&depths=[1,1,2,1]&embed_dim=24",
}


def _sliced(supernet: Supernet, **smallest: bool) -> Architecture:
    """The largest network but for the choices whose names end so, which are at their second size, or their least."""
    space = timm_space(supernet)
    values = {choice.name: choice.values[-1] for choice in space.choices}
    for choice in space.choices:
        kind = choice.name.rpartition(".")[2]
        if kind in smallest:
            values[choice.name] = choice.values[0 if smallest[kind] else len(choice.values) // 2]
    genotypes = space.encode([Architecture(space.name, space.version, tuple(values.items()))])
    return space.decode(space.repair(genotypes))[0]


@torch.no_grad()
def _error(compensator: Compensator, architecture: Architecture, supernet: Supernet, x_BCHW: Tensor) -> float:
    wanted_BK = supernet(x_BCHW, supernet.space.largest)
    return float((compensator(architecture)(x_BCHW) - wanted_BK).square().mean())


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_sliced_networks_come_closer_to_the_whole_one(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    supernet = made(model)
    monkeypatch.setattr(calibration_rows, "ROWS_PER_INPUT", 0)  # the classifier is solved on these few images as well
    x_BCHW = images(supernet, 64)
    architecture = _sliced(supernet, embed=False, heads=False, hidden=False, depth=True)
    errors = {
        variant: _error(Compensator(supernet, x_BCHW, variant), architecture, supernet, x_BCHW)
        for variant in (NONE, SEQUENTIAL)
    }
    assert errors[SEQUENTIAL] < errors[NONE] / 2
    hidden = _sliced(supernet, hidden=True)
    errors = {
        variant: _error(Compensator(supernet, x_BCHW, variant), hidden, supernet, x_BCHW)
        for variant in (NONE, PREFIX, SEQUENTIAL)
    }
    assert errors[SEQUENTIAL] <= errors[PREFIX] <= errors[NONE]


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
@torch.no_grad()
def test_blocks_in_front_of_the_first_cut_are_kept(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are solved as well where their being whole goes unnoticed, and nothing is found to change."""
    supernet = made(model)
    space = timm_space(supernet)
    compensator = Compensator(supernet, images(supernet, 32))
    assert compensator(space.largest).state_dict().keys() == supernet.network.state_dict().keys()
    values = {**dict(space.largest.settings)}
    last = [choice for choice in space.choices if choice.name.endswith(".hidden")][-1]
    values[last.name] = last.values[0]
    monkeypatch.setattr(compensation, "_next", lambda names, name: "noticed nowhere")
    network = compensator(space.from_values(values))
    before, after = supernet.network.state_dict(), network.state_dict()
    cut = last.name.removesuffix("hidden")
    solved = [name for name in after if name.endswith("weight") and not name.startswith((cut, "stem.", "head."))]
    changes = {name: (after[name] - before[name]) * _scale(before, name) for name in solved}
    assert len(solved) > 4
    assert max(float(change.abs().max()) for change in changes.values()) < 1e-5


def _scale(state: dict[str, Tensor], name: str) -> Tensor:
    """What a block scales the outputs of a layer by: rounding errors of the stream count for more in front of it."""
    for branch, scales in compensation.SCALES.items():
        block = re.sub(rf"{branch}\.({'|'.join(WRITERS)})\.weight$", "", name)
        for scale in scales if block != name else ():
            if f"{block}{scale}" in state:
                return state[f"{block}{scale}"][:, None]
    return torch.ones(())


@pytest.mark.parametrize("variant", [SEQUENTIAL, PREFIX])
@torch.no_grad()
def test_units_that_follow_from_kept_ones_cost_nothing(variant: str) -> None:
    supernet = made(PLAIN)
    for number in range(3):
        rows = supernet.network.get_submodule(f"blocks.{number}.mlp.fc1")
        for tensor in (rows.weight, rows.bias):
            tensor[48:] = tensor[:48].repeat(3, *[1] * (tensor.ndim - 1))  # type: ignore[index, operator, union-attr]
    x_BCHW = images(supernet, 64)
    compensator = Compensator(supernet, x_BCHW, variant, alpha=1e-9)
    architecture = _sliced(supernet, hidden=True)
    wanted_BK, found_BK = supernet(x_BCHW, supernet.space.largest), compensator(architecture)(x_BCHW)
    assert torch.allclose(found_BK, wanted_BK, atol=1e-4)
    assert not torch.allclose(supernet(x_BCHW, architecture), wanted_BK, atol=1e-2)


def test_a_classifier_is_not_solved_on_few_images() -> None:
    """It sees one row of an image: with fewer than four images per input it would learn them by heart."""
    supernet = made(PLAIN)
    architecture = _sliced(supernet, hidden=True)
    before = supernet.extract(architecture).state_dict()
    for count, stays in ((191, True), (192, False)):
        after = Compensator(supernet, images(supernet, count))(architecture).state_dict()
        assert torch.equal(after["head.head.weight"], before["head.head.weight"]) is stays
        assert not torch.equal(after["blocks.0.mlp.fc2.weight"], before["blocks.0.mlp.fc2.weight"])


@torch.no_grad()
def test_what_is_remembered_of_first_blocks_changes_no_bit() -> None:
    supernet = made(PLAIN)
    x_BCHW = images(supernet, 32)
    compensator = Compensator(supernet, x_BCHW)
    first = _sliced(supernet, hidden=True)
    second = timm_space(supernet).from_values({**dict(first.settings), "blocks.2.hidden": 96})
    compensator(first)
    again, fresh = compensator(second), Compensator(supernet, x_BCHW)(second)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in fresh.state_dict().items())


def test_families_of_convolutions_stay_as_they_are() -> None:
    supernet = made("levit_128s?img_size=64")
    compensator = Compensator(supernet, images(supernet, 32))
    assert compensator.variant == NONE


def test_too_few_images_and_numbers_that_are_not_finite_are_refused() -> None:
    supernet = made(PLAIN)
    with pytest.raises(DataError, match="compensation on 31 images, expected 32 or more"):
        Compensator(supernet, images(supernet, 31))
    with torch.no_grad():
        supernet.network.get_submodule("blocks.1.mlp.fc1").weight[0, 0] = torch.inf  # type: ignore[index, union-attr]
    for variant in (SEQUENTIAL, PREFIX):
        compensator = Compensator(supernet, images(supernet, 32), variant)
        with pytest.raises(DegenerateError, match=r"block `blocks\.1`: .* not finite"):
            compensator(_sliced(supernet, hidden=True))
