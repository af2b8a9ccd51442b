"""Latency tables: the file format, its error messages, targets by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latency_tables import LatencyTable, TableError, TableMissingError, load_target, provenance_line, target_names
from latency_tables.table import SCHEMA
from search_spaces.errors import UnknownNameError
from tests.support.tables import KERNEL, ROOFLINE, document


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    folder = tmp_path / "latency"
    folder.mkdir()
    return folder


def test_round_trip(tmp_path: Path) -> None:
    table = LatencyTable.from_dict(document(), "here")
    table.save(tmp_path / "deep" / "table.json")
    assert LatencyTable.load(tmp_path / "deep" / "table.json") == table
    assert table.validation.interval_coverage is None, "files of the first release do not state it"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["table.json"]


def drop(field: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        del data[field]

    return change


def put(value: Any, *path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        *parents, last = path
        target: Any = data
        for part in parents:
            target = target[part]
        target[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (drop("overhead_ms"), "field `overhead_ms`: found nothing, expected a value"),
        (put(-0.5, "kernels", 0, "median_ms"), "field `kernels.0.median_ms`: found -0.5, expected greater than or"),
        (put(1e308, "rooflines", 0, "ms_per_megabyte_read"), "found 1e+308, expected less than or equal to 1000000"),
        (put(float("nan"), "kernels", 0, "median_ms"), "found NaN, expected finite numbers"),
        (put("s", "unit"), "field `unit`: found \"s\", expected 'ms'"),
        (
            put([KERNEL, KERNEL], "kernels"),
            "field `kernels`: found duplicate kernel key `pointwise_conv[8x4x4>16x4x4]`",
        ),
        (put(SCHEMA + 1, "schema"), f"field `schema`: found {SCHEMA + 1}, expected at most {SCHEMA}"),
        (put("fp64", "precision"), "field `precision`: found \"fp64\", expected 'fp32'"),
        (put([{**ROOFLINE, "op": "conv"}], "rooflines"), "no roofline of class `other`"),
        (put(1, "colour"), "field `colour`"),
    ],
)
def test_a_bad_table_is_one_clear_error(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    data = json.loads(json.dumps(document()))
    change(data)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(TableError) as caught:
        LatencyTable.load(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"schema": 1, "schema": 1}', "duplicate field `schema`, expected each once"),
        ('{"device": {"name": "a", "name": "b"}}', "duplicate field `name`, expected each once"),
        ("[" * 100000, "expected one JSON object"),
    ],
)
def test_text_that_json_readers_would_let_pass(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(TableError, match=r"odd\.json") as caught:
        LatencyTable.load(tmp_path / "odd.json")
    assert expected in str(caught.value)


@pytest.mark.parametrize("content", ['{"schema": 1, "name": "x', "", "[1, 2]", "\x00\x01"])
def test_truncated_or_foreign_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "cut.json"
    path.write_text(content)
    with pytest.raises(TableError, match=r"cut\.json.*expected (one|a) JSON object"):
        LatencyTable.load(path)


def test_a_missing_file_is_a_table_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be read"):
        LatencyTable.load(tmp_path / "none.json")


def test_user_tables_by_name_and_alias(cache: Path) -> None:
    LatencyTable.from_dict(document(), "here").save(cache / "bench.json")
    assert load_target("bench") == load_target("bench/cpu")
    info = {info.name: info for info in target_names()}
    assert info["bench"].kind == "measured"
    assert info["bench"].path == cache / "bench.json"
    assert "alias of bench/cpu" in info["bench"].description
    assert "10.0%" in info["bench"].error


def test_unknown_target_suggests(cache: Path) -> None:
    LatencyTable.from_dict(document(), "here").save(cache / "bench.json")
    with pytest.raises(UnknownNameError, match="unknown target: `bensh`") as caught:
        load_target("bensh")
    assert caught.value.hint == "did you mean `bench`?"


def test_local_is_known_before_it_is_built(cache: Path) -> None:
    with pytest.raises(TableMissingError) as caught:
        load_target("local")
    assert caught.value.hint == "nas latency build --target local"
    assert {info.name: info.kind for info in target_names()}["local"] == "not built"


def test_a_broken_user_table_does_not_hide_the_others(cache: Path) -> None:
    LatencyTable.from_dict(document(), "here").save(cache / "bench.json")
    (cache / "local.json").write_text("{")
    assert load_target("bench").name == "bench/cpu"
    assert {info.name: info.kind for info in target_names()}["local"] == "unreadable"
    with pytest.raises(TableError, match=r"local\.json"):
        load_target("local")


def test_a_measured_table_goes_before_a_calibrated_one(cache: Path) -> None:
    measured = document()
    calibrated = document(provenance={**measured["provenance"], "kind": "calibrated", "date": "2027-01-01"})
    LatencyTable.from_dict(measured, "here").save(cache / "a.json")
    LatencyTable.from_dict(calibrated, "here").save(cache / "b.json")
    assert load_target("bench").provenance.kind == "measured"
    LatencyTable.from_dict(document(scale=2.0), "here").save(cache / "c.json")
    assert load_target("bench").scale == 2.0


def test_provenance_is_one_line_that_says_it_all() -> None:
    line = provenance_line(LatencyTable.from_dict(document(), "here"))
    for part in ("Bench CPU", "ONNX Runtime 1.31", "fp32", "1 thread", "measured", "2026-01-01", "mean error 10.0%"):
        assert part in line
    assert "\n" not in line


def test_a_file_holds_several_precisions(cache: Path) -> None:
    table = LatencyTable.from_dict(document(), "here")
    faster = table.model_copy(update={"precision": "int8", "scale": 0.5 * table.scale})
    both = table.with_precision(faster)
    both.save(cache / "both.json")
    assert LatencyTable.load(cache / "both.json") == both
    assert both.precisions == (table.precision, "int8")
    assert load_target(table.name).further == ()
    integers = load_target(f"{table.name}@int8")
    assert (integers.name, integers.precision) == (f"{table.name}@int8", "int8")
    assert integers.scale == 0.5 * load_target(table.name).scale
    assert both.with_precision(faster).precisions == both.precisions, "the newer times replace the older ones"
    with pytest.raises(TableMissingError, match="found no times in bf16, but in fp32, int8") as caught:
        load_target(f"{table.name}@bf16")
    assert caught.value.hint == f"nas latency build --name {table.name} --precision bf16"


def test_a_file_of_the_first_schema_is_of_one_precision() -> None:
    table = LatencyTable.from_dict({**document(), "schema": 1}, "here")
    assert table.precisions == (table.precision,)
