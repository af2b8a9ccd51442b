"""Mean intersection over union of a linear classifier of patches, as an objective of a search inside a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import nas
from nas.errors import EvaluationError, UsageError
from nas.evaluation.segmentation import SegmentationEvaluator, chosen_stride
from nas.searching.resolution import resolve_settings
from nas.training.adaptation import worth_of
from search_spaces import get_space
from search_spaces.timm_models import TOKENS, TimmModelError, TimmReference
from supernets.data.sources import load_data
from supernets.timm_models.loading import load_timm_supernet

SIZES = {"depth": 2, "embed_dim": 48, "img_size": 32, "num_heads": 3, "patch_size": 4}
MODEL = "vit_tiny_patch16_224?" + "&".join(f"{name}={value}" for name, value in SIZES.items())


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Light squares on noise, and masks of them."""
    top, generator = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for folder in ("images", "masks"):
        (top / folder).mkdir()
    for number in range(60):
        row, column = generator.integers(0, 16, 2)
        mask = np.zeros((32, 32), dtype=np.uint8)
        mask[row : row + 16, column : column + 16] = 1
        picture = generator.integers(0, 100, (32, 32)) + 120 * mask
        Image.fromarray(picture.astype(np.uint8)).save(top / "images" / f"{number}.png")
        Image.fromarray(mask).save(top / "masks" / f"{number}.png")
    return top


def test_networks_inside_a_model_are_judged_by_their_patches(squares: Path) -> None:
    torch.manual_seed(0)
    supernet, data = load_timm_supernet(MODEL, classes=2), load_data(str(squares), 32, workers=0)
    judge, space = SegmentationEvaluator(supernet, data), supernet.space
    whole = judge.evaluate(space.largest, 0).objective
    assert 0.6 < whole <= 1
    assert judge.evaluate(space.largest, 1).objective == whole
    merging = replace(space.largest, settings=(*space.largest.settings, (TOKENS, 2)))
    (refused,) = judge.evaluate_batch([merging], 0)
    assert isinstance(refused, EvaluationError)
    assert "merges tokens" in str(refused)
    with pytest.raises(UsageError, match="objective `mean_iou`: `digits` has no masks"):
        SegmentationEvaluator(supernet, load_data("digits", 32))
    assert [chosen_stride(strides) for strides in ([4, 8, 16, 32], [14], [32])] == [2, 0, 0]


def test_an_objective_of_masks_keeps_patches_on_their_grid() -> None:
    given = {"model": MODEL, "weights": "x.safetensors", "data": "y", "objectives": ["mean_iou", "macs"]}
    settings = resolve_settings(given)
    assert (settings.judged_by, settings.uses_labels, settings.budget_seconds) == ("mean_iou", False, 0.0)
    assert settings.model is not None
    assert TimmReference.parse(settings.model).text == settings.model
    assert settings.model.endswith("merge=none")
    assert get_space(settings.space).columns.keys() == get_space(f"timm:{MODEL}").columns.keys()
    values = {choice.name: choice.values for choice in get_space(settings.space).choices}
    assert values[TOKENS] == (0,)
    with pytest.raises(TimmModelError, match="argument `merge` is all, expected none"):
        TimmReference.parse(f"{MODEL}&merge=all")
    with pytest.raises(UsageError, match="objective `mean_iou` judges patches of networks inside a trained model"):
        resolve_settings({"space": "elastic", "data": "y", "objectives": ["mean_iou", "macs"]})


@pytest.mark.slow
def test_a_search_by_masks_ships_maps_that_are_worth_what_it_says(squares: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    weights = tmp_path / "model.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0, **SIZES).state_dict(), weights)
    asked = {"model": MODEL, "weights": str(weights), "data": str(squares), "compensation": "none"}
    result = nas.search(**asked, objectives=["mean_iou", "latency"], evaluations=2, output=tmp_path / "run")
    verified = result.document["verified"]
    assert {"search_mean_iou", "test_mean_iou", "original_test_mean_iou"} <= verified.keys()
    assert verified["test_iou_by_class"].keys() == {"class 0", "class 1"}
    export = result.run / verified["export"]
    assert (export / "model.features.onnx").exists()
    assert json.loads((export / "config.json").read_text())["labels"] == "none"
    assert verified["test_mean_iou"] > 0.5
    worth = worth_of(MODEL, str(weights), str(squares))
    assert (worth.figure, worth.neighbours) == ("mean_iou", None)
    assert verified["original_test_mean_iou"] == pytest.approx(worth.probe, abs=0.1)
    assert "mean iou" in result.report().read_text().lower()
    with pytest.raises(UsageError, match="was searched without labels"):
        nas.finish(result.run)
