"""What is promised of the networks inside timm models, on small models of every family that has an adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from search_spaces import Op, UnknownNameError, find_architecture, get_space
from search_spaces.timm_models import TimmModelError, TimmSpace, spread_order
from search_spaces.timm_models_ops import SizedOps
from supernets import CheckpointError, Supernet
from supernets.positions import resize_positions
from supernets.timm_models.chain import create
from supernets.timm_models.loading import load_timm_supernet
from tests.support.timm_networks import (
    TINY,
    check_borrowed_gradients,
    check_counts,
    check_extracted_is_active,
    check_largest_is_the_model,
    images,
    timm_space,
)

MODELS = {
    "class token": TINY,
    "distillation token": "deit_tiny_distilled_patch16_224?img_size=32&depth=2&embed_dim=48",
    "registers, layer scale": "vit_small_patch14_reg4_dinov2?img_size=28&depth=2&embed_dim=48&num_heads=3",
    "attention pooling": "vit_base_patch16_siglip_224?img_size=32&depth=2&embed_dim=48&num_heads=3",
    "rotary positions, gated": "eva02_tiny_patch14_224?img_size=28&depth=2",
    "relative positions": "beit_base_patch16_224?img_size=32&depth=2&embed_dim=48&num_heads=3",
    "talking heads": "cait_xxs24_224?img_size=32&depth=2&embed_dim=48",
    "channel attention": "xcit_nano_12_p16_224?img_size=32&depth=2",
    "windows, stages": "swin_tiny_patch4_window7_224?img_size=56&depths=[1,1,2,1]&embed_dim=24",
}
PLAIN = [
    name.partition("?")[0]
    for kind, name in MODELS.items()
    if kind not in ("attention pooling", "channel attention", "windows, stages")
]
"""What timm can build with half of the blocks and of the hidden units; the others have more hidden units elsewhere."""
COUNTED = [
    pytest.param(name, id=kind, marks=() if kind == "registers, layer scale" else pytest.mark.slow)
    for kind, name in MODELS.items()
]


@pytest.fixture(scope="module", params=MODELS.values(), ids=list(MODELS))
def supernet(request: pytest.FixtureRequest) -> Supernet:
    """A supernet whose every tensor is away from its initial value."""
    supernet = load_timm_supernet(request.param, classes=10)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in supernet.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator).abs())
    return supernet


@pytest.fixture(scope="module")
def tiny() -> Supernet:
    return load_timm_supernet(TINY, classes=10)


def test_largest_network_is_the_model(supernet: Supernet) -> None:
    check_largest_is_the_model(supernet)


def test_extracted_is_active_and_is_what_timm_builds(supernet: Supernet) -> None:
    plain_networks = check_extracted_is_active(supernet)
    assert plain_networks >= (1 if timm_space(supernet).outline.reference.name in PLAIN else 0)


@pytest.mark.parametrize("model", COUNTED)
def test_counts_are_those_of_the_module(model: str) -> None:
    check_counts(load_timm_supernet(model, classes=10))


def test_borrowed_gradients_equal_those_through_the_narrowing(tiny: Supernet) -> None:
    """Positions of a smaller grid included, whose gradients go back through the interpolation."""
    check_borrowed_gradients(tiny)


def test_resized_positions_are_those_of_timm() -> None:
    from timm.layers import resample_abs_pos_embed

    positions_1NC = torch.randn(1, 2 + 49, 8, generator=torch.Generator().manual_seed(3))
    expected = resample_abs_pos_embed(positions_1NC, [5, 5], [7, 7], num_prefix_tokens=2)
    assert torch.equal(resize_positions(positions_1NC, 2, 5), expected)


def test_depth_keeps_the_most_important_blocks_in_order() -> None:
    space = get_space("timm:vit_tiny_patch16_224?img_size=32&depth=4&order=2.0.3.1", 10)
    assert isinstance(space, TimmSpace)
    for depth, kept in ((2, [0, 2]), (3, [0, 2, 3]), (4, [0, 1, 2, 3])):
        values = {choice.name: choice.values[-1] for choice in space.choices} | {"depth": depth}
        assert space.kept_blocks(space.from_values(values)) == [f"blocks.{number}" for number in kept]
    assert spread_order(6) == (0, 5, 2, 3, 1, 4)


def test_absent_blocks_have_one_form(tiny: Supernet) -> None:
    space = tiny.space
    genotypes = space.sample(200, np.random.default_rng(5))
    assert space.is_valid(genotypes).all()
    assert len(set(space.decode(genotypes))) == len(np.unique(genotypes, axis=0))


def test_model_is_found_by_name() -> None:
    space, architecture = find_architecture("timm:vit_tiny_patch16_224")
    assert architecture == space.largest
    assert find_architecture("timm:vit_tiny_patch16_224/smallest")[1] == space.smallest
    assert space.classes == 1000
    assert space.image_side == 224
    assert get_space("timm:vit_tiny_patch16_224?depth=3&img_size=64") is get_space(
        get_space("timm:vit_tiny_patch16_224?img_size=64&depth=3").name
    )


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("vit_tinny_patch16_224", UnknownNameError, "unknown timm model"),
        ("resnet18", TimmModelError, "is a `ResNet`, which no adapter knows"),
        ("vit_tiny_patch16_224?colour=3", TimmModelError, "cannot be made with colour=3"),
        ("vit_tiny_patch16_224?img_size=", TimmModelError, "another form"),
        ("vit_tiny_patch16_224?order=1.2", TimmModelError, "an order of 2 blocks"),
        ("vit_srelpos_small_patch16_224", TimmModelError, "one table for all blocks together"),
    ],
)
def test_what_is_not_elastic_is_named(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        get_space(f"timm:{name}")


def test_weights_come_from_a_file(tmp_path: Path, tiny: Supernet) -> None:
    from safetensors.torch import save_file

    reference = timm_space(tiny).outline.reference
    torch.manual_seed(7)
    model = create(reference, None, 5).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    same = load_timm_supernet(TINY, tmp_path / "model.safetensors", classes=5)
    x_BCHW = images(same)
    with torch.no_grad():
        assert torch.equal(same(x_BCHW, same.space.largest), model(x_BCHW))
    other = load_timm_supernet(TINY, tmp_path / "model.safetensors", classes=10)  # a new classifier
    assert torch.equal(other.network.stem.pos_embed, model.pos_embed)  # type: ignore[union-attr, arg-type]
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pth")
    again = load_timm_supernet(TINY, tmp_path / "model.pth", classes=5)
    assert torch.equal(again.network.head.head.weight, model.head.weight)  # type: ignore[union-attr]


def test_unusable_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match="found nothing"):
        load_timm_supernet(TINY, tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_timm_supernet(TINY, tmp_path / "text.safetensors")
    torch.save({"model": Path}, tmp_path / "code.pth")  # a class alone
    with pytest.raises(CheckpointError, match="no tensors by name"):
        load_timm_supernet(TINY, tmp_path / "code.pth")
    save_file({"cls_token": torch.zeros(1, 1, 7)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not those of timm model"):
        load_timm_supernet(TINY, tmp_path / "foreign.safetensors")


def test_sizes_between_are_traced_where_numbers_are_of_another_kind() -> None:
    traced = []

    def squares(sizes: tuple[int, ...]) -> tuple[Op, ...]:
        traced.append(sizes)
        (width,) = sizes
        return (Op("product", "linear", ("input",), ((width,),), (width,), macs=width * width, params=width),)

    ops = SizedOps(squares, [(2, 3, 4)])
    assert not ops.is_polynomial
    assert ops((3,))[0].macs == 9
    assert traced[-1] == (3,)


def test_sizes_between_are_exact_from_few_traces() -> None:
    traced = []

    def products(sizes: tuple[int, ...]) -> tuple[Op, ...]:
        traced.append(sizes)
        width, heads, hidden = sizes
        macs = 7 * width * heads + 5 * width * hidden + 3 * heads
        return (Op("product", "linear", ("input",), ((9, width),), (9, hidden), macs=macs, params=width * hidden),)

    ops = SizedOps(products, [(2, 4, 8), (1, 2, 3), (10, 20, 40)])
    known = len(traced)
    assert ops.is_polynomial
    assert known == 7
    for sizes in ((4, 2, 20), (8, 1, 10), (2, 3, 20)):
        assert ops(sizes) == products(sizes)
    assert len(traced) == known + 3


@pytest.mark.parametrize(("rounding", "is_told"), [(1, True), (2, False)])
def test_three_numbers_of_tokens_tell_of_others_exactly_or_not_at_all(rounding: int, is_told: bool) -> None:
    def attention(tokens: int) -> Callable[[tuple[int, ...]], tuple[Op, ...]]:
        def trace(sizes: tuple[int, ...]) -> tuple[Op, ...]:
            width, hidden = sizes
            keys = tokens // rounding
            macs = keys * tokens * width + 2 * tokens * width * hidden
            return (Op("product", "linear", ("input",), ((tokens, width),), (keys, hidden), macs=macs, params=hidden),)

        return trace

    values = [(2, 4, 8), (10, 20, 40)]
    samples = {tokens: SizedOps(attention(tokens), values) for tokens in (50, 37, 26)}
    ops = SizedOps.on_tokens(samples, 44, attention(44))
    assert (ops is not None) == is_told
    for sizes in ((4, 20), (8, 10), (2, 40)) if ops else ():
        assert ops(sizes) == attention(44)(sizes)
