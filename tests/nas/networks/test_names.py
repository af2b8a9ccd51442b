"""What one types for a network: every form is understood everywhere, and what makes no sense is refused in words."""

from __future__ import annotations

import copy
import json
import pickle
from functools import cache
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import nas
from nas.cli.main import app
from nas.errors import RunError, UsageError
from nas.exporting.export import Export
from nas.exporting.members import export_run
from nas.networks.resolve import resolve_architecture, resolve_network
from search_spaces import NasError, get_space
from search_spaces.timm_models import TimmModelError, TimmReference

MODEL = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_run(Path("elastic-mini/smallest"), folder=tmp_path_factory.mktemp("exports") / "small")


@cache
def params(text: str) -> int:
    return resolve_network(text).graph().params


@pytest.mark.parametrize(
    "text", [f"timm/{MODEL}", f"hf-hub:timm/{MODEL}", f"hf_hub:timm/{MODEL}", f"timm:{MODEL}", f"{MODEL}?"]
)
def test_a_timm_model_by_any_of_its_names(text: str) -> None:
    assert params(text) == params(MODEL) == 5_717_416
    assert TimmReference.parse(text).text == MODEL
    assert resolve_architecture(text).space == f"timm:{MODEL}"


def test_arguments_are_part_of_the_name() -> None:
    assert resolve_network(f"timm/{MODEL}?img_size=96").input_shape == (3, 96, 96)
    assert resolve_network(f"{MODEL}?img_size=[64,96]").input_shape == (3, 64, 96)
    assert resolve_network("resnet18?img_size=64").input_shape == (3, 64, 64)
    assert params(f"{MODEL}?img_size=96") == 5_717_416 - 192 * (196 - 36)
    assert params(f"{MODEL}?num_classes=10") == 5_717_416 - 193 * 990
    assert params(f"{MODEL}?in_chans=3") == 5_717_416
    assert resolve_network("timm:resnet18").architecture is None, "it cannot be made elastic, but it has a cost"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{MODEL}?checkpoint_path=x.pth", "argument `checkpoint_path`: it chooses weights"),
        (f"timm:{MODEL}?pretrained=True", "argument `pretrained`: it chooses weights"),
        (f"{MODEL}?in_chans=1", "argument `in_chans` is 1, expected 3"),
        (f"{MODEL}?features_only=True", "argument `features_only`: the model would give no logits"),
        (f"{MODEL}?img_size=96&img_size=64", "an argument is given twice"),
        (f"{MODEL}?img_size=0", "found image size 0, expected pixels"),
        (f"{MODEL}?img_size=big", "found image size big, expected pixels"),
        (f"{MODEL}?depth=-1", "cannot be made with depth=-1: "),
        (f"{MODEL}?no_such=1", "cannot be made with no_such=1: "),
        (f"{MODEL}.no_such_tag", "unknown timm model"),
        ("hf-hub:google/vit-base-patch16-224", "found a model of somebody else"),
        ("?img_size=96", "found another form"),
        ("  ", "the name of the network is blank"),
        ("n" * 5000, "unknown network"),
        ("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n/\N{SNOWMAN}", "unknown network"),
        (":", "unknown network"),
        ("/", "holds no"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(NasError, match=message) as caught:
        resolve_network(text).graph()
    assert str(caught.value).strip()


@pytest.mark.parametrize("command", ["predict", "inspect", "profile", "score"])
def test_every_command_takes_names_with_arguments(command: str) -> None:
    given = {"predict": ["latency", "predict", "--target", "pixel6"], "score": ["score", "--scores", "params"]}
    line = [*given.get(command, [command]), f"timm/{MODEL}?img_size=32", "--json"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert f"{MODEL}?img_size=32" in result.stdout
    refused = CliRunner().invoke(app, [*given.get(command, [command]), f"{MODEL}?checkpoint_path=x"])
    assert refused.exit_code == 2
    assert "it chooses weights" in refused.output


def test_an_exported_folder_is_a_network(exported: Export) -> None:
    smallest = get_space("elastic-mini").smallest
    network = resolve_network(str(exported.folder))
    assert network.architecture == smallest
    assert network.graph().params == get_space("elastic-mini").lower(smallest).params
    with pytest.raises(UsageError, match="is an exported folder, expected a run"):
        export_run(exported.folder)


def test_a_folder_of_timm_is_a_network(tmp_path: Path) -> None:
    config = {"architecture": MODEL, "num_classes": 10, "model_args": {"img_size": 96}, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert resolve_network(str(tmp_path)).graph().params == 5_717_416 - 192 * (196 - 36) - 193 * 990
    for damaged in ({}, {"architecture": 3}, {"architecture": {"space": 3}}, {"architecture": MODEL, "model_args": 3}):
        (tmp_path / "config.json").write_text(json.dumps(damaged))
        with pytest.raises(RunError, match="does not describe a network"):
            resolve_network(str(tmp_path))


def test_a_file_is_known_by_its_ending_in_any_letters(tmp_path: Path, exported: Export) -> None:
    for name in ("a.ONNX", "a.Onnx"):
        (tmp_path / name).write_bytes(exported.onnx.read_bytes())
        assert (
            resolve_network(str(tmp_path / name)).graph().macs == resolve_network("elastic-mini/smallest").graph().macs
        )
    (tmp_path / "b.JSON").write_text(json.dumps(get_space("elastic-mini").smallest.to_dict()))
    assert resolve_architecture(str(tmp_path / "b.JSON")) == get_space("elastic-mini").smallest
    with pytest.raises(UsageError, match="belongs to no search space"):
        resolve_architecture(str(tmp_path / "a.ONNX"))


def test_loaded_networks_can_be_kept_copied_and_compiled(exported: Export) -> None:
    network = nas.load(exported.folder)
    images_BCHW = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected_BK = network(network.preprocess(images_BCHW))
        copies = [pickle.loads(pickle.dumps(network)), copy.deepcopy(network)]
        for other in (*copies, torch.compile(network, backend="eager")):
            assert torch.allclose(other(other.preprocess(images_BCHW)), expected_BK, atol=1e-5)
    assert copies[0].config == network.config
    with pytest.raises(UsageError, match=r"nas\.load: `path` is 3"):
        nas.load(3)  # type: ignore[arg-type]


def test_timm_reference_refuses_before_timm_is_asked() -> None:
    with pytest.raises(TimmModelError, match="argument `cache_dir`"):
        get_space(f"timm/{MODEL}?cache_dir=x")
