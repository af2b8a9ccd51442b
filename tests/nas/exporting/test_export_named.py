"""Export of a network by its name, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.errors import NasError, RunError, UsageError
from nas.exporting.export import CONFIG, WEIGHTS, load
from nas.exporting.members import export_run
from search_spaces import UnknownNameError, get_space


def test_a_network_is_exported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exported = export_run(Path("resnas-mini/smallest"))
    assert exported.folder == Path("exports/resnas-mini-smallest")
    assert not exported.is_trained
    assert (exported.folder / "resnas.py").read_text(encoding="utf-8").startswith('"""ViT-ResNAS')
    config = json.loads((exported.folder / CONFIG).read_text(encoding="utf-8"))
    space = get_space("resnas-mini")
    assert config["architecture"] == space.smallest.to_dict()
    params = sum(parameter.numel() for parameter in load(exported.folder).parameters())
    assert params == space.lower(space.smallest).params
    assert 4 * params < (exported.folder / WEIGHTS).stat().st_size < 4.2 * params


def test_settings_of_a_training_without_its_images_are_refused(tmp_path: Path) -> None:
    settings = {"schema": 1, "command": "train", "architecture": get_space("resnas-mini").smallest.to_dict(), "seed": 0}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(RunError, match=r"settings\.json` is damaged: `data` is missing") as caught:
        export_run(tmp_path)
    assert "start a new run" in caught.value.hint


def test_what_names_no_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError) as caught:
        export_run(Path("resnas/meduim"))
    assert caught.value.hint == "did you mean `medium`?"
    with pytest.raises(UsageError, match="is one network, found pick `knee`"):
        export_run(Path("resnas/medium"), "knee")
    for name in ("resnas", "runs/resnas"):
        with pytest.raises(NasError, match=f"`{name}` holds no"):
            export_run(Path(name))
    assert not list(tmp_path.iterdir())
