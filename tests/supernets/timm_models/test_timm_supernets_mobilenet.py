"""What is promised of the networks inside MobileNets, on a small model that has every kind of block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.mobilenetv3 import _create_mnv3
from torch import nn

from nas.exporting.formats.checkpoint import make_checkpoint
from search_spaces import get_space
from search_spaces.timm_models import TimmModelError
from supernets import Supernet
from supernets.batch_norm import reestimate_batch_norm
from supernets.networks.timm_subnet import build_subnet
from supernets.timm_models.convolutions import channels_per_group, convolution
from supernets.timm_models.export import plain_timm_config, subnet_config, timm_state_dict
from supernets.timm_models.loading import load_timm_supernet
from supernets.timm_models.tables import AxesTable, NotElastic
from tests.support.timm_networks import check_promises, check_sorting, images, timm_space

STAGES = [
    ["er_r1_k3_s2_e2_c16", "cn_r1_k1_s1_c24"],
    ["uir_r1_a3_k5_s2_e2_c32", "mqa_r1_k3_h4_s1_v2_d8_c32", "uir_r1_a0_k0_s1_e2_p3_c32"],
    ["ir_r1_k3_s1_e2_c48_se0.25", "ds_r1_k3_s1_e1_c48"],
]


def mobilenet_of_every_block(pretrained: bool = False, last: str = "", **arguments: Any) -> nn.Module:
    """A model of timm's class; ``last`` is a further stage behind the others, with a plus between its blocks."""
    stages = [*STAGES, last.split("+")] if last else STAGES
    sizes: dict[str, Any] = {"stem_size": 16, "num_features": 64, "head_norm": True, "layer_scale_init_value": 0.1}
    return _create_mnv3("mobilenet_of_every_block", pretrained, block_args=decode_arch_def(stages), **sizes | arguments)


register_model(mobilenet_of_every_block)

SMALL = "mobilenet_of_every_block?img_size=16"
WIDER = "mobilenet_of_every_block?aa_layer=blurpool&global_pool=catavgmax&img_size=16"
"""Strides are taken by a blur, and the head reads two poolings."""
NAMES = [
    "mobilenet_of_every_block",
    "mobilenetv4_hybrid_medium",
    "mobilenetv4_hybrid_large_075",
    "mobilenetv4_conv_small_035",
    "mobilenetv4_conv_blur_medium",
    "mobilenetv3_small_050",
    "lcnet_035",
]


@pytest.fixture(scope="module")
def small() -> Supernet:
    return load_timm_supernet(SMALL, classes=10)


def test_all_that_is_promised_holds() -> None:
    check_promises(WIDER)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_models_of_timm_hold_on_small_images(name: str) -> None:
    check_promises(f"{name}?img_size=64")


def test_what_is_searched(small: Supernet) -> None:
    """A width for every block without a shortcut, a depth where more than one block has one, sizes inside of blocks."""
    values = {choice.name: choice.values for choice in small.space.choices}
    assert list(values) == [
        "input.side",
        "stem.embed",
        "blocks.0.0.hidden",
        "blocks.0.0.embed",
        "blocks.0.embed",
        "blocks.1.0.hidden",
        "blocks.1.embed",
        "blocks.2.0.hidden",
        "blocks.2.embed",
        "head.hidden",
        "blocks.1.depth",
        "blocks.1.1.heads",
        "blocks.1.2.hidden",
    ]
    assert values["blocks.1.1.heads"] == (1, 2, 3, 4)
    assert values["blocks.1.embed"] == (16, 24, 32)
    assert values["blocks.1.depth"] == (1, 2)
    fixed = timm_space(small).outline.fixed
    assert any("kernels" in note for note in fixed)
    assert any("key and value" in note for note in fixed)
    assert any("squeeze" in note for note in fixed)


def test_depth_leaves_out_blocks_with_a_shortcut_and_counts_the_others_along(small: Supernet) -> None:
    space = timm_space(small)
    shallow = space.from_values({c.name: c.values[-1] for c in space.choices} | {"blocks.1.depth": 1})
    assert space.kept_blocks(shallow) == ["blocks.1.1"]
    config = subnet_config(space, shallow)
    assert config["keep"]["blocks.1"] == [0, 1]
    assert "img_size" not in config["arguments"]
    deep = space.from_values({c.name: c.values[-1] for c in space.choices})
    assert plain_timm_config(space, deep) == {
        "architecture": "mobilenet_of_every_block",
        "model_args": {},
        "num_classes": 10,
    }
    assert plain_timm_config(space, shallow) is None


