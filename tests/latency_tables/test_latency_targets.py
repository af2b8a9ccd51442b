"""Targets: which table a name stands for, when it is stale, what may be compared, and how targets are listed."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from latency_tables import LatencyTable, TableError, load_target, require_comparable, staleness, target_names
from latency_tables.worker import processor_name
from nas.cli import display
from nas.cli.main import app
from tests.support.tables import document


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    return tmp_path / "latency"


def table(**changes: Any) -> LatencyTable:
    return LatencyTable.from_dict(document(**changes), "here")


def dated(kind: str, date: str) -> dict[str, Any]:
    return {**document()["provenance"], "kind": kind, "date": date}


def test_precedence_is_by_kind_and_then_by_date(cache: Path) -> None:
    for number, (kind, date) in enumerate(
        [
            ("calibrated", "2030-01-01"),
            ("measured", "2026-01-02"),
            ("measured", "2026-01-10"),
            ("measured", "2026-01-03"),
            ("transferred", "2031-01-01"),
        ]
    ):
        table(provenance=dated(kind, date)).save(cache / f"{number}.json")
    found = load_target("bench").provenance
    assert (found.kind, found.date) == ("measured", "2026-01-10")


def test_a_users_measured_pixel6_goes_before_the_shipped_calibrated_one(cache: Path) -> None:
    assert load_target("pixel6").provenance.kind == "calibrated"
    table(name="pixel6", aliases=[], provenance=dated("measured", "2020-01-01")).save(cache / "mine.json")
    assert load_target("pixel6").provenance.kind == "measured"
    assert load_target("pixel6/cpu-x1/litert-int8").provenance.kind == "calibrated"


def measured_here(**changes: Any) -> LatencyTable:
    facts = document()
    return table(
        provenance={**facts["provenance"], "host": platform.node(), **changes.pop("provenance", {})},
        device={**facts["device"], "processor": processor_name(), **changes.pop("device", {})},
        runtime={**facts["runtime"], "version": version("onnxruntime"), **changes.pop("runtime", {})},
        **changes,
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"provenance": {"host": "elsewhere"}}, f"measured on `elsewhere`, this is `{platform.node()}`"),
        ({"device": {"processor": "Abacus"}}, "measured on the processor `Abacus`, this is"),
        ({"runtime": {"version": "0.1"}}, "measured with ONNX Runtime 0.1, installed is"),
        ({"provenance": {"host": "elsewhere", "transport": "ssh:pi@board"}}, ""),
        ({"provenance": {"kind": "calibrated", "host": "elsewhere"}}, ""),
    ],
)
def test_a_table_is_stale_where_host_processor_or_runtime_changed(changes: dict[str, Any], expected: str) -> None:
    assert staleness(measured_here(**changes)).startswith(expected)
    assert bool(staleness(measured_here(**changes))) == bool(expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precision": "int8"}, "found precision fp32 and int8;"),
        ({"threads": 4}, "found threads 1 and 4;"),
        ({"runtime": {"name": "ncnn", "fusion": "xnnpack"}}, "found runtime ONNX Runtime 1.31 and ncnn;"),
        ({"precision": "fp16", "threads": 2}, "found precision fp32 and fp16, threads 1 and 2;"),
        ({"batch": 8}, "batch 1 and 8"),
    ],
)
def test_tables_of_different_conditions_are_not_compared(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(TableError) as caught:
        require_comparable(table(), table(name="second", **changes))
    assert "`bench/cpu` and `second` cannot be compared" in str(caught.value)
    assert reason in str(caught.value)
    assert caught.value.hint


def test_tables_of_the_same_conditions_are_compared() -> None:
    require_comparable(table(), table(name="second", scale=2.0, device={"name": "Other", "processor": "CPU"}))
    require_comparable(load_target("pixel6"), load_target("galaxy-s23"))
    with pytest.raises(TableError, match="threads 1 and 4"):
        require_comparable(load_target("raspberrypi5"), load_target("raspberrypi5-4t"))


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_of_targets_fits_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=width, highlight=False, record=True)
    monkeypatch.setattr(display, "output", lambda: console)
    assert CliRunner().invoke(app, ["targets"]).exit_code == 0
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    for info in target_names():
        if info.alias_of and info.table is not None and info.name == min(info.table.aliases):
            line = next(line for line in lines if line.split()[:1] == [info.name])
            assert info.kind in line
            assert f"{info.table.validation.mean_error:.1%}" in line
    assert any(line.startswith(" local") and "not built" in line for line in lines)


def test_targets_are_found_by_a_part_of_what_they_are() -> None:
    answer = CliRunner().invoke(app, ["targets", "INT8", "--json"])
    names = {entry["name"] for entry in json.loads(answer.stdout)["targets"]}
    assert {"pixel6", "pixel4"} < names
    assert not names & {"raspberrypi4", "pixel4-fp32", "local"}
    kinds = next(e["kinds"] for e in json.loads(answer.stdout)["targets"] if e["name"] == "pixel4")
    assert set(kinds) == {"convolutional", "plain transformer", "hybrid"}
    assert kinds["plain transformer"]["believed"]
    assert kinds["plain transformer"]["mean_error"] < kinds["plain transformer"]["mac_line_mean_error"]
    refused = CliRunner().invoke(app, ["targets", "abacus"])
    assert refused.exit_code == 2
    assert "targets: found none with `abacus`" in refused.output


@pytest.mark.parametrize("name", [info.name for info in target_names() if info.alias_of][::9])
def test_every_shipped_target_can_be_shown(name: str) -> None:
    result = CliRunner().invoke(app, ["latency", "show", name])
    assert result.exit_code == 0
    assert "calibrated: nobody touched the device" in result.output
    assert "MAC line" in result.output
