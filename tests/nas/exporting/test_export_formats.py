"""Export formats by name, and one from outside."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from latency_tables.repeats import Protocol
from nas.errors import MissingDependencyError
from nas.exporting.export import Export, ExportRequest, ProofError, export_subnet
from nas.exporting.formats import measured, registry
from nas.exporting.formats.registry import format_names, get_format, parse_formats, register_export_format
from search_spaces import UnknownNameError, get_space
from tests.support.plugins.program_format import PROGRAM


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A format of another package."""
    monkeypatch.setattr(registry.FORMATS, "_registered", {})
    form = copy.copy(PROGRAM)
    form.packages = {"torch": "torch>=2.9"}
    register_export_format(form)


def exported(folder: Path, formats: tuple[str, ...], measure: bool = False) -> Export:
    space = get_space("elastic-mini")
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(8, dtype=torch.int64)

    def measured_files(folder: Path, files: dict[str, str]) -> dict[str, dict[str, object]]:
        return measured.measure_files(folder, files, measured.Images([(images, labels)], "all"))

    request = ExportRequest(
        space,
        space.smallest,
        formats=formats,
        measure=measured_files if measure else None,  # type: ignore[arg-type]
    )
    return export_subnet(request, folder)


def test_a_format_from_outside_is_written_compared_and_measured(
    plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "ONE", Protocol(rounds=1, rounds_limit=1, runs=3, seconds=0.001, restarts=0))
    assert parse_formats("torch-program,onnx-fp16") == ("onnx-fp16", "torch-program")
    export = exported(tmp_path / "out", ("torch-program",), measure=True)
    found = export.proof["formats"]
    assert list(found) == ["onnx", "torch-program"]
    entry = found["torch-program"]
    assert (entry["file"], entry["images_seen"], entry["top1_agreement"]) == ("model.pt2", 4, 1.0)
    assert entry["difference"] <= 1e-5
    assert entry["accuracy"] == found["onnx"]["accuracy"]
    assert entry["not_measured"] == "no runtime here runs it"
    assert found["onnx"]["latency"]["ms"] > 0
    assert "| `model.pt2` | torch-program |" in (export.folder / "README.md").read_text(encoding="utf-8")


def test_a_file_that_disagrees_leaves_nothing_behind(
    plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_format("torch-program"), "scale", 1.1)
    with pytest.raises(ProofError, match=r"`model\.pt2` gives logits that differ by .*, expected at most 1e-05"):
        exported(tmp_path / "out", ("torch-program",))
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_format("torch-program"), "packages", {"no_such_module": "no-such-package>=3"})
    with pytest.raises(MissingDependencyError, match="`no_such_module` is not installed") as caught:
        exported(tmp_path / "out", ("torch-program",))
    assert (caught.value.hint, caught.value.exit_code) == ('pip install "no-such-package>=3"', 5)


def test_formats_are_found_by_name() -> None:
    assert format_names()[:7] == [
        "timm",
        "checkpoint",
        "onnx",
        "onnx-fp16",
        "onnx-int8",
        "onnx-int8-dynamic",
        "onnx-mixed",
    ]
    assert [get_format(name).name for name in format_names()] == format_names()
    assert get_format("litert").file == "model.tflite"  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="unknown export format: `torch-program`"):
        get_format("torch-program")
    with pytest.raises(ValueError, match="`onnx` is registered already"):
        register_export_format(get_format("onnx"))


def test_names_are_listed_without_anything_heavy() -> None:
    code = "import sys; from nas.exporting.formats.names import OURS;"
    code += " print([name for name in ('torch', 'numpy', 'onnx', 'onnxruntime') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr
