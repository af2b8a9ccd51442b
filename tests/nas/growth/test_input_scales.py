"""A network at several scales of its input: tiles, costs, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import nas
from latency_tables.predictor import LatencyPredictor
from latency_tables.targets import load_target
from latency_tables.trace import trace
from nas.cli.main import app
from nas.errors import UsageError
from nas.growth import input_scales
from nas.growth.input_scales import SCALES, ScaledInputs, _costs, _fit, scale_chosen
from nas.objectives.bounds import Limit
from nas.objectives.quantities import PEAK_MEMORY
from search_spaces import SingleSpace
from search_spaces.graph import OpGraph
from supernets import Supernet
from supernets.fusion import without_classifier
from supernets.networks.input_scales import InputScales, merged, tiles_of
from tests.support.timm_networks import TINY, timm_space
from tests.support.timm_networks import made as made_supernet


@pytest.fixture(scope="module")
def alone() -> Supernet:
    """The smallest network of a small model, alone."""
    space = timm_space(made_supernet(TINY))
    return Supernet(SingleSpace(space, space.smallest)).eval()


def test_tiles_are_merged_as_they_were_cut() -> None:
    x_BCHW = torch.arange(2 * 3 * 12 * 12.0).reshape(2, 3, 12, 12)
    tiles = tiles_of(x_BCHW, 4)
    assert len(tiles) == 9
    assert torch.equal(tiles[1], x_BCHW[:, :, :4, 4:8])
    assert torch.equal(merged(tiles), x_BCHW)


def test_one_scale_is_the_network_itself_and_others_stand_beside_it(alone: Supernet) -> None:
    network = alone.network.eval()
    side = alone.space.input_shape(dict(alone.space.largest.settings))[-1]
    backbone = without_classifier(network, alone.space)
    x_BCHW = torch.randn(2, 3, 2 * side, 2 * side)
    with torch.no_grad():
        width = backbone(x_BCHW[:, :, :side, :side]).shape[1]
        one = InputScales(backbone, side, (1,), nn.Linear(width, 10))
        assert torch.equal(one.features(x_BCHW[:, :, :side, :side]), backbone(x_BCHW[:, :, :side, :side]))
        two = InputScales(backbone, side, (1, 2), nn.Linear(2 * width, 10)).features(x_BCHW)
        assert torch.equal(two[:, :width], backbone(nn.functional.avg_pool2d(x_BCHW, 2)))
        tiles = torch.stack([backbone(tile) for tile in tiles_of(x_BCHW, side)])
        assert torch.allclose(two[:, width:], tiles.mean(dim=0))


@pytest.fixture(scope="module")
def costs(alone: Supernet) -> list[tuple[dict[str, Any], InputScales, OpGraph]]:
    """Costs, network and op graph at each set of scales."""
    predictor, graphs = LatencyPredictor(load_target("pixel6")), list[OpGraph]()
    return [
        (*_costs(alone, scales, predictor, lambda graph: not graphs.append(graph)), graphs[-1])  # type: ignore[func-returns-value]
        for scales in SCALES
    ]


def test_multiply_accumulates_are_those_of_all_tiles(
    alone: Supernet, costs: list[tuple[dict[str, Any], InputScales, OpGraph]]
) -> None:
    side = alone.space.input_shape(dict(alone.space.largest.settings))[-1]
    backbone = without_classifier(alone.network, alone.space)
    macs = trace(backbone, (3, side, side)).macs
    found = [(entry, scaled) for entry, scaled, _ in costs]
    classifier = found[1][1].classifier
    assert isinstance(classifier, nn.Linear)
    width = classifier.in_features // 2
    for scales, (entry, _) in zip(SCALES, found, strict=True):
        own = len(scales) * width * classifier.out_features
        assert entry["macs"] == sum(scale**2 for scale in scales) * macs + own
        assert entry["side"] == scales[-1] * side
    assert found[2][0]["params"] - found[0][0]["params"] == 2 * 10 * width
    assert found[2][0]["high_ms"] > found[1][0]["high_ms"] > found[0][0]["high_ms"]


def test_at_one_scale_the_network_gives_its_own_logits(
    alone: Supernet, costs: list[tuple[dict[str, Any], InputScales, OpGraph]]
) -> None:
    side = alone.space.input_shape(dict(alone.space.largest.settings))[-1]
    x_BCHW = torch.randn(4, 3, side, side)
    with torch.no_grad():
        expected_BK = alone.network.eval()(x_BCHW)
    scaled = costs[0][1]
    assert torch.allclose(scaled(x_BCHW), expected_BK, atol=1e-6)
    labels_B = expected_BK.argmax(dim=1)
    labels_B[0] = (labels_B[0] + 1) % 10
    images = SimpleNamespace(batches=lambda part, size, most: [(x_BCHW, labels_B)], splits={"search": 4})
    assert _fit(scaled, images, lambda event: None) == 0.75  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("quantity", "within", "own", "chosen"),
    [("params", 2, 0.6, 2), ("params", 1, 0.6, 1), ("params", 2, 0.9, 0), ("peak-memory", 1, 0.6, 1)],
)
def test_a_search_takes_the_best_scales_within_its_bounds(
    alone: Supernet,
    costs: list[tuple[dict[str, Any], InputScales, OpGraph]],
    quantity: str,
    within: int,
    own: float,
    chosen: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs = [graph for *_, graph in costs]
    written: list[InputScales] = []

    def write(folder: Path, scaled: InputScales, images: object, record: dict[str, Any]) -> ScaledInputs:
        written.append(scaled)
        return ScaledInputs(folder, record)

    monkeypatch.setattr(input_scales, "_trained", lambda run, data: (alone, lambda side: side))
    monkeypatch.setattr(input_scales, "trace", lambda scaled, shape, name: graphs[len(scaled.scales) - 1])
    monkeypatch.setattr(input_scales, "_fit", lambda scaled, images, progress, most: 0.5 + 0.1 * len(scaled.scales))
    monkeypatch.setattr(input_scales, "_written", write)
    value = PEAK_MEMORY.graph(graphs[within]) if quantity == "peak-memory" else graphs[within].params
    bounds = [Limit(quantity, value, 0.9 * value), Limit("latency:pixel6", 1e6)]
    found = scale_chosen(tmp_path, bounds, "pixel6", own, folder=tmp_path / "scales")
    assert found.record["chosen"] == chosen
    assert [row["is_within"] for row in found.record["scales"]] == [place <= within for place in range(3)]
    assert found.record["scales"][0]["search_accuracy"] == own
    assert [scaled.scales for scaled in written] == ([SCALES[chosen]] if chosen else [])
    assert (tmp_path / "scales" / "scales.json").exists() is (not chosen)


def test_what_has_no_trained_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no single trained network"):
        nas.scale_inputs(tmp_path)
    for words, message in (
        (["--along", "scales", "--seed", "1"], "`--seed` beside `--along scales`"),
        (["--along", "width"], "expected size or scales"),
        (["--data", "digits"], "`--data` without `--along scales`"),
    ):
        result = CliRunner().invoke(app, ["scale", "--from", str(tmp_path), *words])
        assert result.exit_code == 2
        assert message in " ".join(result.output.replace("│", " ").split())


@pytest.mark.slow
def test_a_trained_network_is_written_at_the_best_scales(tmp_path: Path) -> None:
    run = nas.train(arch="elastic-mini/middle", data="digits", epochs=5, output=tmp_path / "run").run
    found = nas.scale_inputs(run)
    record = json.loads((found.folder / "scales.json").read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps(found.record))
    assert [entry["scales"] for entry in record["scales"]] == [list(scales) for scales in SCALES]
    within = [entry["search_accuracy"] for entry in record["scales"] if entry["is_within"]]
    assert within[record["chosen"]] == max(within)
    assert record["test_accuracy"] > 0.5
    assert (found.folder / "model.onnx").exists()
