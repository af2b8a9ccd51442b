"""Maps of features beside logits: which they are, and that the file gives the network's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from nas.errors import NasError
from nas.exporting.formats import features
from nas.exporting.formats.base import ExportedNetwork
from nas.exporting.formats.features import FEATURES
from supernets.feature_maps import FeatureMaps
from supernets.networks.timm_subnet import MergingBlocks

SWIN: dict[str, Any] = {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1,) * 4, "num_heads": (1,) * 4}
VIT: dict[str, Any] = {"img_size": 48, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}


def built(name: str, sizes: dict[str, Any]) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **sizes).eval()
    return model, torch.randn(2, 3, sizes["img_size"], sizes["img_size"])


def test_a_pyramid_has_the_map_of_each_stage() -> None:
    model, x_BCHW = built("swin_tiny_patch4_window7_224", SWIN)
    maps = FeatureMaps(model, x_BCHW[:1])
    assert list(maps.maps) == [4, 8, 16, 32]
    with torch.no_grad():
        logits_BK, *found = maps(x_BCHW)
        assert torch.equal(logits_BK, model(x_BCHW))
        expected = model.forward_intermediates(x_BCHW, intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(found[:3], expected[:3], strict=True))
    assert found[3].shape == expected[3].shape  # behind the last norm


def test_a_plain_transformer_has_one_map_behind_its_norm_and_the_file_gives_it(tmp_path: Path) -> None:
    model, x_BCHW = built("vit_tiny_patch16_224", VIT)
    maps = FeatureMaps(model, x_BCHW[:1])
    with torch.no_grad():
        _, map_BCHW = maps(x_BCHW)
        expected_BNC = model.forward_features(x_BCHW)[:, 1:]
    assert list(maps.maps) == [16]
    assert torch.equal(map_BCHW, expected_BNC.transpose(1, 2).reshape(2, 32, 3, 3))

    path = tmp_path / FEATURES.file
    facts = FEATURES.write(ExportedNetwork(model, tmp_path / "model.onnx", x_BCHW, list), path)
    (entry,) = facts["maps"]
    assert (entry["name"], entry["channels"], entry["side"]) == ("stride16", 32, 3)
    assert entry["difference"] < 1e-4
    with torch.no_grad():
        assert torch.allclose(FEATURES.run(path, x_BCHW), model(x_BCHW), atol=1e-5)


def test_maps_that_differ_and_networks_without_maps_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))
    with pytest.raises(NasError, match="the network has no maps at strides of 4 to 32 pixels"):
        FeatureMaps(flat, torch.zeros(1, 3, 8, 8))
    with pytest.raises(NasError, match="the network merges tokens"):
        FeatureMaps(MergingBlocks(flat, before=[0], merged=1, prefix=1), torch.zeros(1, 3, 8, 8))
    model, x_BCHW = built("vit_tiny_patch16_224", VIT)
    wrong = SimpleNamespace(outputs=lambda images_BCHW, names: [np.zeros((2, 32, 3, 3))])
    monkeypatch.setattr(features, "export_onnx", lambda *_, **__: None)
    monkeypatch.setattr(features, "OnnxNetwork", lambda path: wrong)
    with pytest.raises(NasError, match="the map at stride 16 differs by"):
        FEATURES.write(ExportedNetwork(model, tmp_path / "model.onnx", x_BCHW, list), tmp_path / "file.onnx")
