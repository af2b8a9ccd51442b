"""Finishing a network: what it starts from, what it ends with, and that it can be stopped anywhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import nas
from nas.cli.main import app
from nas.errors import RunError, UsageError
from nas.finishing.result import FinishResult
from nas.finishing.source import Source, load_inherited
from nas.finishing.teacher import check_teacher, default_teacher
from nas.runs.folder import ORIGINAL_NAME
from search_spaces import get_space
from search_spaces.errors import ArchitectureError, SearchSpaceError
from supernets.checkpoint import load_supernet, read_checkpoint, save_checkpoint
from supernets.data.image_data import divide
from supernets.errors import CheckpointError, TrainingError
from supernets.training.events import TrainingProgress
from supernets.training.recipes import recipe_settings

MINI = get_space("resnas-mini", 10)
QUICK = {"batch_size": 64}
"""Three steps an epoch."""
UNVERIFIED = {"export": "exports/network", "test_accuracy": 0.5, "torch_test_accuracy": 0.5, "test_images": 64}


@pytest.fixture(scope="module", autouse=True)
def few_digits() -> Iterator[None]:
    """Fewer digits, so that training takes no time."""
    whole, most = divide, {"train": 192, "search": 64, "test": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "supernets.data.digits.divide",
            lambda *given: {part: found[: most[part]] for part, found in whole(*given).items()},
        )
        yield


@pytest.fixture
def unexported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the export out, which takes longer than everything else; other tests look at it."""
    monkeypatch.setattr("nas.finishing.finish._Finish._verify", lambda *_: {**UNVERIFIED})


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet that was trained for a few steps, with a classifier of patches."""
    folder = tmp_path_factory.mktemp("finish") / "supernet"
    options = {**QUICK, "mixing": "token", "ema_decay": 0.5, "drop_path": 0.1}
    nas.train("resnas-mini", "digits", policy="uniform", epochs=3, options=options, output=folder)
    return folder


@pytest.fixture(scope="module")
def finished(supernet: Path) -> FinishResult:
    folder = supernet.parent / "finished"
    return nas.finish(supernet, arch="resnas-mini/smallest", epochs=2, output=folder)


def document(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


# -- the whole way ---------------------------------------------------------------------------------------------------


def test_a_network_is_finished_from_the_weights_of_its_supernet(finished: FinishResult, supernet: Path) -> None:
    settings = document(finished.run, "settings.json")
    assert (settings["start"], settings["teacher"], settings["data"]) == ("inherited", "largest", "digits")
    trained = read_checkpoint(supernet / "checkpoints/supernet.safetensors").metadata["settings"]
    training = settings["training"]
    assert training["learning_rate"] == pytest.approx(trained["learning_rate"] / 4)
    assert [training[name] for name in ("batch_size", "mixing", "drop_path")] == [64, "token", 0.1]
    assert (training["policy"], training["ema_decay"], finished.steps) == ("uniform", 0.9999, 6)
    accuracy = finished.accuracy
    assert accuracy.keys() == {"inherited", "teacher", "trained", "averaged"}
    assert 0 < accuracy["trained"] <= accuracy["averaged"] <= 1  # type: ignore[operator]
    assert set(finished.averaged) <= {"step 3", "step 6", "last step"}
    assert document(finished.run, "finish.json") == finished.to_dict()


def test_what_is_exported_is_the_finished_network(finished: FinishResult) -> None:
    verified = finished.verified
    assert abs(verified["test_accuracy"] - verified["torch_test_accuracy"]) < 0.001
    assert verified["test_images"] == 64
    exported = nas.load(finished.run / verified["export"])
    single, metadata = load_supernet(finished.checkpoint)
    assert metadata["architecture"] == MINI.smallest.to_dict()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(exported(images), single(images, MINI.smallest), atol=1e-4)
    ran = CliRunner().invoke(app, ["export", str(finished.run), "-o", str(finished.run / "again"), "--json"])
    assert ran.exit_code == 0, ran.output
    assert (finished.run / "again" / "model.onnx").exists()


class Stop(Exception):
    pass


@pytest.mark.usefixtures("unexported")
def test_a_finish_that_is_stopped_goes_on_to_the_same_weights(finished: FinishResult, supernet: Path) -> None:
    folder = supernet.parent / "torn"

    def interrupt(event: object) -> None:
        if isinstance(event, TrainingProgress) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        nas.finish(supernet, arch="resnas-mini/smallest", epochs=2, output=folder, progress=interrupt)
    assert not (folder / "finish.json").exists()

    def stop(event: object) -> None:
        if getattr(event, "name", "") == "averaging":
            raise Stop

    with pytest.raises(Stop):
        nas.finish(output=folder, resume=True, progress=stop)
    again = nas.finish(output=folder, resume=True)
    left, right = (read_checkpoint(result.checkpoint).weights for result in (finished, again))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert (again.accuracy, again.averaged) == (finished.accuracy, finished.averaged)


def test_a_resumed_finish_takes_no_other_question(finished: FinishResult, supernet: Path) -> None:
    with pytest.raises(RunError, match="`epochs` was 2"):
        nas.finish(epochs=3, output=finished.run, resume=True)
    with pytest.raises(RunError, match="`learning_rate` was"):
        nas.finish(options={"learning_rate": 1.0}, output=finished.run, resume=True)
    with pytest.raises(RunError, match="holds a `train` run, expected a `finish` run"):
        nas.finish(output=supernet, resume=True)
    with pytest.raises(RunError, match="holds a `finish` run, expected a `train` run"):
        nas.train(output=finished.run, resume=True)


def test_a_finished_network_is_finished_again_on_larger_images(finished: FinishResult) -> None:
    folder = finished.run.parent / "larger"
    result = nas.finish(finished.run, image_size=64, epochs=1, output=folder)
    settings = document(folder, "settings.json")
    assert (settings["teacher"], settings["image_size"]) == ("none", 64)
    single, metadata = load_supernet(result.checkpoint)
    assert (metadata["image_side"], single.space.image_side) == (64, 64)
    assert single.network.get_parameter("patch.position_embedding").shape[1] == 1 + 16**2
    config = document(folder / result.verified["export"], "config.json")
    assert (config["network"]["input_side"], config["image"]["load_side"]) == (64, 64)
    assert result.accuracy["inherited"] is not None
    assert abs(result.verified["test_accuracy"] - result.verified["torch_test_accuracy"]) < 0.001


@pytest.mark.usefixtures("unexported")
def test_a_network_is_trained_from_scratch_by_the_command(tmp_path: Path) -> None:
    arguments = ["finish", "--arch", "resnas-mini/smallest", "--data", "digits", "--epochs", "1", "--set"]
    ran = CliRunner().invoke(app, [*arguments, "batch_size=64", "-o", str(tmp_path / "run"), "--json", "-q"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert found["accuracy"]["inherited"] is None
    assert "teacher" not in found["accuracy"]
    settings = document(tmp_path / "run", "settings.json")
    assert (settings["start"], settings["teacher"], settings["training"]["learning_rate"]) == ("scratch", "none", 4e-3)


# -- what is refused, before anything is written ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, UsageError, "no network to finish"),
        ({"pick": "knee"}, UsageError, "no network to finish"),
        ({"arch": "resnas-mini/res-mini", "pick": "knee"}, UsageError, "pick `knee` without a run folder"),
        ({"arch": "resnas-mini/res-mini"}, UsageError, "no images to train on"),
        (
            {"arch": "resnas-mini/res-mini", "data": "digits", "start": "inherited"},
            UsageError,
            "there are no weights to inherit",
        ),
        ({"arch": "resnas-mini/res-mini", "data": "digits", "teacher": "largest"}, UsageError, "there is no supernet"),
        ({"arch": "resnas-mini/res-mini", "data": "digits", "teacher": "original"}, UsageError, "there is none"),
        (
            {"arch": "resnas-mini/res-mini", "data": "digits", "teacher": "resnet10"},
            UsageError,
            "timm has no network",
        ),
        ({"arch": "resnas-mini/res-mini", "data": "digits", "start": "begun"}, UsageError, "`start` is 'begun'"),
        ({"arch": "resnas-mini/res-mini", "data": "digits", "image_size": 40}, ArchitectureError, "a multiple of 16"),
        ({"arch": "elastic-mini/smallest", "data": "digits", "image_size": 64}, SearchSpaceError, "image side"),
        (
            {"arch": "elastic-mini/smallest", "data": "digits", "options": {"drop_path": 0.1}},
            SearchSpaceError,
            "stochastic depth",
        ),
        ({"arch": "resnas-mini/res-mini", "data": "digits", "epochs": 1, "budget_seconds": 1.0}, UsageError, "both"),
        ({"arch": "resnas-mini/res-mini", "data": "digits", "options": {"depth": 1}}, UsageError, "not known"),
        ({"arch": "resnas-mini/res-mini", "data": "digits", "options": {"low_rank": 4}}, UsageError, "are random"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        nas.finish(**arguments, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_that_name_no_network_are_refused(supernet: Path, finished: FinishResult, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a supernet, expected one network"):
        nas.finish(supernet, output=tmp_path / "run")
    with pytest.raises(UsageError, match="holds no search, found pick `best`"):
        nas.finish(supernet, pick="best", output=tmp_path / "run")
    with pytest.raises(UsageError, match="holds one network, found network"):
        nas.finish(finished.run, arch="resnas-mini/largest", output=tmp_path / "run")
    with pytest.raises(RunError, match="holds no run"):
        nas.finish(tmp_path, output=tmp_path / "run")
    with pytest.raises(UsageError, match="beside teacher `largest`"):
        nas.finish(supernet, arch="resnas-mini/smallest", options={"teachers": "resnet18"}, output=tmp_path / "run")
    with pytest.raises(UsageError, match="timm has no network of that name"):
        nas.finish(supernet, arch="resnas-mini/smallest", teacher="resnet19", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("unexported")
def test_inherited_weights_that_changed_are_noticed(finished: FinishResult, tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "run"
    nas.finish(arch="resnas-mini/smallest", data="digits", epochs=1, options=QUICK, output=source)
    nas.finish(source, epochs=1, output=folder)
    other = (finished.run / "checkpoints/supernet.safetensors").read_bytes()
    (source / "checkpoints/supernet.safetensors").write_bytes(other)
    with pytest.raises(RunError, match="`digest` was"):
        nas.finish(output=folder, resume=True)
    (source / "checkpoints/supernet.safetensors").write_bytes(other[:1000])
    with pytest.raises(CheckpointError):
        nas.finish(output=folder, resume=True)


def test_the_model_that_a_search_began_with_teaches_where_it_knows_the_classes(supernet: Path, tmp_path: Path) -> None:
    own = tmp_path / ORIGINAL_NAME
    checkpoint = Path(shutil.copy(supernet / "checkpoints/supernet.safetensors", tmp_path / "supernet.safetensors"))
    source, inherited = Source(MINI.smallest, checkpoint), load_inherited(checkpoint)
    assert default_teacher(source, inherited) == "largest"
    for teaches, expected in ((True, "original"), (False, "largest")):
        metadata = {**inherited.metadata, "settings": {"model": {"teaches": teaches}}}
        save_checkpoint(own, inherited.supernet, {}, metadata)  # type: ignore[arg-type]
        assert default_teacher(source, inherited) == expected
    with pytest.raises(UsageError, match="that one was made for other classes"):
        check_teacher("original", source, inherited)


# -- the same for `nas train` ----------------------------------------------------------------------------------------


def test_a_network_is_trained_on_larger_images(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    nas.train(arch="resnas-mini/smallest", image_size=64, epochs=1, options=QUICK, output=folder)
    single, _ = load_supernet(folder / "checkpoints/supernet.safetensors")
    assert single.space.image_side == 64
    again = nas.train(output=folder, resume=True)
    assert again.steps == 3


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"drop_path": 0.1}, SearchSpaceError, "stochastic depth"),
        ({"mixing": "token"}, TrainingError, "do not end with a map"),
    ],
)
def test_settings_that_do_not_suit_a_space_are_refused_before_anything_is_written(
    options: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is TrainingError:
        monkeypatch.setattr("supernets.families.elastic.ElasticFamily.map_side", lambda *_: None)
    with pytest.raises(kind, match=message):
        nas.train("elastic-mini", options=options, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_recipes_suit_what_is_trained() -> None:
    tiny, alone, small = (
        recipe_settings("resnas", {}, space=space, is_alone=is_alone)
        for space, is_alone in (("resnas-tiny", False), ("resnas-tiny", True), ("resnas-small", True))
    )
    assert [settings.drop_path for settings in (tiny, alone, small)] == [0.2, 0.2, 0.3]
    assert [(settings.epochs, settings.ema_decay) for settings in (tiny, alone)] == [(120, None), (300, 0.99996)]
    tuned = recipe_settings("resnas-finetune", {}, space="resnas-small", is_alone=True)
    assert (tuned.epochs, tuned.batch_size, tuned.weight_decay, tuned.drop_path) == (30, 256, 1e-8, 0.75)
    assert tuned.learning_rate * tuned.floor == pytest.approx(5e-6)


@pytest.mark.usefixtures("unexported")
def test_long_tails_have_a_recipe_that_fine_tunes_and_judges_every_class_alike(supernet: Path) -> None:
    folder, classes = supernet.parent / "long tail", {"arch": "resnas-mini/smallest", "recipe": "deit-lt"}
    result = nas.finish(supernet, **classes, teacher="largest", epochs=1, output=folder)  # type: ignore[arg-type]
    training = document(folder, "settings.json")["training"]
    chosen = [training[name] for name in ("teacher_target", "class_weights", "deferred", "augmentation", "batch_size")]
    assert chosen == ["hard", "effective", 0.9, "deit", 64]
    trained = read_checkpoint(supernet / "checkpoints/supernet.safetensors").metadata["settings"]
    assert training["learning_rate"] == pytest.approx(trained["learning_rate"] / 4)
    assert result.balanced_accuracy.keys() == {"inherited", "trained", "averaged"}
    assert 0 < result.balanced_accuracy["averaged"] <= 1
    scratch = recipe_settings("deit-lt", {"batch_size": 512})
    assert (scratch.epochs, scratch.learning_rate, scratch.warmup_epochs) == (1400, 5e-4, 5)


def test_what_a_recipe_cannot_do_without_is_asked_for(supernet: Path, tmp_path: Path) -> None:
    for given, what in (({"recipe": "deit-lt"}, "recipe `deit-lt`"), ({}, "setting `teacher_target` `hard`")):
        asked = {"options": {} if given else {"teacher_target": "hard"}, "output": tmp_path / "x", **given}
        with pytest.raises(UsageError, match=f"{what} learns what a teacher says, but there is none"):
            nas.finish(supernet, arch="resnas-mini/smallest", teacher="none", **asked)  # type: ignore[arg-type]
    asked = {"options": {"class_weights": "effective"}, "output": tmp_path / "x"}
    with pytest.raises(UsageError, match="beside the soft outputs of teacher `largest`, which have no class to weigh"):
        nas.finish(supernet, arch="resnas-mini/smallest", **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("unexported")
def test_weights_of_other_runs_are_averaged_where_that_helps(finished: FinishResult, supernet: Path) -> None:
    asked = {"arch": "resnas-mini/smallest", "epochs": 1, "soup": [str(finished.run)], "seed": 1}
    result = nas.finish(supernet, **asked, output=supernet.parent / "soup")  # type: ignore[arg-type]
    assert result.accuracy["averaged"] >= finished.accuracy["averaged"] - 1 / 64  # type: ignore[operator]
    assert set(result.averaged) <= {"start", "step 3", "last step", f"run {finished.run}"}
    assert len(document(result.run, "settings.json")["soup_digests"]) == 1
    with pytest.raises(UsageError, match=r"`soup`: `.*supernet` holds a supernet, expected the network"):
        nas.finish(supernet, **{**asked, "soup": [str(supernet)]}, output=supernet.parent / "x")  # type: ignore[arg-type]
