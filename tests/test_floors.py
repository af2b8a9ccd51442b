"""Which way imports run: rooms of `nas` import rooms on lower floors alone, and no package has a circle.

Read off the syntax trees, so imports inside functions and under ``TYPE_CHECKING`` count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "search_spaces": set(),
    "latency_tables": {"search_spaces"},
    "supernets": {"search_spaces"},
    "nas": {"search_spaces", "latency_tables", "supernets"},
}
"""Each package, and those that it may import."""
FLOORS = (
    {"errors"},
    {"records", "predictors"},
    {"objectives", "events"},
    {"runs", "controllers"},
    {"networks", "report"},
    {"scores", "latency", "quantisation"},
    {"evaluation"},
    {"executors", "exporting"},
    {"training", "result", "testing", "picking"},
    {"finishing", "growth", "importing", "splitting"},
    {"searching"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
"""The rooms of `nas` from the ground up."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules_of(root: Path, packages: Mapping[str, object] = PACKAGES) -> dict[str, Path]:
    """Every module by its dotted name, a package under its own name."""
    found = {}
    for package in packages:
        for path in (root / package).rglob("*.py"):
            found[".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports_of(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules of ours that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path} imports relatively"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in inner]
        else:
            continue
        yield from (name for name in names if name in modules)


def room_of(module: str) -> str:
    """The room of a module of `nas`: its folder, or its own name where it stands at the root."""
    return module.split(".")[1] if "." in module else "__init__"


def upward_imports(root: Path) -> list[str]:
    """Imports of a room of `nas` on the same floor or above."""
    modules = modules_of(root)
    found = []
    for module, path in sorted(modules.items()):
        if module.partition(".")[0] != "nas":
            continue
        for imported in imports_of(path, modules):
            room, other = room_of(module), room_of(imported)
            if imported.partition(".")[0] == "nas" and other != room and FLOOR_OF[other] >= FLOOR_OF[room]:
                found.append(f"{module} ({FLOOR_OF[room]}) imports {imported} ({FLOOR_OF[other]})")
    return found


def circles(root: Path) -> list[list[str]]:
    """Groups of modules that import each other, over all packages; what an `__init__` offers is left out."""
    modules = modules_of(root)
    graph = nx.DiGraph()
    for module, path in modules.items():
        if path.name == "__init__.py":
            continue
        targets = {name for name in imports_of(path, modules) if modules[name].name != "__init__.py"}
        graph.add_edges_from((module, target) for target in targets if target != module)
    return [sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1]


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module) for module in modules_of(ROOT, {"nas": ()})}
    assert rooms == set(FLOOR_OF)


def test_rooms_import_lower_floors_alone() -> None:
    assert upward_imports(ROOT) == []


def test_no_package_has_a_circle() -> None:
    assert circles(ROOT) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_those_below_them_alone(package: str) -> None:
    modules = modules_of(ROOT)
    own = [path for module, path in modules.items() if module.partition(".")[0] == package]
    imported = {name.partition(".")[0] for path in own for name in imports_of(path, modules)} - {package}
    assert imported <= PACKAGES[package]


def test_one_upward_import_is_found(tmp_path: Path) -> None:
    """The test of the test: one import inside a function, and one circle of two files."""
    files = {
        "nas/__init__.py": "",
        "nas/records/__init__.py": "",
        "nas/records/trial.py": "def read():\n    from nas.searching.search import search\n",
        "nas/searching/__init__.py": "",
        "nas/searching/search.py": "from nas.searching import loop\n",
        "nas/searching/loop.py": "from nas.searching.search import search\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert upward_imports(tmp_path) == ["nas.records.trial (1) imports nas.searching.search (10)"]
    assert circles(tmp_path) == [["nas.searching.loop", "nas.searching.search"]]
