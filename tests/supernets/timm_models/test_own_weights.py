"""Weights as they are handed around: wrappings, prefixes, other libraries' names, other grids."""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from supernets.errors import CheckpointError
from supernets.timm_models.loading import load_original
from supernets.timm_models.own_weights import read_into, rows_of
from tests.support import foreign_weights as foreign

Tensors = Mapping[str, Tensor]
CLASSES = 10
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "deit": ("deit_tiny_distilled_patch16_224", {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "deit3": ("deit3_small_patch16_224", {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "dinov2": ("vit_small_patch14_dinov2", {"img_size": 42, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "dinov2 reg": ("vit_small_patch14_reg4_dinov2", {"img_size": 42, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "dinov2 gated": ("vit_giant_patch14_reg4_dinov2", {"img_size": 42, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "clip": ("vit_base_patch16_clip_224", {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "siglip": ("vit_base_patch16_siglip_224", {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "beit": ("beit_base_patch16_224", {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "eva": ("eva02_tiny_patch14_224", {"img_size": 28, "embed_dim": 48, "depth": 2, "num_heads": 3}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)},
    ),
    "cait": ("cait_xxs24_224", {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 3}),
}


def made(family: str, seed: int, **arguments: Any) -> nn.Module:
    """A model of a family with weights of its own."""
    name, own = FAMILIES[family]
    torch.manual_seed(seed)
    model = timm.create_model(name, **{"num_classes": CLASSES, **own, **arguments}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@lru_cache(maxsize=32)
def source(family: str) -> nn.Module:
    return made(family, 1)


def images(family: str) -> Tensor:
    side = FAMILIES[family][1]["img_size"]
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def behind(prefix: str) -> Callable[[Tensors], dict[str, Any]]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def inside(*keys: str, prefix: str = "") -> Callable[[Tensors], dict[str, Any]]:
    def wrap(tensors: Tensors) -> dict[str, Any]:
        found: dict[str, Any] = behind(prefix)(tensors)
        for key in reversed(keys):
            found = {key: found, "epoch": 3, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.9)}
        return found

    return wrap


def without_head(tensors: Tensors) -> dict[str, Any]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("head")}


def with_head_beside(tensors: Tensors) -> dict[str, Any]:
    return {name if name.startswith("head") else f"backbone.{name}": tensor for name, tensor in tensors.items()}


def chunked(tensors: Tensors) -> dict[str, Any]:
    names = {name: name.replace("blocks.", "backbone.blocks.0.") for name in without_head(tensors)}
    own = {new if "blocks" in name else f"backbone.{name}": tensors[name] for name, new in names.items()}
    if "reg_token" in own:
        own["backbone.register_tokens"] = own.pop("backbone.reg_token")
    return {"teacher": {**own, "backbone.mask_token": torch.zeros(1, 48), "dino_head.mlp.0.weight": torch.ones(4, 48)}}


def teacher_and_student(tensors: Tensors) -> dict[str, Any]:
    other = {name: tensor + 1 for name, tensor in tensors.items()}
    return {"student": behind("module.backbone.")(other), "teacher": behind("backbone.")(tensors), "epoch": 7}


def pretraining(tensors: Tensors) -> dict[str, Any]:
    decoder = {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_embed.weight": torch.ones(8, 48),
        "decoder_pos_embed": torch.ones(2),
    }
    return {"model": {**without_head(tensors), **decoder}, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}


def deit3_release(tensors: Tensors) -> dict[str, Any]:
    return {
        "model": {
            name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): own for name, own in tensors.items()
        }
    }


WRAPPINGS: dict[str, tuple[str, Callable[[Tensors], Any]]] = {
    "plain": ("vit", dict),
    "DDP": ("vit", behind("module.")),
    "compiled in DDP": ("swin", behind("module._orig_mod.")),
    "compiled block by block": (
        "vit",
        lambda own: {name.replace("blocks.1.", "blocks.1._orig_mod."): x for name, x in own.items()},
    ),
    "Lightning": ("beit", inside("state_dict", prefix="model.")),
    "Lightning's own name": ("eva", inside("state_dict", prefix="net.encoder.")),
    "model": ("cait", inside("model")),
    "model_state_dict": ("swin", inside("model_state_dict")),
    "model in state in checkpoint": ("vit", inside("checkpoint", "state", "model", prefix="module.")),
    "averaged beside trained": (
        "vit",
        lambda own: {"model": {name: x + 1 for name, x in own.items()}, "model_ema": dict(own)},
    ),
    "timm's averaged": (
        "deit",
        lambda own: {"state_dict": {name: x + 1 for name, x in own.items()}, "state_dict_ema": dict(own)},
    ),
    "averaged as `ema`": ("vit", inside("ema", "module")),
    "teacher and student": ("vit", teacher_and_student),
    "transformers' timm_model": ("beit", behind("timm_model.")),
    "OpenCLIP's trunk": (
        "vit",
        lambda own: {
            **behind("visual.trunk.")(own),
            "text.token.weight": torch.ones(3, 4),
            "logit_scale": torch.ones(1),
        },
    ),
    "backbone with its classifier beside it": ("vit", with_head_beside),
    "no classifier": ("eva", without_head),
    "masked autoencoder": ("vit", pretraining),
    "DINOv2's training in chunks": ("dinov2", chunked),
    "DeiT III's release": ("deit3", deit3_release),
    "half precision": ("vit", lambda own: {name: tensor.half() for name, tensor in own.items()}),
    "Hugging Face's ViT": ("vit", foreign.huggingface_vit),
    "Hugging Face's DeiT": ("deit", lambda own: foreign.huggingface_vit(own, "deit.")),
    "Hugging Face's BEiT": ("beit", lambda own: foreign.huggingface_vit(own, "beit.")),
    "Hugging Face's Swin": ("swin", foreign.huggingface_swin),
    "Hugging Face's DINOv2": ("dinov2", foreign.huggingface_dinov2),
    "Hugging Face's DINOv2 with registers": ("dinov2 reg", foreign.huggingface_dinov2),
    "Hugging Face's DINOv2 with gated units": ("dinov2 gated", foreign.huggingface_dinov2),
    "Hugging Face's CLIP": ("clip", foreign.huggingface_tower),
    "Hugging Face's CLIP with its text tower": (
        "clip",
        lambda own: {
            **foreign.huggingface_tower(own),
            "text_model.encoder.layers.0.self_attn.q_proj.weight": torch.ones(3, 3),
        },
    ),
    "Hugging Face's SigLIP": ("siglip", foreign.huggingface_tower),
    "torchvision's ViT": ("vit", foreign.torchvision_vit),
    "OpenAI's CLIP": ("clip", foreign.openai_clip),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@torch.no_grad()
def test_every_wrapping_gives_the_same_numbers(wrapping: str, tmp_path: Path) -> None:
    family, wrap = WRAPPINGS[wrapping]
    given = {name: tensor.clone() for name, tensor in source(family).state_dict().items()}
    torch.save(wrap(given), tmp_path / "weights.pth")
    model = made(family, 2)
    tells, _ = read_into(model, tmp_path / "weights.pth")
    x_BCHW = images(family)
    found, expected = (
        net.forward_head(net.forward_features(x_BCHW), pre_logits=True) for net in (model, source(family))
    )  # type: ignore[operator]
    precision = 1e-2 if wrapping == "half precision" else 1e-5
    assert torch.allclose(torch.as_tensor(found), torch.as_tensor(expected), atol=precision)
    has_head = not any(word in wrapping for word in ("no classifier", "DINOv2", "CLIP", "SigLIP", "masked"))
    assert tells is (has_head or wrapping == "OpenCLIP's trunk")
    if tells:
        assert torch.allclose(model(x_BCHW), source(family)(x_BCHW), atol=precision)


@torch.no_grad()
def test_a_whole_pickled_model_is_read_without_its_class(tmp_path: Path) -> None:
    torch.save({"model": source("vit"), "epoch": 3}, tmp_path / "whole.pt")
    model = made("vit", 2)
    assert read_into(model, tmp_path / "whole.pt") == (True, ())
    assert torch.equal(model(images("vit")), source("vit")(images("vit")))


class _Program:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (exec, ("raise RuntimeError('the file ran code')",))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": source("vit").state_dict(), "hook": _Program()}, tmp_path / "code.pth")
    assert read_into(made("vit", 2), tmp_path / "code.pth") == (True, ())


def test_of_several_networks_one_is_taken_and_said(tmp_path: Path) -> None:
    torch.save(teacher_and_student(source("vit").state_dict()), tmp_path / "both.pth")
    _, notes = read_into(made("vit", 2), tmp_path / "both.pth")
    assert len(notes) == 1
    assert "`teacher` the names behind `backbone.`" in notes[0]
    assert "not `student` the names behind `module.backbone.`" in notes[0]


@torch.no_grad()
@pytest.mark.parametrize("family", ["vit", "deit", "dinov2 reg", "swin", "beit", "cait"])
def test_positions_of_another_grid_are_resampled(family: str, tmp_path: Path) -> None:
    """As timm does it, where it does; CaiT's by the same function, which timm leaves out."""
    other: dict[str, Any] = {"img_size": 56 if "dinov2" in family else 48}
    if family == "swin":
        other = {"img_size": 32, "window_size": 8}
    save_file(source(family).state_dict(), tmp_path / "model.safetensors")
    model = made(family, 2, **other)
    assert read_into(model, tmp_path)[0]
    if family == "cait":
        assert model.pos_embed.shape[1] == 9  # type: ignore[union-attr, index]
        return
    name, arguments = FAMILIES[family]
    own = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors"), "num_classes": CLASSES},
        **{"num_classes": CLASSES, **arguments, **other},
    ).eval()
    x_BCHW = torch.randn(2, 3, other["img_size"], other["img_size"])
    assert torch.allclose(model(x_BCHW), own(x_BCHW), atol=1e-5)


def folder_of(tmp_path: Path, tensors: Tensors, config: Mapping[str, Any]) -> Path:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


@torch.no_grad()
def test_folders_in_pieces_and_with_colours(tmp_path: Path) -> None:
    named = foreign.huggingface_vit(source("vit").state_dict())
    pieces = {name: f"model-0000{number % 2 + 1}-of-00002.safetensors" for number, name in enumerate(named)}
    for piece in set(pieces.values()):
        save_file({name: named[name].clone() for name in named if pieces[name] == piece}, tmp_path / piece)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": pieces}), encoding="utf-8")
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}')
    text = "&".join(f"{key}={value}" for key, value in FAMILIES["vit"][1].items())
    original = load_original(f"vit_tiny_patch16_224?{text}", tmp_path, CLASSES)
    assert (original.tells_classes, original.mean) == (True, (0.1, 0.2, 0.3))
    assert torch.allclose(original.supernet.network(images("vit")), source("vit")(images("vit")), atol=1e-5)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"names `../elsewhere.safetensors`, which is not beside it"):
        read_into(made("vit", 2), tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("where", ["label_names", "pretrained_cfg", "id2label"])
def test_classes_in_another_order_are_put_in_order(where: str, tmp_path: Path) -> None:
    own = [f"class_{number}" for number in (3, 1, 2, 0, 4, 5, 9, 7, 8, 6)]
    config: dict[str, Any] = {"label_names": own}
    if where == "pretrained_cfg":
        config = {"pretrained_cfg": {"label_names": own}}
    if where == "id2label":
        config = {"id2label": {str(number): name.replace("_", " ") for number, name in enumerate(own)}}
    folder_of(tmp_path, source("vit").state_dict(), config)
    wanted = sorted(own)
    model = made("vit", 2)
    tells, notes = read_into(model, tmp_path, wanted)
    assert tells
    assert len(notes) == 1
    assert "another order" in notes[0]
    order = [own.index(name) for name in wanted]
    assert torch.allclose(model(images("vit")), source("vit")(images("vit"))[:, order], atol=1e-6)
    assert read_into(made("vit", 2), tmp_path, own) == (True, ())


def test_classes_that_are_others_give_no_classifier(tmp_path: Path) -> None:
    folder_of(tmp_path, source("vit").state_dict(), {"label_names": [f"class {number}" for number in range(CLASSES)]})
    before = made("vit", 2)
    model = made("vit", 2)
    tells, notes = read_into(model, tmp_path, [f"kind {number}" for number in range(CLASSES)])
    assert not tells
    assert "tells other classes" in notes[0]
    assert torch.equal(model.head.weight, before.head.weight)  # type: ignore[union-attr, arg-type]
    few = made("vit", 2, num_classes=2)
    assert read_into(few, tmp_path, ["class 7", "class 2"])[0]  # some of its classes: their rows
    assert torch.equal(few.head.weight, source("vit").head.weight[[7, 2]])  # type: ignore[union-attr, index, arg-type]


def test_rows_of_names() -> None:
    assert rows_of(["b", "a"], ["a", "b"]) == [1, 0]
    assert rows_of(["Golden Retriever", "tabby-cat"], ["golden_retriever", "tabby_cat"]) == [0, 1]
    assert rows_of(["a", "A"], ["A", "a"]) == [1, 0]
    assert rows_of(["a", "b"], ["a", "c"]) is None
    assert rows_of(["a", "a"], ["a"]) is None


def other_depth(tensors: Tensors) -> dict[str, Any]:
    return {name.replace("blocks.1.", "blocks.2."): tensor for name, tensor in tensors.items()}


REFUSED: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "deeper": (lambda own: {**own, **other_depth(own)}, "12 without a place in the model"),
    "shallower": (other_depth, "12 missing"),
    "layer scale": (lambda own: {**own, "blocks.0.ls1.gamma": torch.ones(48)}, "`blocks.0.ls1.gamma`"),
    "registers": (lambda own: {**own, "reg_token": torch.ones(1, 4, 48)}, "without a place in the model .`reg_token`"),
    "wider": (lambda own: {**own, "norm.weight": torch.ones(64)}, r"norm.weight: found .64,., expected .48,."),
    "whole numbers": (lambda own: {**own, "norm.weight": torch.ones(48, dtype=torch.int8)}, "found int8"),
    "not finite": (lambda own: {**own, "norm.bias": torch.full((48,), float("nan"))}, "not finite"),
    "another model": (
        lambda own: {"state_dict": {f"model.layer{n}.conv": own["norm.bias"] for n in range(3)}},
        "begin with `model.`",
    ),
    "no tensors": (lambda own: {"epoch": 3, "lr": 0.1}, "no tensors by name, only `epoch`, `lr`"),
    "a list": (lambda own: [1, 2], "found a list"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_the_model_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    change, message = REFUSED[kind]
    torch.save(change(dict(source("vit").state_dict())), tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        read_into(made("vit", 2), tmp_path / "weights.pth")


def test_what_shapes_do_not_show_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, source("vit").state_dict(), {"num_attention_heads": 6})
    with pytest.raises(CheckpointError, match="says 6 heads, the model has 3"):
        read_into(made("vit", 2), tmp_path)
    folder_of(tmp_path, source("clip").state_dict(), {"vision_config": {"hidden_act": "quick_gelu"}})
    with pytest.raises(CheckpointError, match="says activation `quick_gelu`"):
        read_into(made("clip", 2), tmp_path)
    folder_of(tmp_path, source("deit").state_dict(), {"architecture": "deit_tiny_distilled_patch16_224"})
    with pytest.raises(CheckpointError) as refusal:
        read_into(made("vit", 2), tmp_path)
    assert "names `deit_tiny_distilled_patch16_224`: give that model" in str(refusal.value.hint)


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
    np.savez(tmp_path / "jax.npz", kernel=np.ones(3))
    (tmp_path / "text.pth").write_text("hello")
    for name, message in (("script.pt", "TorchScript"), ("jax.npz", "NumPy archive"), ("text.pth", "cannot be read")):
        with pytest.raises(CheckpointError, match=message):
            read_into(made("vit", 2), tmp_path / name)
    with pytest.raises(CheckpointError, match=r"found `script.pt`, `text.pth`, expected `model.safetensors`"):
        read_into(made("vit", 2), tmp_path)
