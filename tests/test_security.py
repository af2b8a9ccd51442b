"""What docs/security.md promises: nothing is unpickled, run by a shell or published; files of strangers stay data."""

from __future__ import annotations

import ast
import os
import pickle
import re
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

import nas
from latency_tables.onnx_graph import read_onnx_graph
from latency_tables.table import LatencyTable
from nas.cli import display
from nas.cli.errors import show_error
from nas.cli.main import app
from nas.errors import RunError
from nas.events import TrialFinished
from nas.report import build_report
from nas.runs.run import OWN_FILES, Run
from search_spaces.errors import NasError
from supernets.checkpoint import load_supernet
from supernets.data import image_index
from supernets.data.image_files import decode
from supernets.data.image_index import index_images
from supernets.errors import DataError
from tests.support.searches import run_fake_search

ROOT = Path(__file__).parent.parent
PACKAGES = ("nas", "supernets", "search_spaces", "latency_tables")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

UNPICKLERS = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"
}  # fmt: skip
"""Modules that are imported nowhere: reading a file with them may run what the file says."""
ARCHIVES = ("zip", "tar", "archive")
"""Parts of the names of objects that write where a file says, if they are asked to extract."""
LOOKED_AT = ("shell", "weights_only", "allow_pickle")
"""Arguments by which a call is judged."""
RUNNERS = {"eval", "exec", "compile", "__import__"}
SHELLS = {("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("subprocess", "getstatusoutput")}
PUBLIC = re.compile(r"\b0\.0\.0\.0\b|\[::\]")
MAY_RUN = {"nas/testing/runtimes.py"}
"""A contract for tests of plug-ins, which runs the plug-in's own source as the device would."""


def calls(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str, ast.Call]]:
    """Module (or object), name and node of every call."""
    for node in nodes:
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name):
                yield "", function.id, node
            elif isinstance(function, ast.Attribute):
                yield ast.unparse(function.value), function.attr, node


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg in LOOKED_AT}


def faults(path: Path) -> Iterator[str]:
    """What no file of ours may do."""
    name, nodes = path.relative_to(ROOT).as_posix(), list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    for node in nodes:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (f"{name} imports {module}" for module in modules if module.partition(".")[0] in UNPICKLERS)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and PUBLIC.search(node.value):
            yield f"{name} names a public address: {node.value!r}"
    for owner, function, call in calls(nodes):
        given = keywords(call)
        where = f"{name}:{call.lineno}: {owner}.{function}"
        if (owner, function) in SHELLS or given.get("shell", "False") != "False":
            yield f"{where} runs a shell"
        if not owner and function in RUNNERS and name not in MAY_RUN:
            yield f"{where} runs text"
        if owner == "torch" and function == "load" and given.get("weights_only") != "True":
            yield f"{where} without weights_only=True"
        if owner in ("np", "numpy") and function == "load" and given.get("allow_pickle", "False") != "False":
            yield f"{where} with allow_pickle"
        is_archive = any(word in owner.lower() for word in ARCHIVES)
        if function in ("extractall", "unpack_archive") or (function == "extract" and is_archive):
            yield f"{where} writes where an archive says"


def test_no_file_of_ours_unpickles_runs_text_or_is_public() -> None:
    assert len(FILES) > 300
    assert not [fault for path in FILES for fault in faults(path)]


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from yaml import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "eval(text)",
        "serve('0.0.0.0')",
        "zipfile.ZipFile(path).extractall(folder)",
        "archive.extract(member)",
        "shutil.unpack_archive(path)",
    ],
)
def test_the_scan_finds_what_it_looks_for(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "file.py"
    path.write_text(text)
    assert list(faults(path))


class Evil:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def pickled(mark: Path) -> bytes:
    return pickle.dumps(Evil(mark))


def torch_file(mark: Path, path: Path) -> Path:
    torch.save({"weight": Evil(mark)}, path)
    return path


def object_array(mark: Path, path: Path) -> Path:
    np.savez(path, version=np.array([1]), names=np.array([Evil(mark)], dtype=object))
    return path


def test_the_mark_is_left_by_whoever_unpickles(tmp_path: Path) -> None:
    pickle.loads(pickled(tmp_path / "mark"))
    torch.load(torch_file(tmp_path / "other", tmp_path / "x.pt"), weights_only=False)
    assert (tmp_path / "mark").exists()
    assert (tmp_path / "other").exists()


READERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": load_supernet,
    "checkpoint of a run": lambda path: nas.search(supernet=path, output=path.parent / "out"),
    "weights": lambda path: nas.search(model="vit_tiny_patch16_224", weights=str(path), data="digits"),
    "latency table": LatencyTable.load,
    "settings file": lambda path: CliRunner().invoke(app, ["search", "--config", str(path)], catch_exceptions=False),
    "network": lambda path: CliRunner().invoke(app, ["inspect", str(path)], catch_exceptions=False),
    "accuracies": lambda path: CliRunner().invoke(app, ["correlate", str(path)], catch_exceptions=False),
    "figures": lambda path: CliRunner().invoke(
        app, ["latency", "calibrate", str(path), "--name", "x"], catch_exceptions=False
    ),
}


