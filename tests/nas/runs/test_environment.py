"""What a run writes down of its surroundings: versions, source state, machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from nas.runs import environment
from nas.runs.environment import describe_environment, git_state


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_checkout_is_named_by_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "source.py").write_text("1\n")
    git(tmp_path, "add", "source.py")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == {"commit": commit, "is_modified": False}
    (tmp_path / "notes.txt").write_text("no part of it")
    assert git_state(tmp_path) == {"commit": commit, "is_modified": False}
    (tmp_path / "source.py").write_text("2\n")
    assert git_state(tmp_path) == {"commit": commit, "is_modified": True}


def test_a_folder_outside_of_checkouts_and_a_machine_without_git_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) is None


def test_versions_machine_and_seed_are_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package"))
    found = describe_environment(7)
    assert json.loads(json.dumps(found)) == found
    assert found["seed"] == 7
    assert found["versions"] == {"numpy": version("numpy"), "no-such-package": None}
    assert found["python"] == platform.python_version()
    assert found["processors"] == os.cpu_count()
    age = datetime.now(UTC) - datetime.fromisoformat(found["date"])
    assert 0 <= age.total_seconds() < 60