@torch.no_grad()
def test_exported_model_is_loaded_by_timm(small: Supernet, tmp_path: Path) -> None:
    """Its images have any side, so timm must not be asked to build it for one."""
    space = timm_space(small)
    checkpoint = make_checkpoint(space, space.largest, small.network, {})
    save_file(dict(checkpoint.state), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(dict(checkpoint.entries)))
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(model(images(small)), small(images(small), space.largest))


@torch.no_grad()
def test_rebuilt_network_takes_another_classifier(small: Supernet) -> None:
    space = timm_space(small)
    weights = timm_state_dict(space, space.smallest, small.extract(space.smallest))
    rebuilt: Any = build_subnet(subnet_config(space, space.smallest), weights)
    assert rebuilt(images(small)).shape == (2, 10)
    rebuilt.reset_classifier(3)
    assert rebuilt(images(small)).shape == (2, 3)
    assert rebuilt.forward_features(images(small)).shape[1] == rebuilt.num_features


@pytest.mark.parametrize("model", [SMALL])
def test_sorting_leaves_the_function_unchanged(model: str) -> None:
    check_sorting(model)


def test_a_step_moves_the_statistics_of_active_channels() -> None:
    supernet = load_timm_supernet(SMALL, classes=10).train()
    norm = supernet.network.get_submodule("blocks.1.0.pw_exp.bn")
    active = dict(supernet.space.smallest.settings)["blocks.1.0.hidden"]
    with supernet.borrow(supernet.space.smallest) as subnet:
        subnet(images(supernet, 8)).square().sum().backward()
    mean_C = norm.get_buffer("running_mean")
    assert (mean_C[:active] != 0).all()
    assert (mean_C[active:] == 0).all()
    extracted = supernet.extract(supernet.space.smallest)
    reestimate_batch_norm(extracted, [images(supernet, 8)])
    found_C = extracted.get_submodule("blocks.1.0.pw_exp.bn").get_buffer("running_mean")
    assert torch.allclose(0.1 * found_C, mean_C[:active], atol=1e-5)  # one step of momentum 0.1 from zero


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("last=ir_r1_k3_s1_e2_c48_cc2", "its blocks are `CondConvResidual`s"),
        ("last=mha_r1_k3_h4_s1_d12_c48+cn_r1_k1_s1_c64", "`attn` is a `Attention2d`"),
        ("last=cn_r1_k3_s1_c96_gs8", "`conv` has 6 groups"),
        ("img_size=0", "takes images of 0 pixels"),
        ("img_size=wide", "takes images of wide pixels"),
    ],
)
def test_what_is_not_elastic_is_named(query: str, message: str) -> None:
    with pytest.raises(TimmModelError, match=message):
        get_space(f"timm:mobilenet_of_every_block?{query}")


def test_a_grouped_convolution_keeps_the_size_and_the_order_of_its_groups() -> None:
    table = AxesTable(nn.Sequential(nn.Conv2d(32, 64, 3, groups=4)), sizes={"width": 32, "two": 2})
    convolution(table, "0", "(width two)", "width")
    table.check()
    assert table.in_order == {"width"}
    assert channels_per_group(table.module) == 8
    x_BCHW = torch.randn(1, 32, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole_BCHW = table.module(x_BCHW)
        part = table.resize(nn.Sequential(table.module[0]), {"width": 16})  # type: ignore[index]
        assert torch.allclose(part(x_BCHW[:, :16]), whole_BCHW[:, :32], atol=1e-6)
    with pytest.raises(NotElastic, match="4 groups"):
        convolution(AxesTable(nn.Sequential(nn.Conv2d(32, 64, 3, groups=4))), "0", "embed", "in_embed")


def test_widths_are_whole_groups() -> None:
    space = get_space("timm:mobilenet_of_every_block?last=uir_r1_a3_k3_s1_e2_c48_gs16&img_size=16", 10)
    genotypes = space.sample(20, np.random.default_rng(0))
    for name in ("blocks.2.embed", "blocks.3.0.hidden"):
        assert not (space.values(genotypes, name) % 16).any()
