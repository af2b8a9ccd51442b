"""Tests stand in folders of what they test, and share by `tests.support` alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS, SUPPORT = ROOT / "tests", ROOT / "tests" / "support"
PACKAGES = ("nas", "supernets", "search_spaces", "latency_tables")
FILES = sorted(TESTS.rglob("*.py"))
BENCHMARKS = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} | {"benchmarks"}


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, with the names that it takes from them, those inside of functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_test_imports_another_or_a_benchmark() -> None:
    tests = {path.stem for path in FILES if SUPPORT not in path.parents} - {"__init__"}
    found = []
    for path in FILES:
        for name in imported(path):
            first, *rest = name.split(".")
            if first in tests | BENCHMARKS or (first == "tests" and rest[:1] != ["support"]):
                found.append(f"{path.relative_to(ROOT)}: {name}")
    assert not found


def test_no_product_or_benchmark_imports_a_test() -> None:
    folders = (*PACKAGES, "benchmarks", "examples")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 300
    assert not [path for path in files if any(name.split(".")[0] == "tests" for name in imported(path))]


def test_folders_of_tests_are_those_of_the_packages() -> None:
    folders = {path.parent for path in FILES if SUPPORT not in (path.parent, *path.parents)} - {TESTS}
    assert {folder.relative_to(TESTS).parts[0] for folder in folders} == set(PACKAGES)
    assert not [folder for folder in folders if not (ROOT / folder.relative_to(TESTS) / "__init__.py").exists()]
    names = [path.name for path in FILES if path.name.startswith("test_")]
    assert len(names) == len(set(names)), "a name says which test is meant"
