"""Exports on a hub that is not there: what is sent, what is refused, and that no token is told."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch

from nas.cli.main import app
from nas.errors import NasError, UsageError
from nas.exporting.push import check_push, push_export

TOKEN = "hf_this_is_a_secret"


class Hub:
    """A hub in a folder; it refuses names of one user."""

    folder: Path

    def __init__(self, **_: Any) -> None:
        pass

    def create_repo(self, name: str, **_: Any) -> str:
        if name.startswith("nobody/"):
            raise ConnectionError(f"403 Forbidden for Bearer {TOKEN}")
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        return f"https://hub.example/{name}"

    def upload_folder(self, repo_id: str, folder_path: Path, delete_patterns: list[str], **_: Any) -> None:
        for pattern in delete_patterns:
            for path in (self.folder / repo_id).glob(pattern):
                path.unlink()
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(Hub, "folder", tmp_path / "hub", raising=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return tmp_path / "hub"


def test_what_is_pushed_is_what_timm_loads(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (hub / "me/tiny").mkdir(parents=True)
    (hub / "me/tiny/model.int8.onnx").touch()  # of an earlier network
    network = "timm:vit_tiny_patch16_224?img_size=32&depth=1&embed_dim=48&num_heads=1"
    app(["export", network, "-o", str(tmp_path / "out"), "--push", "me/tiny"], standalone_mode=False)
    said = capsys.readouterr().err
    assert "pushed to https://hub.example/me/tiny" in said
    assert 'timm.create_model("hf-hub:me/tiny", pretrained=True)' in said
    names = {path.name for path in (hub / "me/tiny").iterdir()}
    assert names == {"model.safetensors", "config.json", "model.onnx", "proof.json", "README.md"}
    model = timm.create_model(f"local-dir:{hub / 'me/tiny'}", pretrained=True)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert TOKEN not in said
    assert not any(TOKEN.encode() in content for content in written)


def test_a_refusal_tells_no_token(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(NasError, match=r"cannot be pushed to `nobody/tiny`: 403 Forbidden for Bearer \*\*\*") as caught:
        push_export(tmp_path, "nobody/tiny")
    assert caught.value.hint == "the export is whole; run the same command again"


@pytest.mark.parametrize("name", ["tiny", "me/too/long", "me/", "me/ti ny", "../tiny"])
def test_names_that_no_hub_has_are_refused(hub: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"expected `USER/NAME` as on the Hugging Face hub"):
        check_push(name)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UsageError, match="nobody is logged in"):
        check_push("me/tiny")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(NasError) as caught:
        check_push("me/tiny")
    assert (caught.value.exit_code, caught.value.hint) == (5, "pip install huggingface_hub")
