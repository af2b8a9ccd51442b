"""What is promised of the networks inside LeViT and EfficientFormer models, on small ones of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from search_spaces import Op, get_space
from search_spaces.timm_models import TimmModelError, TimmSpace
from search_spaces.timm_models_ops import SizedOps
from supernets import Supernet
from supernets.importance import sorted_along
from supernets.timm_models.chain import create
from supernets.timm_models.export import subnet_config
from supernets.timm_models.loading import load_timm_supernet
from tests.support.timm_networks import (
    calibration_of,
    check_counts,
    check_extracted_is_active,
    check_largest_is_the_model,
    check_promises,
    check_sorting,
    images,
    made,
)

LEVIT = "levit_128s?img_size=64&depth=[1,2]&embed_dim=[32,48]&key_dim=8&num_heads=[2,3]"
LEVIT_CONV = "levit_conv_512_s8?img_size=32&depth=[1,1]&embed_dim=[32,48]&key_dim=8&num_heads=[2,3]"
POOLING = "efficientformer_l1?img_size=56&depths=[1,3]&embed_dims=[16,48]&num_vit=2"
ONLY_TOKENS = "efficientformer_l7?img_size=56&depths=[1,2]&embed_dims=[16,48]&num_vit=2"
MIXED_HEADS = "efficientformerv2_s0?img_size=64&depths=[1,1,2,1]&embed_dims=[16,16,24,48]&mlp_ratios=3&num_vit=1"
MODELS = {
    "linear": LEVIT,
    "convolutions": LEVIT_CONV,
    "pooling": POOLING,
    "tokens from the second stage on": ONLY_TOKENS,
    "mixed heads": MIXED_HEADS,
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=list(MODELS))
def supernet(request: pytest.FixtureRequest) -> Supernet:
    """A supernet whose every tensor is away from its initial value."""
    return made(request.param)


@pytest.fixture(scope="module")
def levit() -> Supernet:
    return made(LEVIT)


def test_largest_network_is_the_model(supernet: Supernet) -> None:
    check_largest_is_the_model(supernet)


def test_extracted_is_active_and_is_what_timm_builds(supernet: Supernet) -> None:
    check_extracted_is_active(supernet)


def test_counts_are_those_of_the_module() -> None:
    check_counts(load_timm_supernet(POOLING, classes=10))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_all_that_is_promised_holds(model: str) -> None:
    check_promises(model)


@pytest.mark.parametrize("model", [LEVIT, LEVIT_CONV, POOLING, MIXED_HEADS])
def test_sorting_leaves_the_function_unchanged(model: str) -> None:
    check_sorting(model)


def test_activations_of_convolutions_are_seen() -> None:
    """A channel that is dead in front of a convolution comes last, though the weights that read it are large."""
    supernet = made(LEVIT_CONV)
    mlp = supernet.network.get_submodule("stages.0.blocks.0.mlp")
    with torch.no_grad():
        mlp.ln1.bn.weight[0] = mlp.ln1.bn.bias[0] = 0  # type: ignore[union-attr, operator, index]
        mlp.ln2.linear.weight[:, 0] = 100  # type: ignore[union-attr, operator, index]
    again = sorted_along(supernet, "hidden", "activation", calibration_of(supernet))
    weight = again.network.get_submodule("stages.0.blocks.0.mlp.ln2.linear").weight
    assert (weight[:, -1] == 100).all()


@torch.no_grad()
def test_biases_are_looked_up_whenever_weights_change(levit: Supernet) -> None:
    """timm remembers them outside of training, by device alone."""
    x_BCHW, architecture = images(levit), levit.space.smallest
    supernet = Supernet(levit.space).eval()
    supernet.load_state_dict(levit.state_dict())
    named = dict(supernet.named_parameters())
    for name in named:
        if name.endswith("proj.ln.bn.weight"):
            named[name].add_(1)  # what attends counts
    before = supernet(x_BCHW, architecture), supernet.network(x_BCHW)
    for name in named:
        if name.endswith("attention_biases"):
            named[name].add_(torch.randn(named[name].shape, generator=torch.Generator().manual_seed(4)))
    after = [supernet(x_BCHW, architecture), supernet.network(x_BCHW)]
    assert torch.equal(after[0], supernet.extract(architecture)(x_BCHW))
    assert not any(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_running_statistics_are_borrowed(levit: Supernet) -> None:
    supernet = Supernet(levit.space).train()
    norm = supernet.network.get_submodule("stages.0.blocks.0.mlp.ln1.bn")
    before = norm.running_var.clone()  # type: ignore[union-attr, operator]
    with supernet.borrow(levit.space.smallest) as subnet:
        subnet(images(levit, 4))
    changed = norm.running_var != before
    hidden = dict(levit.space.smallest.settings)["stages.0.blocks.0.hidden"]
    assert changed[:hidden].all()  # type: ignore[index]
    assert not changed[hidden:].any()  # type: ignore[index]


def test_what_flattens_the_map_is_in_every_network() -> None:
    space = get_space(f"timm:{POOLING}", 10)
    assert isinstance(space, TimmSpace)
    for depth, kept in ((2, [0, 1, 3]), (3, [0, 1, 2, 3])):
        values = {choice.name: choice.values[-1] for choice in space.choices} | {"stages.1.depth": depth}
        assert subnet_config(space, space.from_values(values))["keep"]["stages.1.blocks"] == kept


def test_steps_and_stem_have_choices_of_their_own() -> None:
    choices = {choice.name: choice.values for choice in get_space(f"timm:{LEVIT}", 10).choices}
    assert choices["stages.1.downsample.heads"] == (1, 2, 3, 4)
    assert choices["stages.1.downsample.hidden"] == (24, 48, 72, 96)
    assert choices["stem.hidden"] == (8, 16)
    assert choices["stages.1.depth"] == (1, 2)
    assert choices["stages.1.embed"] == (24, 32, 40, 48)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("efficientformer_l1?img_size=96", "does not run on images of 96 x 96"),
        ("levit_128s?img_size=100", "does not run on images of 100 x 100"),
    ],
)
def test_images_that_the_model_does_not_take_are_refused(model: str, message: str) -> None:
    with pytest.raises(TimmModelError, match=message):
        get_space(f"timm:{model}")


def test_another_number_of_classes_gets_a_new_classifier(tmp_path: Path, levit: Supernet) -> None:
    from safetensors.torch import save_file

    assert isinstance(levit.space, TimmSpace)
    torch.manual_seed(7)
    model = create(levit.space.outline.reference, None, 5).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    same = load_timm_supernet(LEVIT, tmp_path / "model.safetensors", classes=5)
    with torch.no_grad():
        x_BCHW = images(same)
        assert torch.allclose(same(x_BCHW, same.space.largest), model(x_BCHW), atol=1e-6)
    other = load_timm_supernet(LEVIT, tmp_path / "model.safetensors", classes=10)
    for name in ("head", "head_dist"):
        classifier = other.network.get_submodule(f"head.{name}")
        assert torch.equal(classifier.bn.weight, model.get_submodule(name).bn.weight)  # type: ignore[union-attr, arg-type]
        assert classifier.linear.weight.shape == (10, 48)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("macs", "degree"),
    [
        (lambda first, second, third: 3 * first * second + 5 * first * third + 7, 1),
        (lambda first, second, third: 3 * second * third + 5 * third * third + first, 2),
        (lambda first, second, third: first * second * third, 0),
    ],
    ids=["one width", "squares and two widths", "a product of three"],
)
def test_sizes_between_are_exact(macs: object, degree: int) -> None:
    values = [(2, 4, 8), (1, 2), (3, 4, 6, 9)]

    def trace(sizes: tuple[int, ...]) -> tuple[Op, ...]:
        assert callable(macs)
        return (Op("product", "matmul", ("input",), ((sizes[0],),), (sizes[1],), macs=macs(*sizes)),)

    ops = SizedOps(trace, values)
    assert ops.degree == degree
    assert SizedOps(trace, values, degree).degree == degree
    grid = np.stack(np.meshgrid(*values), axis=-1).reshape(-1, 3)
    assert all(ops(tuple(map(int, sizes))) == trace(tuple(map(int, sizes))) for sizes in grid)
