"""Every line of help, and of Args and Attributes in a docstring, can be read alone: its subject comes first."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("nas", "search_spaces", "supernets", "latency_tables")
HEADLESS = re.compile(r"(Of|So many|So often)\b")
DIALECT = re.compile(r"\b(unless given|likewise)\b", re.IGNORECASE)
ENTRY = re.compile(r"    [*\w][\w, *`]*: (.*)")
DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)


def poor_lines(source: str) -> Iterator[str]:
    """Lines of a module's help and docstrings that need another line to be understood."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED):
            yield from poor_docstring(ast.get_docstring(node) or "")
        if isinstance(node, ast.Call):
            texts = [each.value for each in node.keywords if each.arg == "help"]
            if isinstance(node.func, ast.Name) and node.func.id == "Setting":
                texts += [*node.args, *(each.value for each in node.keywords if each.arg in ("doc", "default"))]
            for text in texts:
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    if HEADLESS.match(text.value) or DIALECT.search(text.value):
                        yield text.value


def poor_docstring(text: str) -> Iterator[str]:
    section = ""
    for line in text.splitlines():
        section = line if line and not line.startswith(" ") else section
        entry = ENTRY.fullmatch(line) if section in ("Args:", "Attributes:") else None
        if entry is not None and HEADLESS.match(entry[1]):
            yield line.strip()
    if DIALECT.search(" ".join(text.split())):
        yield text.splitlines()[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_line_can_be_read_alone(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in poor_lines(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_poor_lines_are_found() -> None:
    source = '''
def bake(seed):
    """Bake.

    Args:
        seed: Of everything random.
        heat: Degrees; 200 unless given.
        time: Minutes, of which there are many.
    """
    option(help="Its heat, likewise.")
    Setting("So many loaves.")
'''
    assert list(poor_lines(source)) == [
        "seed: Of everything random.",
        "Bake.",
        "Its heat, likewise.",
        "So many loaves.",
    ]
