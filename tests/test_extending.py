"""What docs/extending.md and its pages promise: each kind of plug-in comes from outside, as one file and one entry."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from latency_tables import repeats
from nas import testing
from nas.cli.from_settings import takes_settings
from nas.cli.main import app
from nas.errors import RunError
from nas.runs.settings import Given, Setting, check_unchanged
from nas.runs.settings_file import read_settings, toml_text
from nas.searching.settings import SearchSettings
from search_spaces import get_space
from search_spaces.plugins import installed as installed_entry_points
from supernets import Supernet
from supernets.checkpoint import read_checkpoint

ENTRY_POINTS = {
    "nas.quantities": ("energy", "energy_quantity:ENERGY"),
    "nas.runtimes": ("paper", "paper_runtime:PAPER"),
    "nas.export_formats": ("torch-program", "program_format:PROGRAM"),
    "nas.data_sources": ("stripes", "stripes_data:SOURCE"),
    "nas.scores": ("largest-gradient", "gradient_score:LARGEST_GRADIENT"),
    "nas.controllers": ("cautious", "cautious_controller:Cautious"),
    "nas.search_spaces": ("more-mixing", "projection_operator:MoreMixingSpace"),
    "nas.losses": ("focal", "focal_loss:focal_loss"),
    "nas.trackers": ("lines", "lines_tracker:Lines"),
    "nas.importers": ("mixers", "mixing_importer:MIXERS"),
}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All plug-ins in one package that is installed, as far as Python can tell, here and in processes begun here."""
    metadata = tmp_path / "site" / "plugins-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 1.0\n")
    lines = [f"[{group}]\n{name} = tests.support.plugins.{where}\n" for group, (name, where) in ENTRY_POINTS.items()]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(metadata.parent))
    root = str(Path(__file__).resolve().parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(metadata.parent), root, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    installed_entry_points.cache_clear()
    yield
    monkeypatch.undo()
    installed_entry_points.cache_clear()


def nas(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def searched(folder: Path, *arguments: str) -> dict[str, Any]:
    found = nas("search", "--evaluations", "6", "-o", folder, "--json", "--quiet", *arguments)
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def trained(folder: Path, *arguments: str) -> dict[str, Any]:
    nas("train", "--epochs", "1", "--set", "batch_size=10", "-o", folder, "--quiet", *arguments)
    return dict(read_checkpoint(folder / "checkpoints" / "supernet.safetensors").metadata)


def test_a_quantity_is_a_limit_and_an_objective(tmp_path: Path) -> None:
    limited = searched(tmp_path / "run", "--space", "elastic-mini", "--limit", "energy=5mJ")
    assert limited["front"]
    assert all(0 < member["costs"]["energy"] <= 5 for member in limited["front"])
    document = searched(tmp_path / "both", "--space", "elastic-mini", "--objectives", "capacity,energy")
    assert {cost for member in document["front"] for cost in member["costs"]} >= {"energy"}


def test_a_runtime_is_measured_and_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brief = replace(repeats.QUICK, rounds=1, rounds_limit=1, runs=3, seconds=0.0, warm_up_seconds=0.0, restarts=0)
    monkeypatch.setattr(repeats, "QUICK", brief)
    nas("latency", "build", "--runtime", "paper", "--spaces", "elastic-mini", "--networks", "6", "--allow-busy")
    found = nas("latency", "predict", "elastic-mini/largest", "--target", "local-paper", "--json")
    from search_spaces import get_space

    space = get_space("elastic-mini")
    macs = space.lower(space.largest).macs
    (predicted,) = json.loads(found.stdout)["networks"]
    assert predicted["ms"] == pytest.approx(1e-6 * macs, rel=0.1)


def test_an_export_format_is_written_and_compared(tmp_path: Path) -> None:
    searched(tmp_path / "run", "--space", "elastic-mini")
    nas("export", tmp_path / "run", "--format", "torch-program", "-o", tmp_path / "exported")
    proof = json.loads((tmp_path / "exported" / "proof.json").read_text())
    assert (tmp_path / "exported" / "model.pt2").exists()
    assert proof["formats"]["torch-program"]["difference"] <= 1e-5


def test_a_data_source_is_trained_on(tmp_path: Path) -> None:
    metadata = trained(tmp_path / "run", "--space", "elastic-mini", "--data", "stripes:4")
    assert metadata["data"]["source"] == "stripes:4"
    assert metadata["data"]["class_names"] == ["across", "down"]


def test_a_score_ranks_networks(tmp_path: Path) -> None:
    document = searched(tmp_path / "run", "--space", "elastic-mini", "--score", "largest-gradient")
    assert document["objectives"]["maximise"] == "largest_gradient"
    assert "largest_gradient" in (tmp_path / "run" / "trials.jsonl").read_text()


def test_a_controller_proposes_and_a_tracker_is_told(tmp_path: Path) -> None:
    document = searched(tmp_path / "run", "--space", "elastic-mini", "--controller", "cautious", "--track", "lines")
    assert tomllib.loads((tmp_path / "run" / "settings.toml").read_text())["controller"] == "cautious"
    assert document["evaluated"] == 6
    assert document["front"]
    series, step, values = json.loads((tmp_path / "run" / "lines.txt").read_text().splitlines()[-1])
    assert (series, step) == ("search", 6)
    assert values["front_size"] == len(document["front"])


def test_a_space_with_an_operator_of_its_own_is_searched_and_trained(tmp_path: Path) -> None:
    document = searched(tmp_path / "search", "--space", "more-mixing")
    assert {member["architecture"]["space"] for member in document["front"]} == {"more-mixing"}
    metadata = trained(tmp_path / "train", "--space", "more-mixing", "--data", "stripes:2")
    assert metadata["space"] == "more-mixing"


def test_a_loss_is_learnt_by_in_a_training_and_in_a_finish(tmp_path: Path) -> None:
    arguments = ("--space", "elastic-mini", "--data", "stripes:4")
    weights = []
    for loss in ("cross-entropy", "focal"):
        metadata = trained(tmp_path / loss, *arguments, "--set", f"loss={loss}")
        assert metadata["settings"]["loss"] == loss
        weights.append(read_checkpoint(tmp_path / loss / "checkpoints" / "supernet.safetensors").weights)
    usual, focal = weights
    assert any(not usual[name].equal(focal[name]) for name in usual)
    chosen = ("--arch", "elastic-mini/smallest", "--data", "stripes:4", "--epochs", "1", "--set", "batch_size=10")
    nas("finish", *chosen, "--set", "loss=focal", "-o", tmp_path / "finish", "--quiet")
    assert tomllib.loads((tmp_path / "finish" / "settings.toml").read_text())["options"]["loss"] == "focal"


def test_an_importer_brings_in_what_others_trained(tmp_path: Path) -> None:
    network = Supernet(get_space("more-mixing", 2)).network
    torch.save({"weights": {f"theirs.{name}": t for name, t in network.state_dict().items()}}, tmp_path / "mixers.pth")
    nas("import", tmp_path / "mixers.pth", "-o", tmp_path / "run")
    arguments = ("--supernet", str(tmp_path / "run"), "--data", "stripes:2", "--objectives", "accuracy,macs")
    assert searched(tmp_path / "search", *arguments)["front"]


@dataclass(frozen=True)
class NotedSettings(SearchSettings):
    """The settings of a search, and one more."""

    note: Annotated[str | None, Setting("Note for the record.", "Output", may_change=False)] = None


def test_an_option_of_a_search_is_one_field(tmp_path: Path) -> None:
    received: list[Given] = []

    @takes_settings(NotedSettings)
    def search(given: Given) -> None:
        received.append(given)

    other = typer.Typer()
    other.command()(search)
    assert "Note for the record." in CliRunner().invoke(other, ["--help"]).output
    assert CliRunner().invoke(other, ["--note", "first"]).exit_code == 0
    assert received == [{"note": "first"}]
    settings = NotedSettings(note="first")
    (tmp_path / "settings.toml").write_text(toml_text(settings.recorded()))
    assert read_settings(tmp_path / "settings.toml", NotedSettings)["note"] == "first"
    with pytest.raises(RunError, match="`note` was 'first' when the run was started, found 'second'"):
        check_unchanged(NotedSettings, {"note": "second"}, settings.recorded(), tmp_path)


def test_the_document_names_every_group_and_its_examples_are_code() -> None:
    pages = sorted((Path(__file__).parent.parent / "docs").glob("extending*.md"))
    document = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"\| `(nas\.\w+)` \|", document))
    assert named == {*ENTRY_POINTS, "nas.sampling_policies"}
    examples = re.findall(r"^```python\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    assert len(examples) >= 9
    for example in examples:
        exec(compile(example, "extending.md", "exec", dont_inherit=True), {"__name__": __name__})
    contracts = set(re.findall(r"`(\w+Contract)`", document))
    assert contracts == {name for name in testing.__all__ if name.endswith("Contract")}
