"""A network that tells several labels: trained, judged, exported, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import nas
from nas.cli.main import app
from nas.errors import UsageError
from nas.evaluation.accuracy import guessed, judge_part
from nas.finishing.result import FinishResult
from nas.networks.onnx import OnnxNetwork
from supernets.data.sources import load_data
from supernets.errors import TrainingError
from tests.support.labelled_images import write_spots

QUICK = {"batch_size": 32}


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spots(tmp_path_factory.mktemp("spots"))


@pytest.fixture(scope="module")
def finished(spots: Path) -> FinishResult:
    return nas.finish(
        arch="resnas-mini/smallest", data=str(spots), epochs=2, options=QUICK, output=spots.parent / "spots-run"
    )


@pytest.mark.slow
def test_several_labels_are_finished_judged_and_exported(finished: FinishResult, spots: Path) -> None:
    document = json.loads((finished.run / "finish.json").read_text())
    assert document["mean_average_precision"] == finished.accuracy
    assert document["macro_auroc"].keys() == {"trained", "averaged"}
    assert not {"accuracy", "balanced_accuracy", "figures"} & document.keys()
    assert FinishResult.from_dict(document) == finished
    verified = finished.verified
    assert verified["test_mean_average_precision"] == verified["torch_test_mean_average_precision"]
    assert 0 < verified["test_prior"] < 1
    assert verified["test_by_label"].keys() == {"above", "below"}
    folder = finished.run / verified["export"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["problem_type"], config["activation"]) == ("multi_label_classification", "sigmoid")
    assert config["image"]["class_names"] == ["above", "below"]
    assert "its sigmoid is the probability" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_the_exported_file_gives_the_probabilities_of_pytorch_image_by_image(
    finished: FinishResult, spots: Path
) -> None:
    images, folder = load_data(str(spots), 32, workers=0), finished.run / finished.verified["export"]
    x_BCHW, _ = next(images.batches("test", 64))
    with torch.no_grad():
        expected_BK = nas.load(folder)(x_BCHW).sigmoid()
    found_BK = torch.as_tensor(OnnxNetwork(folder / "model.onnx")(x_BCHW)).sigmoid()
    assert torch.allclose(found_BK, expected_BK, atol=1e-5)
    judged = judge_part(OnnxNetwork(folder / "model.onnx"), images, "test")
    assert judged.value == finished.verified["test_mean_average_precision"]
    assert guessed(images, "test") == pytest.approx(finished.verified["test_prior"])


@pytest.mark.parametrize(
    ("given", "error", "problem"),
    [
        ({"exits": 1}, UsageError, "early exits: images of .* have several labels, expected one class of each"),
        ({"options": {"mixing": "token"}}, TrainingError, "setting `mixing`: found 'token', which takes one class"),
        ({"options": {"class_weights": "effective"}}, TrainingError, "setting `class_weights`"),
    ],
)
def test_what_takes_one_class_of_each_image_is_refused(
    given: dict[str, object], error: type[Exception], problem: str, spots: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=problem):
        nas.finish(arch="resnas-mini/smallest", data=str(spots), output=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_search_names_the_objective_that_the_labels_are_for(spots: Path, tmp_path: Path) -> None:
    given = {"space": "resnas-mini", "data": str(spots), "output": tmp_path / "run", "target": "pixel6"}
    with pytest.raises(UsageError, match=r"objective `balanced_accuracy`: images of .* have several labels"):
        nas.search(**given, objectives=["balanced_accuracy", "macs"])
    with pytest.raises(UsageError, match=r"objective `mean_average_precision`: .* have one class each"):
        nas.search(**{**given, "data": "digits"}, objectives=["mean_average_precision", "macs"])


@pytest.mark.slow
def test_the_command_line_tells_what_labels_are_worth(finished: FinishResult, spots: Path) -> None:
    ran = CliRunner().invoke(app, ["data", "check", str(spots), "--json"])
    assert json.loads(ran.stdout)["labels"]["mean"] == pytest.approx(1, abs=0.2)
    from nas.cli.search import label_lines

    (line,) = label_lines({**finished.verified, "test_mean_average_precision": 1.0})
    assert line.startswith("beside it: macro AUROC")
    assert "(prior" in line
    worse = label_lines({**finished.verified, "test_mean_average_precision": 0.0})
    assert worse[1] == "warning: the network is no better than guessing"
