"""What the README promises: its commands exist, the quick ones run, the first one does what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
PROGRAM = [sys.executable, "-c", "import sys; sys.argv[0] = 'nas'; from nas.cli.main import main; main()"]
NAMES = "search|train|export|report|latency|spaces|targets|env"
COMMANDS = sorted(set(re.findall(rf"\bnas ((?:{NAMES})\b[^`\n]*)", README)))
QUICK = [line for line in COMMANDS if re.match(r"spaces|targets|env|latency show|search --dry-run", line)]


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NAS_CACHE_DIR": str(folder / "cache")}
    command = [*PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 10
    assert len(QUICK) >= 4


@pytest.mark.parametrize("line", COMMANDS)
def test_options_exist(line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    command = words[:2] if words[0] == "latency" else words[:1]
    told = run(*command, "--help", folder=tmp_path)
    assert told.returncode == 0
    for option in (word for word in words if word.startswith("-")):
        assert re.search(rf"(^|[\s,]){re.escape(option)}\b", told.stdout), f"{option} of `nas {line}`"


@pytest.mark.parametrize("line", QUICK)
def test_quick_commands_run(line: str, tmp_path: Path) -> None:
    result = run(*shlex.split(line), folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_the_first_command_prints_a_front_and_what_to_do_next(tmp_path: Path) -> None:
    assert "pip install -e . && nas search --space elastic --target pixel6\n" in README
    result = run("search", "--space", "elastic", "--target", "pixel6", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    latencies = [float(ms) for ms in re.findall(r"([\d.]+) ms \[", result.stdout)]
    assert len(latencies) >= 8
    assert max(latencies) >= 4 * min(latencies)
    assert latencies == sorted(latencies)
    assert "written to runs/elastic-pixel6-1" in result.stderr
    assert "next: nas report" in result.stderr
    assert "calibrated" in result.stderr
