"""The examples run, from training to the exported file, on a small budget."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_end_to_end(tmp_path: Path) -> None:
    script = ROOT / "examples" / "end_to_end.py"
    assert len(script.read_text().splitlines()) <= 150
    command = [sys.executable, str(script), "--epochs", "1", "--evaluations", "6", "--output", str(tmp_path / "run")]
    environment = {**os.environ, "NAS_CACHE_DIR": str(tmp_path / "cache")}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert "test accuracy of the ONNX file:" in result.stdout
    names = {path.name for path in (tmp_path / "run" / "search" / "exports" / "knee").iterdir()}
    assert {"model.onnx", "model.safetensors", "config.json"} <= names
    assert (tmp_path / "run" / "search" / "report.html").exists()


@pytest.mark.slow
def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs, and what is stored in the file is what such a run shows."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    path = ROOT / "examples" / "own_model.ipynb"
    assert path.stat().st_size < 100_000
    notebook = nbformat.read(path, as_version=4)
    stored = [output.output_type for cell in notebook.cells for output in cell.get("outputs", ())]
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output.output_type for output in outputs if output.get("name") != "stderr"] == stored
    [figure] = [output.data for output in outputs if output.output_type == "display_data"]
    assert figure["application/vnd.plotly.v1+json"]["data"]
    right, rest = outputs[-1].text.split("%")
    assert rest == " of 360 pictures\n"
    assert float(right) > 50
