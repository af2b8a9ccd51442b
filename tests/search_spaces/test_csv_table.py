"""CSV files as the world writes them: read for what they say, or refused by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.csv_table import Column, CsvTable
from search_spaces.errors import NasError

COLUMNS = (
    Column("model", ("network",), is_required=True),
    Column("latency_ms", ("latency",), is_required=True, units={"ms": 1.0, "us": 1e-3, "s": 1e3}),
    Column("macs_m", units={"m": 1.0, "g": 1e3}),
    Column("source"),
)


def table(folder: Path, contents: str | bytes) -> CsvTable:
    path = folder / "table.csv"
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return CsvTable(path, "table", COLUMNS, NasError)


def read(folder: Path, contents: str | bytes) -> tuple[list[str], list[float | None]]:
    found = table(folder, contents)
    return found.texts("model"), found.numbers("latency_ms", "macs_m")["latency_ms"]


@pytest.mark.parametrize(
    "contents",
    [
        "model,latency_ms\na,21.5\nb,1200\n",
        "model;latency_ms\na;21,5\nb;1200\n",
        "model;latency_ms\na;21.5\nb;1200\n",
        "model\tlatency_ms\na\t21,5\nb\t1.200,0\n",
        'model,latency_ms\na,"21,5"\nb,1200\n',
        'model,latency_ms\r\n"a","21.5"\r\n\r\n"b","1,200.0"\r\n',
        "model,latency_ms\ra,21.5\rb,1200\r",
        "\ufeffmodel,latency_ms\na,21.5\nb,1200",
        "model,latency_ms\na,21.5\nb,1200\n".encode("utf-16"),
        b"\xfe\xff" + "model;latency_ms\na;21,5\nb;1200\n".encode("utf-16-be"),
        "sep=;\nmodel;latency_ms\na;21,5\nb;1200\n",
        '# measured "today, twice\nmodel,latency_ms\n# a first\na,21.5\n  # then b, "\nb,1200\n',
        " Model , Latency (ms) \n a , 21.5 \n b , 1200 \n",
        "NETWORK,latency ms,macs_m,note\na,21.5,,x\nb,1200,,\n",
        "model,latency [us]\na,21500\nb,1200000\n",
        "model,Latency_s\na,0.0215\nb,1.2\n",
        "model,latency\na,21.5 ms\nb,1.2 s\n",
        "model,latency\na,21500\u00b5s\nb,1200ms\n",
        "model,latency_ms\na,21.5ms\nb,1200\n",
        "model;latency_ms\na;21,5\nb;1\u00a0200\n",
        "model;latency_ms\na;21,5\nb;1'200\n",
        "model,latency_ms,\na,21.5,\nb,1.2e3,\n",
    ],
)
def test_one_table_in_many_forms(tmp_path: Path, contents: str | bytes) -> None:
    assert read(tmp_path, contents) == (["a", "b"], [pytest.approx(21.5), pytest.approx(1200)])


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("model,latency_ms\na,21,5\n", "line 2: found 3 fields, expected 2"),
        ("model,latency_ms,source\na,21.5\n", "line 2: found 2 fields, expected 3"),
        ("model;latency_ms\na;21,5\n\n# b\nb;12.5\n", "line 5: found `12.5`, in line 2 `21,5`, expected the same"),
        ('model,latency_ms\na,"1,234"\n', "line 2: column `latency_ms`: found `1,234`, which may be 1234 or 1.234"),
        ("model\tlatency_ms\na\t1,234\n", "which may be 1234 or 1.234"),
        ("model;latency_ms\na;21,5\nb;1.234\n", "line 3: column `latency_ms`: found `1.234`, which may be"),
        ("model,latency_ms\na,1.2.3\n", "found `1.2.3`, expected a number"),
        ("model,latency_ms\na,1_000\n", "found `1_000`, expected a number"),
        ("model,latency_ms\na,inf\n", "found `inf`, expected a number"),
        ("model,latency_ms\na,1e999\n", "found `1e999`, expected a finite number"),
        ("model,latency_ms\na,\u0661\u0662\n", "expected a number"),
        ("model,latency_ms\na,21 s\n", "found `21 s`, but the name of the column says `ms`"),
        ("model,latency_ms\na,21 miles\n", "found `21 miles`, expected a number with one of the units ms, us, s"),
        ("model,latency\na,21\n", "line 2: column `latency_ms`: found `21`, expected a unit: ms, us, s"),
        ("model,latency_ms\na,~21\n", "found `~21`, expected a number"),
        ("model,latency_ms\n\n\na,21 \u00b1 1\n", "line 4: column `latency_ms`"),
        ("model,latency_ms,Latency_MS\na,1,2\n", "`latency_ms` is there twice, as `latency_ms` and `Latency_MS`"),
        ("model,ms\na,1\n", "column `latency_ms` is missing, found `model`, `ms`"),
        ("a,21.5\nb,1200\n", "column `model` is missing, found `a`, `21.5`"),
        ('model,latency_ms\n"a,1\nb,2\n', "line 2: unexpected end of data"),
        (b"model,latency_ms\na,1\nr\xe9sum\xe9,2\n", "line 3: byte 22 is not UTF-8"),
        (b"\xff\xfem\x00o\x00d", "line 1: byte 6 is not UTF-16"),
        (b"model,latency_ms\na\x00,1\n", "line 2: found a null byte"),
        ("# nothing but this\n", "found nothing, expected a line of column names"),
    ],
)
def test_a_table_that_may_mean_something_else_is_refused_by_line(
    tmp_path: Path, contents: str | bytes, message: str
) -> None:
    with pytest.raises(NasError) as caught:
        read(tmp_path, contents)
    assert message in str(caught.value)
    assert "table.csv" in str(caught.value)


def test_a_field_may_hold_separators_quotes_and_line_ends(tmp_path: Path) -> None:
    found = table(tmp_path, 'model,latency_ms,source\n"a,b",1,"said ""so"",\n# here"\n\nc,2,\n')
    assert found.texts("model") == ["a,b", "c"]
    assert found.texts("source") == ['said "so",\n# here', ""]
    assert found.lines == [2, 5]


def test_units_of_another_column_and_columns_that_mean_nothing(tmp_path: Path) -> None:
    found = table(tmp_path, "colour,model,MACs (G),latency_ms,latency_us\nred,a,0.3,1,1000\n")
    assert found.numbers("macs_m")["macs_m"] == [pytest.approx(300)]
    assert found.ignored == ("colour", "latency_us")
