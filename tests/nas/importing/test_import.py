"""`nas import` and what follows it: search, finish and export of weights that others trained."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner, Result

import nas
from nas.cli.main import app
from nas.networks.onnx import OnnxNetwork
from nas.runs.folder import RunFolder
from search_spaces import get_space
from supernets.data.sources import load_data
from tests.support.published_supernets import Tensors, autoformer_logits, autoformer_tensors, elasticvit_logits
from tests.support.published_supernets import elasticvit_tensors as elastic_tensors

MINI = get_space("autoformer-mini")
TRAINING_STEPS = 400
"""A minute on one core."""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def mini_file(folder: Path, classes: int = 10) -> tuple[Path, Tensors]:
    tensors = autoformer_tensors(256, 3, 4, 4, classes)
    torch.save({"model": tensors}, folder / "supernet-mini.pth")
    return folder / "supernet-mini.pth", tensors


def difference(found: object, expected: torch.Tensor) -> float:
    return float((torch.as_tensor(found) - expected).abs().max() / (expected.max() - expected.min()))


def test_an_import_says_whose_it_is_and_what_comes_next(tmp_path: Path) -> None:
    file, _ = mini_file(tmp_path)
    result = run("import", file, "-o", tmp_path / "run", "--space", "autoformer-mini")
    assert result.exit_code == 0, result.output
    assert "MIT" in result.output
    assert "nas search --supernet" in result.output
    again = run("import", file, "-o", tmp_path / "run", "--force", "--json")
    document = json.loads(again.stdout)
    assert (document["space"], document["classes"]) == ("autoformer-mini", 10)
    assert document["origin"]["license"] == "MIT"
    assert RunFolder(tmp_path / "run").command == "import"
    for arguments, message in {
        ("search", "--supernet", tmp_path / "run"): "imported without images",
        ("export", tmp_path / "run"): "holds a supernet, expected",
        ("report", tmp_path / "run"): "holds an imported supernet",
        ("import", tmp_path / "nothing.pth"): "found nothing",
    }.items():
        refused = run(*arguments)
        assert refused.exit_code in (2, 4), refused.output
        assert message in refused.output


@torch.no_grad()
def test_one_network_is_taken_out_and_exported_without_images(tmp_path: Path) -> None:
    file, tensors = mini_file(tmp_path)
    result = nas.import_supernet(file, tmp_path / "run", arch="smallest")
    assert result.architecture == MINI.smallest
    exported = run("export", tmp_path / "run")
    assert exported.exit_code == 0, exported.output
    folder = tmp_path / "run" / "exports" / "network"
    x_BCHW = torch.randn(2, 3, 64, 64)
    expected = autoformer_logits(tensors, x_BCHW, dict(MINI.smallest.settings), "autoformer")
    assert difference(nas.load(folder)(x_BCHW), expected) < 1e-5
    assert difference(OnnxNetwork(folder / "model.onnx")(x_BCHW), expected) < 1e-5
    assert (folder / "autoformer.py").exists()
    assert "licence of the source weights | MIT" in (folder / "README.md").read_text()


@pytest.mark.slow
@torch.no_grad()
def test_a_network_of_elasticvit_is_exported_with_the_statistics_of_the_file(tmp_path: Path) -> None:
    tensors = elastic_tensors()
    torch.save({"model_ema": tensors}, tmp_path / "checkpoint.pth.tar")
    result = nas.import_supernet(tmp_path / "checkpoint.pth.tar", tmp_path / "run", arch="elastic/T1")
    assert result.architecture is not None
    assert run("export", tmp_path / "run").exit_code == 0
    x_BCHW = torch.randn(2, 3, 128, 128)
    expected = elasticvit_logits(tensors, x_BCHW, dict(result.architecture.settings))
    assert difference(OnnxNetwork(tmp_path / "run" / "exports" / "network" / "model.onnx")(x_BCHW), expected) < 1e-5


def trained(tensors: Tensors, steps: int) -> None:
    """Train a supernet by its authors' rules: one random network a step, on digits."""
    images, generator = load_data("digits", 64), np.random.default_rng(0)
    optimizer = torch.optim.AdamW([tensor.requires_grad_() for tensor in tensors.values()], lr=1e-3)
    batches = (batch for epoch in itertools.count() for batch in images.train_batches(32, seed=0, epoch=epoch))
    for x_BCHW, labels_B in itertools.islice(batches, steps):
        network = dict(MINI.decode(MINI.sample(1, generator))[0].settings)
        optimizer.zero_grad()
        F.cross_entropy(autoformer_logits(tensors, x_BCHW, network, "autoformer"), labels_B).backward()
        optimizer.step()
    for tensor in tensors.values():
        tensor.requires_grad_(False)


@pytest.mark.slow
def test_from_somebodys_training_to_a_file_that_is_right_on_the_same_images(tmp_path: Path) -> None:
    file, tensors = mini_file(tmp_path)
    trained(tensors, TRAINING_STEPS)
    torch.save({"model": tensors, "epoch": 1}, file)
    nas.import_supernet(file, tmp_path / "run")
    arguments = ("--data", "digits", "--objectives", "accuracy,macs", "--evaluations", "8", "-o", tmp_path / "search")
    searched = run("search", "--supernet", tmp_path / "run", *arguments)
    assert searched.exit_code == 0, searched.output
    front = nas.load_result(tmp_path / "search")
    member = front.pick("best")
    folder = front.export(pick="best")
    images, network = load_data("digits", 64), OnnxNetwork(Path(folder) / "model.onnx")
    right, by_rules, count = 0, 0, 0
    with torch.no_grad():
        for x_BCHW, labels_B in images.batches("test", 64):
            expected = autoformer_logits(tensors, x_BCHW, dict(member.architecture.settings), "autoformer")
            right += int((torch.as_tensor(network(x_BCHW)).argmax(1) == labels_B).sum())
            by_rules += int((expected.argmax(1) == labels_B).sum())
            count += len(labels_B)
    assert right == by_rules > 0.5 * count
    # The classes of the weights, then others, whose classifier is fitted; guessing gives 0.1 and 0.03 or less.
    for data, least in (("digits", 0.3), ("glyphs", 0.06)):
        chosen = ("--pick", "best", "--data", data, "--budget", "8s", "-o", tmp_path / data, "--quiet")
        finished = run("finish", tmp_path / "search", *chosen)
        assert finished.exit_code == 0, finished.output
        assert json.loads((tmp_path / data / "finish.json").read_text())["accuracy"]["averaged"] > least
        assert "MIT" in (tmp_path / data / "exports" / "network" / "README.md").read_text()
