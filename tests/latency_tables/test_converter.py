"""The converter as a process of its own: an answer to every line, whatever becomes of the conversion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from latency_tables import converter

CONVERT = """
import sys


def convert(program, path):
    print("remarks of a converter")
    assert not any(name.startswith("latency_tables") for name in sys.modules)
    if path.endswith("bad"):
        raise ValueError("no such operator")
    weight = program.state_dict["weight"]
    with open(path, "w") as file:
        file.write(str(weight.sum().item()))
    return {"operators": len(weight)}
"""


def test_programs_are_converted_and_failures_answered(tmp_path: Path) -> None:
    module = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        module.weight.fill_(0.5)
    torch.export.save(torch.export.export(module, (torch.zeros(1, 2),)), tmp_path / "program.pt2")
    (tmp_path / "runtime.py").write_text(CONVERT)
    requests = [
        {"program": str(tmp_path / name), "path": str(tmp_path / path)}
        for name, path in (
            ("program.pt2", "good"),
            ("program.pt2", "bad"),
            ("none.pt2", "worse"),
            ("program.pt2", "again"),
        )
    ]
    done = subprocess.run(
        [sys.executable, converter.__file__, str(tmp_path / "runtime.py")],
        input="".join(json.dumps(request) + "\n" for request in requests),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0] == answers[3] == {"error": "", "operators": 3}
    assert answers[1] == {"error": "ValueError: no such operator"}
    assert "none.pt2" in answers[2]["error"]
    assert (tmp_path / "good").read_text() == (tmp_path / "again").read_text() == "3.0"
    assert not (tmp_path / "bad").exists()
    assert "remarks of a converter" in done.stderr
