"""What README and documents promise: every command parses, the quick ones run, the first one does what it says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.support.command_lines import (
    alternatives,
    command_names,
    mentioned_commands,
    parse,
    shown_commands,
    unknown_options,
)
from tests.support.forked import run_nas

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = DOCUMENTS[0].read_text(encoding="utf-8")
SHOWN = sorted({(path.name, line) for path in DOCUMENTS for line in shown_commands(path.read_text(encoding="utf-8"))})
QUICK = [
    line
    for name, line in SHOWN
    if name == "commands.md" and re.match(r"spaces|targets|env|latency show|search --dry-run", line)
]


def test_the_readme_is_read_at_once_and_lines_of_documents_fit_a_screen() -> None:
    assert len(README.splitlines()) <= 90
    for path in DOCUMENTS:
        is_code = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            is_code ^= line.startswith("```")
            assert is_code or line.startswith("|") or len(line) <= 160, f"{path.name}:{number}: {len(line)} characters"


def test_guides_are_short() -> None:
    """Longer are only pages with what programs print, and that of the architecture."""
    longer = {path.name for path in DOCUMENTS[1:] if len(path.read_text(encoding="utf-8").splitlines()) > 120}
    assert longer <= {"architecture.md", "reference-settings.md", "score-correlation.md"}


def test_every_page_stands_in_the_site() -> None:
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in DOCUMENTS[1:])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_documents_have_commands() -> None:
    shown = {line.split()[0] for _, line in SHOWN}
    assert shown == command_names()
    assert len(SHOWN) >= 60
    assert len(QUICK) >= 4


@pytest.mark.parametrize(("document", "line"), SHOWN)
def test_shown_commands_parse(document: str, line: str) -> None:
    for words in alternatives(line):
        assert isinstance(parse(words), dict)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_options_that_are_mentioned_exist(path: Path) -> None:
    for line in mentioned_commands(path.read_text(encoding="utf-8")):
        assert not unknown_options(line.split()), f"`nas {line}`"


def test_a_command_that_would_be_refused_does_not_parse() -> None:
    assert parse(["search", "--space", "elastic", "--seed", "3"])["seed"] == 3
    for line, message in (
        ("search --spase elastic", "No such option"),
        ("search --seed three", "valid int"),
        ("latency shew pixel6", "No such command"),
        ("correlate", "accuracies"),
    ):
        with pytest.raises(Exception, match=message):
            parse(line.split())


@pytest.mark.parametrize("line", QUICK)
def test_quick_commands_run(line: str, tmp_path: Path) -> None:
    result = run_nas(*shlex.split(line), folder=tmp_path, NAS_CACHE_DIR=str(tmp_path / "cache"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_the_first_command_prints_a_front_and_what_to_do_next(tmp_path: Path) -> None:
    assert "pip install -e . && nas search --space elastic --target pixel6\n" in README
    result = run_nas("search", "--space", "elastic", "--target", "pixel6", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    shown = re.findall(r"([\d.]+) (?:ms \[|to [\d.]+ ms)", result.stdout)
    assert len(shown) >= 8
    front = json.loads((tmp_path / "runs" / "elastic-pixel6-1" / "front.json").read_text())["front"]
    latencies = [member["latency"]["pixel6"]["ms"] for member in front]
    assert max(latencies) >= 4 * min(latencies)
    assert latencies == sorted(latencies)
    assert "written to runs/elastic-pixel6-1" in result.stderr
    assert "next: nas report" in result.stderr
    assert "calibrated" in result.stderr
    assert "networks are ranked by capacity, which is size, and not by accuracy" in result.stderr
    assert "nas pick --target pixel6\n" in result.stderr
