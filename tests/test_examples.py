"""The example runs, from training to the exported file, on a small budget."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


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
