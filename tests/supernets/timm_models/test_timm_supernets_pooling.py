"""What is promised of the networks inside timm models, of those that pool between stages: Swin V2 and PiT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from search_spaces import get_space
from search_spaces.timm_models import TimmSpace
from supernets import Supernet
from supernets.narrowing import make_narrowing
from supernets.networks.timm_subnet import build_subnet
from supernets.timm_models.chain import create
from supernets.timm_models.export import subnet_config, timm_state_dict
from supernets.timm_models.loading import load_timm_supernet
from tests.support.timm_networks import (
    TINY,
    check_borrowed_gradients,
    check_counts,
    check_extracted_is_active,
    check_largest_is_the_model,
    check_sorting,
    images,
    macs_without_constants,
    made,
    timm_space,
)

SWIN_V2 = "swinv2_tiny_window8_256?img_size=64&depths=[2,1,1]&embed_dim=48&num_heads=[3,6,12]"
FINER_WINDOWS = "swinv2_base_window12to16_192to256?img_size=64&depths=[1,2,1,1]&embed_dim=32&num_heads=[2,4,8,16]"
PIT = "pit_ti_224?img_size=64&base_dims=[16,16,16]&depth=[2,1,1]"
DISTILLED = "pit_ti_distilled_224?img_size=64&base_dims=[16,24,24]&heads=[2,4,8]&depth=[1,2,1]"
MODELS = {
    "cosine attention": SWIN_V2,
    "windows of other weights": FINER_WINDOWS,
    "pooling": PIT,
    "pooling, distillation token": DISTILLED,
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=list(MODELS))
def supernet(request: pytest.FixtureRequest) -> Supernet:
    """A supernet whose every tensor is away from its initial value."""
    return made(request.param)


def test_largest_network_is_the_model(supernet: Supernet) -> None:
    check_largest_is_the_model(supernet)


def test_extracted_is_active_and_is_what_timm_builds(supernet: Supernet) -> None:
    check_extracted_is_active(supernet)


@pytest.mark.slow
@pytest.mark.parametrize("model", [SWIN_V2, PIT])
def test_counts_are_those_of_the_module(model: str) -> None:
    check_counts(load_timm_supernet(model, classes=10))


def test_counts_are_those_of_the_module_with_two_blocks() -> None:
    supernet = load_timm_supernet("pit_ti_224?img_size=32&base_dims=[16,16]&heads=[2,4]&depth=[1,1]", classes=10)
    space = supernet.space
    values = {choice.name: choice.values[0] for choice in space.choices} | {"input.side": 32}
    architecture = space.from_values(values)
    extracted = supernet.extract(architecture).requires_grad_(False)
    graph = space.lower(architecture)
    assert graph.macs == macs_without_constants(extracted, images(supernet, 1))
    assert graph.params == sum(parameter.numel() for parameter in extracted.parameters())


@pytest.mark.parametrize("model", [SWIN_V2, DISTILLED])
def test_sorting_leaves_the_function_unchanged(model: str) -> None:
    check_sorting(model)


def test_gradients_go_back_through_resized_maps_of_positions() -> None:
    check_borrowed_gradients(load_timm_supernet(DISTILLED, classes=10))


def test_resized_maps_of_positions_are_those_of_the_interpolation() -> None:
    positions_1CHW = torch.randn(1, 8, 7, 7, generator=torch.Generator().manual_seed(3))
    narrowing = make_narrowing(
        ". embed side:resize side:resize", (1, 8, 7, 7), {"embed": 8, "side": 7}, {"embed": 4, "side": 5}
    )
    expected = F.interpolate(positions_1CHW, size=(5, 5), mode="bicubic", antialias=True)[:, :4]
    assert narrowing.shape == (1, 4, 5, 5)
    assert torch.allclose(narrowing.narrow(positions_1CHW), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        (". . side:resize other:resize", (1, 8, 7, 7), "expected three dimensions"),
        (". . side:resize side:resize", (1, 8, 7, 5), "the tensor has shape"),
        (". side:resize", (1, 7), "expected three dimensions"),
    ],
)
def test_other_positions_are_refused(axes: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_narrowing(axes, shape, {"side": 7, "other": 7}, {"side": 5, "other": 5})


def test_heads_of_swin_v2_follow_the_widths_of_its_stages() -> None:
    space = get_space(f"timm:{SWIN_V2}", 10)
    assert isinstance(space, TimmSpace)
    names = [choice.name for choice in space.choices]
    assert not any(name.endswith("heads") for name in names)
    for choice in space.choices:
        if choice.name.endswith("embed"):
            assert len(choice.values) > 1
            assert all(width % 16 == 0 for width in choice.values), choice
    assert sum(name.endswith("embed") for name in names) == 3
    assert any("number of heads: it follows the width" in reason for reason in space.outline.fixed)


@torch.no_grad()
def test_a_channel_of_pit_goes_with_all_that_it_becomes() -> None:
    """With the first half of the channels of the first stage comes the first half of the second's and the third's."""
    supernet = made(PIT)
    space = timm_space(supernet)
    values = {choice.name: choice.values[-1] for choice in space.choices}
    narrow = supernet.extract(space.from_values(values | {"embed": 16}))
    for number, width in enumerate((16, 32, 64)):
        block = narrow.get_submodule(f"transformers.{number}.blocks.0")
        assert block.norm1.weight.shape == (width,)  # type: ignore[union-attr]
    pool = narrow.get_submodule("transformers.2.pool")
    whole = supernet.network.get_submodule("transformers.2.pool")
    assert pool.conv.groups == 32  # type: ignore[union-attr]
    assert torch.equal(pool.conv.weight, whole.conv.weight[:64])  # type: ignore[union-attr, arg-type, index]
    assert torch.equal(pool.fc.weight, whole.fc.weight[:64, :32])  # type: ignore[union-attr, arg-type, index]
    assert any("width of later stages" in reason for reason in space.outline.fixed)


def test_sides_of_overlapping_patches_are_multiples_of_their_stride() -> None:
    assert get_space("timm:pit_b_224", 10).choices[0].values == (140, 168, 196, 224)


@torch.no_grad()
@pytest.mark.parametrize("model", [TINY, SWIN_V2, DISTILLED])
def test_rebuilt_networks_take_another_classifier(model: str) -> None:
    supernet = load_timm_supernet(model, classes=10)
    space = timm_space(supernet)
    extracted = supernet.extract(space.smallest).eval()
    weights = timm_state_dict(space, space.smallest, extracted)
    rebuilt = build_subnet(json.loads(json.dumps(subnet_config(space, space.smallest))), weights)
    rebuilt.reset_classifier(7)  # type: ignore[operator]
    prepared = supernet.family.prepare(images(supernet), int(extracted.input_side))  # type: ignore[arg-type]
    assert rebuilt(prepared).shape == (2, 7)


@torch.no_grad()
@pytest.mark.parametrize("model", [SWIN_V2, DISTILLED])
def test_weights_come_from_a_file(model: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(7)
    network = create(timm_space(load_timm_supernet(model, classes=5)).outline.reference, None, 5).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    same = load_timm_supernet(model, tmp_path / "model.safetensors", classes=5)
    assert torch.equal(same(images(same), same.space.largest), network(images(same)))
