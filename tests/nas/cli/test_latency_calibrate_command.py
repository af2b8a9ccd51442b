"""`nas latency calibrate`: from a file of figures to a target that can be searched for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from latency_tables import LatencyPredictor, LatencyTable, load_target, user_table_path
from nas.cli.main import app
from search_spaces import get_space
from tests.support.tables import document

SPACE = get_space("elastic")
HEAD = "model,latency_ms,family,macs_m,device,runtime,precision\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def figures(rate: float = 1e-7, extra: str = "", families: int = 3) -> str:
    """A file of the published networks of `elastic`, whose time goes with MACs, families made up."""
    lines = [
        f"elastic/{name},{1 + rate * SPACE.lower(architecture).macs:.4f},f{number % families},,Board,ncnn,fp16\n"
        for number, (name, architecture) in enumerate(SPACE.named.items())
    ]
    return HEAD + "".join(lines) + extra


def run(*options: str, text: str) -> Result:
    Path("figures.csv").write_text(text)
    return CliRunner().invoke(app, ["latency", "calibrate", "figures.csv", *options])


def test_figures_become_a_target(folder: Path) -> None:
    extra = "elastic/T9,5,f1,,Board,ncnn,fp16\nelastic/smallest,5,f1,99999,Board,ncnn,fp16\n"
    result = run("--name", "my-board", text=figures(extra=extra))
    assert result.exit_code == 0, result.output
    assert "left out: elastic/T9: " in result.output
    assert "left out: elastic/smallest: rebuilt it has" in result.output
    assert "published are 1e+05M" in result.output
    assert "threads are not stated, taken as 1" in result.output
    assert "--target my-board" in result.output
    table = load_target("my-board")
    assert (table.provenance.kind, table.device.name, table.runtime.name, table.precision) == (
        "calibrated",
        "Board",
        "ncnn",
        "fp16",
    )
    assert len(table.figures) == len(SPACE.named)
    assert "MAC line" in table.provenance.notes[0]
    assert table.validation.mean_error < 0.01
    graph = SPACE.lower(SPACE.named["M"])
    assert LatencyPredictor(table).graph(graph).ms == pytest.approx(1 + 1e-7 * graph.macs, rel=0.01)


def test_the_answer_as_json(folder: Path) -> None:
    result = run("--name", "my-board", "--json", "--quiet", text=figures())
    answer = json.loads(result.stdout)
    assert answer["target"] == "my-board"
    assert Path(answer["path"]) == user_table_path("my-board")
    assert answer["validation"]["mean_error"] < 0.01


def test_calibrating_again_replaces_the_table(folder: Path) -> None:
    run("--name", "my-board", text=figures())
    first = load_target("my-board")
    assert run("--name", "my-board", text=figures(rate=2e-7)).exit_code == 0
    graph = SPACE.lower(SPACE.named["M"])
    assert LatencyPredictor(load_target("my-board")).graph(graph).ms > LatencyPredictor(first).graph(graph).ms


@pytest.mark.parametrize(
    ("options", "text", "code", "message"),
    [
        (["--name", "b"], figures(families=1), 4, "figures are of 1 families (f0), expected at least 3"),
        (["--name", "b"], figures(families=2), 4, "figures are of 2 families (f0, f1), expected at least 3"),
        (["--name", "b"], HEAD + "elastic/T9,1,a,,B,r,fp16\n", 4, "left out: elastic/T9"),
        (["--name", "b"], "model,latency_ms\nelastic/T1,1\n", 2, "the figures do not say their runtime"),
        (["--name", "b", "--runtime", "r"], "model,latency_ms\nelastic/T1,1\n", 2, "do not say their precision"),
        (["--name", "b", "--precision", "fp12"], "model,latency_ms,runtime\na,1,r\n", 2, "precision `fp12`: expected"),
        (["--name", "b", "--threads", "many"], figures(), 2, "threads `many`: expected a whole number"),
        (["--name", "b", "--runtime", "tflite"], figures(), 2, "`--runtime tflite` contradicts the column"),
        (["--name", "b"], figures().replace("fp16", "int8", 1), 4, "column `precision`: found `fp16`, `int8`"),
        (["--name", "local"], figures(), 2, "`local` stands for this machine"),
        (["--name", "../b"], figures(), 2, "target name `../b`: expected letters"),
        (["--name", "b"], "model;latency_ms\n", 4, "found no rows below the column names"),
    ],
)
def test_bad_input_is_one_message_and_no_table(options: list[str], text: str, code: int, message: str) -> None:
    result = run(*options, text=text)
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(user_table_path("b").parent.glob("*"))


def test_a_measured_table_is_not_replaced(folder: Path) -> None:
    measured = LatencyTable.from_dict(document(name="b", aliases=[]), "here")
    measured.save(user_table_path("b"))
    result = run("--name", "b", text=figures())
    assert result.exit_code == 2
    assert "target `b` has a measured table" in result.output
    assert load_target("b") == measured
