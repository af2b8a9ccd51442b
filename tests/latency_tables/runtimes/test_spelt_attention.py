"""Attention with a mask: exported, and computed as PyTorch computes it; timm's models with it export too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latency_tables.runtimes import spelt_attention
from latency_tables.runtimes.spelt_attention import SpeltAttention
from nas.networks.onnx import OnnxNetwork, export_onnx


class Attending(nn.Module):
    """Patches that attend with a bias of their positions, as BEiT's do."""

    def __init__(self, mask: str, scale: float | None = None) -> None:
        super().__init__()
        self.patch, self.qkv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 5)
        self.bias = nn.Parameter(torch.randn(1, 2, 4, 4))
        self.mask, self.scale = mask, scale

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BNC = self.patch(x_BCHW).flatten(2).mT
        q, k, v = self.qkv(x_BNC).reshape(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        allowed = (self.bias < 0.5) | torch.eye(4, dtype=torch.bool)
        nowhere = allowed & (torch.arange(4)[:, None] != 2)  # where the third patch may look
        masks = {"float": self.bias, "boolean": allowed, "nowhere": nowhere, "computed": self.bias + x_BNC.mean()}
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=masks[self.mask], scale=self.scale)
        logits_BK: Tensor = self.head(mixed.transpose(1, 2).reshape(-1, 4, 8).mean(1))
        return logits_BK


def check_export(network: nn.Module, side: int, path: Path) -> None:
    images_BCHW = torch.randn(2, 3, side, side)
    export_onnx(network, side, path)
    with torch.no_grad():
        expected_BK = network(images_BCHW)
    found_BK = torch.from_numpy(OnnxNetwork(path)(images_BCHW))
    assert torch.allclose(found_BK, expected_BK, atol=1e-5 * float(expected_BK.max() - expected_BK.min()))


@pytest.mark.parametrize(("mask", "scale"), [("float", None), ("boolean", 0.3)])
def test_attention_with_a_mask_is_exported(mask: str, scale: float | None, tmp_path: Path) -> None:
    check_export(Attending(mask, scale).eval(), 8, tmp_path / "network.onnx")


@pytest.mark.parametrize(("mask", "scale"), [("float", None), ("boolean", 0.3), ("nowhere", None), ("computed", 2.0)])
def test_spelt_attention_is_attention(mask: str, scale: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images_BCHW = Attending(mask, scale), torch.randn(3, 3, 8, 8)
    expected = network(images_BCHW)
    calls = []
    attention = spelt_attention.attention
    monkeypatch.setattr(spelt_attention, "attention", lambda *inputs: calls.append(len(inputs)) or attention(*inputs))
    with SpeltAttention():
        found = network(images_BCHW)
        F.scaled_dot_product_attention(*torch.ones(3, 1, 2, 3))
        F.scaled_dot_product_attention(*torch.ones(3, 1, 2, 3), torch.zeros(2, 2), 0.5)
    assert calls == [5]
    assert torch.allclose(found, expected, atol=1e-6)


MASKED = (
    "beit_base_patch16_224?img_size=32&depth=1&embed_dim=48&num_heads=3",
    "beitv2_base_patch16_224?img_size=32&depth=1&embed_dim=48&num_heads=3",
    "vit_relpos_small_patch16_224?img_size=32&depth=2&embed_dim=48&num_heads=3",
    "vit_relpos_small_patch16_rpn_224?img_size=32&depth=1&embed_dim=48&num_heads=3",
    "vit_srelpos_small_patch16_224?img_size=32&depth=2&embed_dim=48&num_heads=3",
    "samvit_base_patch16?img_size=64&depth=1&embed_dim=48&num_heads=4",
    "maxvit_rmlp_pico_rw_256?img_size=64",
    "swin_tiny_patch4_window7_224?img_size=56&depths=[1,2,1,1]&embed_dim=24",
    "swinv2_tiny_window8_256?img_size=64&window_size=4&depths=[1,1,2,1]&embed_dim=24",
    "eva02_tiny_patch14_224?img_size=28&depth=2",
    "levit_128s?img_size=64&depth=[1,2]&embed_dim=[32,48]&key_dim=8&num_heads=[2,3]",
    "efficientformerv2_s0?img_size=64&depths=[1,1,2,1]&embed_dims=[16,16,24,48]&mlp_ratios=3&num_vit=1",
    "efficientformer_l1?img_size=56&depths=[1,3]&embed_dims=[16,48]&num_vit=2",
    "cait_xxs24_224?img_size=32&depth=2&embed_dim=48",
    "xcit_nano_12_p16_224?img_size=32&depth=2",
    "pit_ti_224?img_size=64&base_dims=[16,16,16]&depth=[2,1,1]",
    "deit_tiny_distilled_patch16_224?img_size=32&depth=2&embed_dim=48",
    "vit_base_patch16_siglip_224?img_size=32&depth=2&embed_dim=48&num_heads=3",
    "vit_small_patch14_reg4_dinov2?img_size=28&depth=2&embed_dim=48&num_heads=3",
)


@pytest.mark.parametrize("model", [MASKED[0], *(pytest.param(each, marks=pytest.mark.slow) for each in MASKED[1:])])
def test_models_of_timm_are_exported(model: str, tmp_path: Path) -> None:
    name, _, options = model.partition("?")
    arguments = {key: json.loads(value) for key, value in (option.split("=") for option in options.split("&"))}
    network = timm.create_model(name, num_classes=3, **arguments).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)  # biases of positions begin at zero
    check_export(network, arguments["img_size"], tmp_path / "network.onnx")
