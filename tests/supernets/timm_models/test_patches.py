"""Larger patches: kernels and positions are those of timm, networks keep what is promised of all networks."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from timm.layers.patch_embed import resample_patch_embed

from nas.testing import NetworkFamilyContract
from search_spaces import Architecture, ArchitectureError, SearchSpace, get_space
from search_spaces.space import Choice
from search_spaces.timm_models import PATCH, SIDE, TimmSpace
from supernets import Supernet
from supernets.narrowing import make_narrowing
from supernets.timm_models.chain import create
from supernets.timm_models.compensation import SEQUENTIAL, Compensator
from supernets.timm_models.export import plain_timm_config, to_timm_names
from supernets.timm_models.loading import load_timm_supernet
from tests.support.timm_networks import (
    TINY,
    check_borrowed_gradients,
    check_counts_of,
    check_rebuilt,
    images,
    made,
    timm_space,
)

DINO = "vit_small_patch14_reg4_dinov2?img_size=98&depth=2&embed_dim=48&num_heads=3"
SMALL = "vit_tiny_patch16_224?img_size=32&patch_size=8&depth=2&embed_dim=32&num_heads=2"
MODELS = {
    "class token": TINY,
    "registers, layer scale": DINO,
    "distillation token": "deit_tiny_distilled_patch16_224?img_size=64&depth=2&embed_dim=48",
    "attention pooling": "vit_base_patch16_siglip_224?img_size=64&depth=2&embed_dim=48&num_heads=3",
    "rotary positions, gated": "eva02_tiny_patch14_224?img_size=56&depth=2",
    "rotary positions alone": "vit_small_patch16_dinov3?img_size=64&depth=2&embed_dim=48&num_heads=3",
    "talking heads": "cait_xxs24_224?img_size=64&depth=2&embed_dim=48",
}


class TestFamily(NetworkFamilyContract):
    samples = 12

    def make_space(self) -> SearchSpace:
        return get_space(f"timm:{SMALL}", 4)


def on_patches(supernet: Supernet, patch: int, smallest: tuple[str, ...] = ()) -> Architecture:
    """The largest network on patches of a side that has a value for them, but for choices whose names end so."""
    space = timm_space(supernet)
    sides = space.choices[space.columns[SIDE]].values
    values = {c.name: c.values[0 if c.name.endswith(smallest or ("nothing",)) else -1] for c in space.choices}
    values |= {PATCH: patch, SIDE: max(side for side in sides if side % patch == 0)}
    genotypes = space.encode([Architecture(space.name, space.version, tuple(values.items()))])
    return space.decode(space.repair(genotypes))[0]


def patches_of(space: TimmSpace) -> tuple[int, ...]:
    return space.choices[space.columns[PATCH]].values


@pytest.fixture(scope="module", params=MODELS.values(), ids=list(MODELS))
def supernet(request: pytest.FixtureRequest) -> Supernet:
    return made(request.param)


@torch.no_grad()
def test_networks_are_those_that_timm_makes_of_the_model(supernet: Supernet) -> None:
    """timm resamples kernels and positions of an existing model by itself."""
    architecture = on_patches(supernet, patches_of(timm_space(supernet))[0])
    model = create(timm_space(supernet).outline.reference, None, 10).eval()
    model.load_state_dict(to_timm_names(supernet.network.state_dict()))
    side, patch = architecture[SIDE], architecture[PATCH]
    if not hasattr(model, "set_input_size"):
        pytest.skip("this model of timm cannot be changed once it is made")
    model.set_input_size(img_size=(side, side), patch_size=(patch, patch))  # type: ignore[operator]
    x_BCHW = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(supernet(x_BCHW, architecture), model(x_BCHW), atol=1e-5)


def test_networks_are_rebuilt(supernet: Supernet) -> None:
    space = timm_space(supernet)
    for cut in ((), ("depth", "hidden")):
        check_rebuilt(supernet, on_patches(supernet, patches_of(space)[0], cut))
    uniform = plain_timm_config(space, on_patches(supernet, patches_of(space)[0]))
    assert uniform is not None
    assert uniform["model_args"]["patch_size"] == patches_of(space)[0]


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if name == TINY else pytest.mark.slow) for name in MODELS.values()]
)
def test_networks_are_counted(model: str) -> None:
    supernet = load_timm_supernet(model, classes=10)
    architecture = on_patches(supernet, patches_of(timm_space(supernet))[0], ("embed",))
    check_counts_of(supernet, architecture)
    convolution = next(op for op in supernet.space.lower(architecture).ops() if op.kind == "conv")
    assert convolution.kernel == convolution.stride == architecture[PATCH]


def test_borrowed_gradients_go_back_through_the_resampling() -> None:
    supernet = made(TINY)
    check_borrowed_gradients(supernet, on_patches(supernet, 32))
    check_borrowed_gradients(supernet, on_patches(supernet, 32, ("embed",)))


@pytest.mark.parametrize("new", [18, 21, 28])
def test_kernels_are_those_of_timm(new: int) -> None:
    kernel_ECHW = torch.randn(8, 3, 14, 14, generator=torch.Generator().manual_seed(3))
    axes, full, active = "embed . patch:resample patch:resample", {"embed": 8, "patch": 14}, {"embed": 6, "patch": new}
    narrowing = make_narrowing(axes, (8, 3, 14, 14), full, active)
    expected_ECHW = resample_patch_embed(kernel_ECHW[:6], [new, new])
    assert torch.allclose(narrowing.narrow(kernel_ECHW), expected_ECHW, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(narrowing.narrow(kernel_ECHW), narrowing.narrow(kernel_ECHW.clone()))
        assert narrowing.narrow(kernel_ECHW).dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "patches"),
    [
        ("vit_small_patch16_224", (32, 28, 16)),
        ("vit_small_patch14_dinov2?img_size=98", (28, 21, 14)),  # 98 has no divisor between 14 and 49
        ("vit_tiny_patch16_224?img_size=32&patch_size=8&depth=2", (16, 8)),
        ("vit_tiny_patch16_224?img_size=32&depth=2", ()),
        ("beit_base_patch16_224?depth=2", ()),
        ("vit_tiny_r_s16_p8_224?depth=2", ()),
        ("pit_ti_224", ()),
    ],
)
def test_patches_that_divide_the_images_are_offered(model: str, patches: tuple[int, ...]) -> None:
    space = get_space(f"timm:{model}", 10)
    assert isinstance(space, TimmSpace)
    assert (patches_of(space) if PATCH in space.columns else ()) == patches
    assert bool(patches) or "img_size" in model or any("patches" in note for note in space.outline.fixed)


def test_patches_fit_the_side() -> None:
    space = get_space(f"timm:{DINO}", 10)
    genotypes = space.sample(400, np.random.default_rng(0))
    pairs = set(zip(space.values(genotypes, SIDE).tolist(), space.values(genotypes, PATCH).tolist(), strict=True))
    assert pairs == {(56, 14), (70, 14), (84, 14), (98, 14), (84, 21), (56, 28), (84, 28)}
    assert space.largest[PATCH] == 14
    assert (space.smallest[SIDE], space.smallest[PATCH]) == (56, 28)
    for side, patch in product((70, 98), (21, 28)):
        with pytest.raises(ArchitectureError):
            space.from_values({**dict(space.largest.settings), SIDE: side, PATCH: patch})
    architectures = space.decode(genotypes)
    assert [space.parse(Architecture.from_json(each.to_json()).to_dict()) for each in architectures] == architectures
    assert (space.encode(architectures) == genotypes).all()
    older = {name: value for name, value in space.largest.settings if name != PATCH}  # of runs before there were any
    assert space.block("stem", older) == space.block("stem", dict(space.largest.settings))


def test_choices_go_up_or_down() -> None:
    assert Choice("side", (3, 2, 1)).values[-1] == 1
    for values in ((1, 3, 2), (2, 2)):
        with pytest.raises(ValueError, match="must ascend, or descend"):
            Choice("side", values)


@torch.no_grad()
def test_sliced_networks_are_compared_with_the_whole_one_on_their_patches() -> None:
    supernet = made(TINY)
    x_BCHW = images(supernet, 64)
    whole, sliced = on_patches(supernet, 32), on_patches(supernet, 32, ("hidden",))
    compensator = Compensator(supernet, x_BCHW, SEQUENTIAL)
    uncut = supernet.extract(whole).eval()
    assert torch.allclose(compensator(whole)(x_BCHW), uncut(x_BCHW), atol=1e-6)
    errors = [
        float((network(x_BCHW) - uncut(x_BCHW)).square().mean())
        for network in (compensator(sliced), supernet.extract(sliced).eval())
    ]
    assert errors[0] < errors[1] / 2