@pytest.mark.parametrize("form", ["pickle", "torch"])
@pytest.mark.parametrize("reader", READERS)
def test_a_pickled_object_is_read_by_nobody(
    reader: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mark, ending = tmp_path / "mark", {"network": "onnx", "weights": "pt"}.get(reader, "json")
    path = tmp_path / f"evil.{ending}"
    if form == "torch":
        torch_file(mark, path)
    else:
        path.write_bytes(pickled(mark))
    try:
        outcome = READERS[reader](path)
    except NasError:
        outcome = None
    assert outcome is None or outcome.exit_code not in (0, None)  # type: ignore[attr-defined]
    assert not mark.exists()


@pytest.mark.parametrize("name", ["settings.json", "trials.jsonl", "journal.log", "front.json", "environment.json"])
def test_a_pickled_file_in_a_run_folder_is_read_by_nobody(name: str, tmp_path: Path) -> None:
    run, mark = tmp_path / "run", tmp_path / "mark"
    run_fake_search(run, evaluations=4)
    (run / name).write_bytes(pickled(mark) + b"\n")
    for read in (
        lambda: run_fake_search(run, evaluations=5, resume=True),
        lambda: nas.search(output=run, resume=True),
        lambda: nas.load_result(run),
        lambda: build_report(run),
    ):
        try:
            read()
        except NasError:
            pass
    assert not mark.exists()


def test_a_pickled_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(image_index, "REMEMBERED_FROM", 1)
    monkeypatch.setattr(image_index, "SETTLED_SECONDS", -60.0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.png").touch()
    first = index_images(tmp_path / "images")
    [remembered] = (tmp_path / "cache" / "images").iterdir()
    object_array(tmp_path / "mark", remembered)
    assert list(index_images(tmp_path / "images").names) == list(first.names)
    assert not (tmp_path / "mark").exists()


def test_a_record_that_is_a_link_out_of_its_run_folder_is_not_written(tmp_path: Path) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    run_fake_search(run, evaluations=4)
    precious.write_text("keep\nme")
    for name in OWN_FILES:
        held = run / name
        before = held.read_bytes() if held.exists() else None
        held.unlink(missing_ok=True)
        held.symlink_to(precious)
        with pytest.raises(RunError, match=f"`{name}` is a link"):
            Run(run, None, resume=True)
        held.unlink()
        if before is not None:
            held.write_bytes(before)
    assert precious.read_text() == "keep\nme"
    run_fake_search(run, evaluations=5, resume=True)


HOSTILE = "<script>alert(1)</script>\"'&[red]x[/red]\x1b]0;owned\x07\x1b[31m\u202e\ny"


def test_terminals_are_told_text_and_no_commands(capsys: pytest.CaptureFixture[str]) -> None:
    display.messages.cache_clear()
    display.output.cache_clear()
    display.say(HOSTILE)
    show_error(HOSTILE, HOSTILE)
    display.print_table([HOSTILE], [[HOSTILE]], title=HOSTILE)
    shown = "".join(capsys.readouterr())
    assert "\x1b]" not in shown
    assert "\x07" not in shown
    assert "[red]x[/red]" in shown
    assert "\\x1b" in shown


def test_an_archive_decides_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../outside", b"x")
        archive.writestr("evil/data.pkl", pickled(tmp_path / "mark"))
    before = sorted(tmp_path.parent.iterdir())
    for reader in ("checkpoint", "weights"):
        with pytest.raises(NasError):
            READERS[reader](path)
    assert sorted(tmp_path.parent.iterdir()) == before
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin"])
def test_data_of_an_onnx_file_lies_beside_it(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(np.array([1, 8], dtype=np.int64).tobytes())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "secret.bin")
    shape = onnx.TensorProto(name="shape", data_type=onnx.TensorProto.INT64, dims=[2])
    shape.data_location = onnx.TensorProto.EXTERNAL
    shape.external_data.add(key="location", value=location)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "graph",
        [value("x", onnx.TensorProto.FLOAT, [1, 8])],
        [value("y", onnx.TensorProto.FLOAT, [1, 8])],
        [shape],
    )
    path = tmp_path / "model" / "model.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(NasError, match="external data cannot be read"):
        read_onnx_graph(path)


def test_an_image_that_unfolds_is_refused(tmp_path: Path) -> None:
    side = 40_000
    rows = zlib.compress(b"\0" * (side // 8 + 1) * side, 9)  # 200 MB of nothing in 200 KB
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    with pytest.raises(DataError, match=r"too many pixels|decompression bomb"):
        decode(path, "bomb.png")


def listening(pid: int) -> list[str]:
    """Addresses that a process listens at."""
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="reads Linux's tables of sockets")
def test_a_search_with_workers_listens_to_nobody(tmp_path: Path) -> None:
    looked: list[list[str]] = []

    def look(event: object) -> None:
        if isinstance(event, TrialFinished):
            pids = [
                os.getpid(),
                *(int(path.name) for path in Path("/proc").glob("[0-9]*") if parent(path) == os.getpid()),
            ]
            looked.extend(listening(pid) for pid in pids)

    given = {"space": "elastic-mini", "score": "naswot", "evaluations": 3, "workers": 2, "executor": "local"}
    nas.search(**given, target="pixel6", output=tmp_path / "run", progress=look)
    assert len(looked) >= 3 * 3
    assert not any(looked)
    with socket.create_server(("127.0.0.1", 0)):
        assert listening(os.getpid())


def parent(process: Path) -> int | None:
    """The number of a process's parent; None where it has ended."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def test_every_test_that_the_page_names_is_there() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    file, named = "", 0
    for found in re.finditer(r"`(tests/[\w/]+\.py)?(?:::)?(test_\w+)?`", text):
        file = found[1] or file
        if found[2]:
            assert f"def {found[2]}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{found[2]}"
            named += 1
    assert named >= 15
