"""A run can be used from any folder, and after its folder or its images have moved."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nas
from nas.errors import RunError
from nas.exporting import members
from nas.exporting.export import Export, ExportRequest
from nas.exporting.members import export_run
from nas.finishing.plan import make_plan
from nas.runs.folder import RunFolder
from nas.runs.places import located, recorded_place
from nas.searching import winner
from nas.training.options import checked_options
from supernets.data.sources import load_data
from supernets.errors import CheckpointError, DataError


def draw(folder: Path, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for name, level in (("dark", 0), ("light", 90)):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(level, level + 160, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_what_lies_somewhere_is_recorded_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("imgs", "digits", "pretrained", "weights.pt"):
        (tmp_path / name).mkdir()
    assert recorded_place("data", "imgs") == str(tmp_path / "imgs")
    assert recorded_place("data", "./digits") == str(tmp_path / "digits")
    assert recorded_place("data", "digits") == "digits"
    assert recorded_place("data", "torch/cifar10") == "torch/cifar10"
    assert recorded_place("weights", "pretrained") == "pretrained"
    assert recorded_place("supernet", "pretrained") == str(tmp_path / "pretrained")
    assert checked_options({"teacher_weights": "weights.pt"}) == {"teacher_weights": (str(tmp_path / "weights.pt"),)}


@pytest.mark.parametrize(
    ("was", "recorded", "lies"),
    [
        ("/old/proj/run", "/old/proj/imgs", "proj/imgs"),
        ("/old/proj/runs/one", "/old/proj/data/imgs", "proj/data/imgs"),
        ("/old/proj/run", "/old/proj/run/imgs", "proj/run/imgs"),
        (None, "imgs", "proj/imgs"),
        (None, "data/imgs", "data/imgs"),
        (None, "imgs", "proj/run/imgs"),
    ],
)
def test_what_moved_with_the_run_is_found(tmp_path: Path, was: str | None, recorded: str, lies: str) -> None:
    run = tmp_path / "proj" / ("runs/one" if was and "runs" in was else "run")
    run.mkdir(parents=True)
    (tmp_path / lies).mkdir(parents=True)
    settings = {"data": recorded, "folder": was, "options": {"teacher_weights": [recorded]}, "supernet": None}
    found = located(settings, run)
    assert found["data"] == str(tmp_path / lies)
    assert found["options"]["teacher_weights"] == [str(tmp_path / lies)]
    assert found["supernet"] is None
    assert located({"data": "digits"}, run) == {"data": "digits"}
    assert located({"data": "/old/proj/gone", "folder": was}, run)["data"] == "/old/proj/gone"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet and a search of it, made in their folder with relative paths."""
    top = tmp_path_factory.mktemp("project")
    draw(top / "imgs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        nas.train("elastic-mini", "imgs", epochs=1, output="net", options={"batch_size": 16})
        patch.setattr(winner, "ship_winner", lambda front, *_: dict(front.document))
        nas.search(supernet="net", target="pixel6", evaluations=1, output="run", controller="random")
    return top


@pytest.fixture
def moved(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project at another place, where the first one has gone, seen from a third."""
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    shutil.copytree(project, there)
    elsewhere.mkdir()
    hidden = project.with_name("hidden")
    project.rename(hidden)
    monkeypatch.chdir(elsewhere)
    yield there
    hidden.rename(project)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[ExportRequest]:
    """What is exported, all but the writing."""
    found: list[ExportRequest] = []

    def note(request: ExportRequest, folder: Path) -> Export:
        found.append(request)
        return Export(folder, folder / "model.onnx", True, {"formats": {}})

    monkeypatch.setattr(members, "export_subnet", note)
    return found


def test_a_run_is_used_from_elsewhere(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = json.loads((project / "net" / "settings.json").read_text())
    assert settings["data"] == str(project / "imgs")
    assert settings["folder"] == str(project / "net")
    exported = export_run(project / "run", None, tmp_path / "x")
    shipped = json.loads((exported.folder / "config.json").read_text())
    assert shipped["data"]["source"] == "imgs"  # where it lies on this machine is no stranger's business
    assert str(project) not in (exported.folder / "README.md").read_text()


def test_what_moved_together_goes_on(moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winner, "ship_winner", lambda front, *_: dict(front.document))
    assert RunFolder(moved / "run").settings["supernet"] == str(moved / "net")
    nas.search(output=moved / "run", resume=True)
    kept = json.loads((moved / "run" / "settings.json").read_text())
    assert (kept["folder"], kept["supernet"]) == (str(moved / "run"), str(moved / "net"))


def test_images_that_moved_alone_are_given_anew(moved: Path, tmp_path: Path, requests: list[ExportRequest]) -> None:
    (moved / "imgs").rename(tmp_path / "imgs2")
    with pytest.raises(DataError, match="there is no such folder") as caught:
        export_run(moved / "run")
    assert "--data" in caught.value.hint
    export_run(moved / "run", data=str(tmp_path / "imgs2"))
    assert len(requests) == 1
    others = draw(tmp_path / "others", 1)
    (others / "dark" / "0.png").rename(others / "dark" / "zero.png")
    with pytest.raises(DataError, match="the files changed since the run was started"):
        export_run(moved / "run", data=str(others))
    with pytest.raises(DataError, match="changed since the run was started"):
        nas.train(output=moved / "net", resume=True, data=others)
    trained = nas.train(output=moved / "net", resume=True, data=tmp_path / "imgs2")
    assert trained.steps == 1
    assert json.loads((moved / "net" / "settings.json").read_text())["data"] == str(tmp_path / "imgs2")


def test_another_supernet_is_refused(moved: Path, tmp_path: Path) -> None:
    (moved / "net").rename(tmp_path / "net2")
    with pytest.raises(CheckpointError, match="found nothing") as caught:
        export_run(moved / "run")
    assert f"nas search --resume {moved / 'run'} --supernet" in caught.value.hint
    recorded = json.loads((moved / "run" / "settings.json").read_text())
    (moved / "run" / "settings.json").write_text(json.dumps({**recorded, "supernet": None, "score": "params"}))
    with pytest.raises(RunError, match="`data` was None"):
        nas.search(output=moved / "run", resume=True, data="digits")
    (moved / "run" / "settings.json").write_text(json.dumps({**recorded, "supernet": str(tmp_path / "net2")}))
    assert RunFolder(moved / "run").find_weights() == tmp_path / "net2" / "checkpoints" / "supernet.safetensors"
    (tmp_path / "net2" / "checkpoints" / "supernet.safetensors").write_bytes(b"another")
    with pytest.raises(CheckpointError, match="found another one"):
        export_run(moved / "run")


def test_an_intact_copy_in_the_place_of_a_damaged_file_goes_on(
    moved: Path, requests: list[ExportRequest], caplog: pytest.LogCaptureFixture
) -> None:
    path = next((moved / "imgs" / "dark").glob("*.png"))
    path.write_bytes(path.read_bytes() + b"more")  # which a decoder leaves alone
    with caplog.at_level(logging.WARNING, "supernets.data.image_data"):
        export_run(moved / "run")
    assert len(requests) == 1
    assert "files have other sizes now" in caplog.text
    path.unlink()
    with pytest.raises(DataError, match="changed since the run was started"):
        export_run(moved / "run")


def test_runs_of_earlier_versions_hold_relative_paths(moved: Path, requests: list[ExportRequest]) -> None:
    for name, old in (("net", {"data": "imgs"}), ("run", {"supernet": "net"})):
        path = moved / name / "settings.json"
        settings = {**json.loads(path.read_text()), **old}
        for new in ("data_digest", *(["folder"] if name == "run" else [])):
            settings.pop(new, None)
        path.write_text(json.dumps(settings))
    export_run(moved / "run")
    assert len(requests) == 1
    assert nas.train(output=moved / "net", resume=True).steps == 1
    assert json.loads((moved / "net" / "settings.json").read_text())["data"] == str(moved / "imgs")


def test_a_finish_finds_its_run_again(moved: Path, tmp_path: Path) -> None:
    given = {"run": str(moved / "run"), "epochs": 1, "teacher": "none", "options": {"batch_size": 16}}
    plan = make_plan(given, None, None)
    (moved / "imgs").rename(tmp_path / "imgs2")
    moved.rename(tmp_path / "again")
    recorded = located({**plan.document(), "folder": str(moved / "fin")}, tmp_path / "again" / "fin")
    resumed = make_plan({"data": str(tmp_path / "imgs2"), "resume": True}, recorded, tmp_path / "again" / "fin")
    assert resumed.settings.run == str(tmp_path / "again" / "run")
    assert resumed.settings.data == str(tmp_path / "imgs2")
    assert resumed.document()["digest"] == plan.document()["digest"]
    assert resumed.training == plan.training


def test_a_source_by_name_needs_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load_data("digits", 8).classes == 10
