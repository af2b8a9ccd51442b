"""A search inside a model on images with several labels each: fitted, judged, exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import nas
from tests.support.labelled_images import write_spots

SIZES = {"depth": 2, "embed_dim": 48, "img_size": 16, "num_heads": 3, "patch_size": 4}
MODEL = "vit_tiny_patch16_224?" + "&".join(f"{name}={value}" for name, value in SIZES.items())


@pytest.mark.slow
def test_networks_inside_a_model_are_judged_by_mean_average_precision(tmp_path: Path) -> None:
    torch.manual_seed(1)
    weights = tmp_path / "model.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0, **SIZES).state_dict(), weights)
    asked = {"model": MODEL, "weights": str(weights), "data": str(write_spots(tmp_path / "spots", 120, 16))}
    result = nas.search(**asked, evaluations=3, budget_seconds=0, limit_share=0.9, output=tmp_path / "run")
    document = result.document
    assert document["objectives"]["maximise"] == "mean_average_precision"
    assert document["model"]["head"] == "fitted"
    assert document["model"]["mean_average_precision"] > 0.9
    assert document["model"]["teaches"]
    assert "accuracy" not in document["model"]
    verified = document["verified"]
    assert verified["test_mean_average_precision"] > verified["test_prior"]
    assert {"search_mean_average_precision", "original_test_mean_average_precision"} <= verified.keys()
    page = result.report().read_text(encoding="utf-8")
    assert "Average precision by label" in page
    assert "test mean average precision" in page
