"""A model that goes on learning from pictures without labels: what moves, what stays, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import nas
from nas.errors import NasError, UsageError
from nas.training import adapt as verb
from supernets.errors import DataError, TrainingError
from supernets.timm_models.loading import load_backbone, load_original
from supernets.training.self_distillation import (
    QueryValueChange,
    fold_changes,
    open_to_training,
    trained_parameters,
)

SIZES = {"depth": 3, "embed_dim": 32, "img_size": 32, "num_heads": 2, "patch_size": 8}
MODEL = "vit_tiny_patch16_224?" + "&".join(f"{name}={size}" for name, size in SIZES.items())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures in two folders, and a file that is none."""
    top, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(9):
        (top / f"{number % 2}").mkdir(exist_ok=True)
        noise = generator.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(top / f"{number % 2}" / f"{number}.png")
    (top / "broken.png").write_bytes(b"no picture")
    return top


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "model.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=10, **SIZES).state_dict(), path)
    return path


def test_last_block_norms_and_query_and_value_rows_move_and_nothing_else(
    pictures: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "FEWEST_PICTURES", 10)
    folder = tmp_path / "adapted"
    found = nas.adapt(MODEL, pictures, folder, weights=weights, epochs=2, batch_size=5, rank=4).record
    assert found["steps"] == 4
    assert found == json.loads((folder / "adapt.json").read_text(encoding="utf-8"))
    before, after = load_file(weights), load_file(folder / "model.safetensors")
    assert before.keys() - after.keys() == {"head.weight", "head.bias"}
    for name, tensor in after.items():
        is_free = name.startswith("blocks.2.") or "norm" in name
        if name.endswith("qkv.weight") and not is_free:
            for rows, moves in zip(range(3), (True, False, True), strict=True):
                own = slice(32 * rows, 32 * rows + 32)
                assert torch.equal(tensor[own], before[name][own]) != moves
                change = (tensor[own] - before[name][own]).double()
                assert torch.linalg.matrix_rank(change, rtol=0.01) <= 4
        elif not is_free:
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(after["blocks.2.mlp.fc1.weight"], before["blocks.2.mlp.fc1.weight"])
    original = load_original(MODEL, folder, classes=10)
    kept = original.supernet.network.state_dict()
    assert any(torch.equal(tensor, after["blocks.1.attn.qkv.weight"]) for tensor in kept.values())
    with pytest.raises(NasError, match="exists and holds no adapted model"):
        nas.adapt(MODEL, pictures, tmp_path, weights=weights)


def test_folding_changes_no_output(weights: Path) -> None:
    model, *_ = load_backbone(MODEL, str(weights))
    expected = trained_parameters(model, 4)
    names = open_to_training(model.eval(), 4)
    assert sum(each.numel() for each in model.parameters() if each.requires_grad) == expected
    for module in model.modules():
        if isinstance(module, QueryValueChange):
            torch.nn.init.normal_(module.up_2DR, std=0.1)
    x_BCHW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        changed_BD = model(x_BCHW)
        fold_changes(model, names)
        assert torch.allclose(model(x_BCHW), changed_BD, atol=1e-6)
        assert model(torch.randn(2, 3, 16, 16)).shape == (2, 32)  # small crops


def test_what_cannot_be_adapted_is_refused(pictures: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="10 pictures, expected 1,000 or more"):
        nas.adapt(MODEL, pictures, tmp_path / "run", weights=weights)
    with pytest.raises(DataError, match="found no folder"):
        nas.adapt(MODEL, tmp_path / "nothing", tmp_path / "run", weights=weights)
    for model in (f"{MODEL}&class_token=false&global_pool=avg", "swin_tiny_patch4_window7_224"):
        with pytest.raises(TrainingError, match="is no plain vision transformer with a class token"):
            load_backbone(model, "pretrained")
    assert not (tmp_path / "run").exists()
