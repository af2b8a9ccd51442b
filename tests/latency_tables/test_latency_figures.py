"""Files of published figures: what is wrong with them is one clear error, and no figure is dropped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from latency_tables.errors import CalibrationError
from latency_tables.figures import RebuiltNetwork, read_figures, rebuild_figures, rebuild_published
from latency_tables.published_models import PUBLISHED_MODELS
from search_spaces import get_space
from search_spaces.graph import SOURCE, Op, OpGraph

GOOD = "model,latency_ms,family,input_px,macs_m,threads,colour\nresnet18,12.5,ResNet,224,1814,4,red\nalexnet,8,,,,4,\n"


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "figures.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_figures_are_read_with_what_they_say_and_do_not_say(tmp_path: Path) -> None:
    figures = read_figures(written(tmp_path, GOOD))
    first, second = figures.rows
    assert (first.model, first.latency_ms, first.family, first.input_px, first.macs_m) == (
        "resnet18",
        12.5,
        "ResNet",
        224,
        1814.0,
    )
    assert (second.family, second.input_px, second.macs_m) == ("", None, None)
    assert figures.ignored == ("colour",)
    assert figures.condition("threads", tmp_path) == "4"
    assert figures.condition("device", tmp_path) == ""


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    text = "\n" + GOOD.replace("\n", "\r\n") + "\r\n\r\n"
    assert read_figures(written(tmp_path, text, "utf-8-sig")).rows == read_figures(written(tmp_path, GOOD)).rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing, expected a line of column names"),
        ("model,latency_ms\n", "found no rows below the column names"),
        ("model,ms\na,1\n", "column `latency_ms` is missing, found `model`, `ms`"),
        ("model,latency\na,1 ms\nb,2\n", "line 3: column `latency_ms`: found `2`, expected a unit, as line 2 has: ms"),
        ("model,latency_ms\na,21,2\nb,7,5\n", "line 2: found 3 fields, expected 2"),
        ("model,latency_ms,model\na,1,b\n", "column `model` is there twice"),
        ("model,latency_ms\na,fast\n", "line 2: column `latency_ms`: found `fast`, expected a number"),
        ("model,latency_ms\na,1\nb,-3\n", "line 3: column `latency_ms`: found `-3`, expected a positive number"),
        ("model,latency_ms\na,nan\n", "found `nan`, expected a number"),
        ("model,latency_ms\na,\n", "column `latency_ms`: found nothing, expected milliseconds"),
        ("model,latency_ms\n,1\n", "line 2: column `model`: found nothing"),
        ("model,latency_ms,macs_m\na,1,many\n", "column `macs_m`: found `many`"),
        ("model,latency_ms,input_px\na,1,224.5\n", "column `input_px`: found 224.5, expected whole pixels"),
        ("model,latency_ms\na,1\nb,2\na,3\n", "line 4: found `a` again, expected each network once (first in line 2)"),
        ("model,latency_ms\na,1,2\n", "line 2: found 3 fields, expected 2"),
        ('model,latency_ms\n"a,1\n', "line 2: unexpected end of data"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(CalibrationError) as caught:
        read_figures(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_in_another_encoding_or_none_at_all(tmp_path: Path) -> None:
    assert read_figures(written(tmp_path, GOOD, "utf-16")).rows == read_figures(written(tmp_path, GOOD)).rows
    with pytest.raises(CalibrationError, match=r"line 2: byte \d+ is not UTF-8"):
        read_figures(written(tmp_path, GOOD.replace("red", "größer"), "latin-1"))
    with pytest.raises(CalibrationError, match=r"none\.csv`: cannot be read: No such file"):
        read_figures(tmp_path / "none.csv")


@pytest.mark.parametrize("column", ["device", "processor", "runtime", "precision", "threads"])
def test_mixed_conditions_are_refused(tmp_path: Path, column: str) -> None:
    path = written(tmp_path, f"model,latency_ms,{column}\na,1,1\nb,2,4\n")
    with pytest.raises(CalibrationError, match=f"column `{column}`: found `1`, `4`, expected the same") as caught:
        read_figures(path).condition(column, path)
    assert "make a file for each" in caught.value.hint


def test_rows_that_cannot_be_used_are_named_with_the_reason(tmp_path: Path) -> None:
    space = get_space("elastic")
    graph = space.lower(space.named["T1"])
    macs = graph.macs / 1e6

    def rebuild(model: str, image_side: int | None) -> RebuiltNetwork:
        if model == "unknown":
            raise CalibrationError("nobody knows it", "ask around")
        return RebuiltNetwork.of_graph("elastic", graph)

    text = f"model,latency_ms,macs_m\nright,1,{macs * 1.04}\nbare,2,\nunknown,3,\nwrong,4,{macs * 1.2}\n"
    rows = read_figures(written(tmp_path, text)).rows
    samples, left_out = rebuild_figures(rows, rebuild, "int8")
    assert [sample.model for sample in samples] == ["right", "bare"]
    assert left_out[0] == "unknown: nobody knows it (ask around)"
    assert left_out[1].startswith("wrong: rebuilt it has")
    assert "MACs, published are" in left_out[1]
    wide, _ = rebuild_figures(rows, rebuild, "fp32")
    for op, (launches, class_macs, read, wrote) in samples[0].features.items():
        assert wide[0].features[op] == (launches, class_macs, 4 * read, 4 * wrote)


@pytest.mark.parametrize(("published", "count", "kept"), [("1400", 5, True), ("1400", 4, False), ("1410", 5, False)])
def test_macs_that_a_source_rounds_may_differ_by_the_rounding(
    tmp_path: Path, published: str, count: int, kept: bool
) -> None:
    """Five values that are all hundreds are rounded to hundreds; 1500 is then within 5 % and 50 of 1400."""
    graph = OpGraph([("all", (Op("a", "linear", (SOURCE,), ((1,),), (1,), macs=1_500_000_000),))], (1,))
    text = "model,latency_ms,macs_m\n" + "".join(f"n{number},1,{published}\n" for number in range(count))
    rows = read_figures(written(tmp_path, text)).rows
    samples, _ = rebuild_figures(rows, lambda model, side: RebuiltNetwork.of_graph("f", graph), "int8")
    assert len(samples) == (count if kept else 0)


def test_a_name_outside_the_catalogue_is_refused() -> None:
    with pytest.raises(CalibrationError, match="not in the catalogue"):
        rebuild_published("FastestDet")


def test_the_catalogue_names_sides_and_families() -> None:
    assert len(PUBLISHED_MODELS) > 80
    assert all(model.family and model.image_side >= 224 for model in PUBLISHED_MODELS.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "macs_m", "params_m"),
    [
        ("MobileNetV1_x0_25", 41, 0.46),
        ("MobileNetV3_small_x0_75", 44, 2.04),
        ("ShuffleNetV2_x0_5", 41, 1.37),
        ("proxylessnasnet", 336, 4.08),
        ("MultiHardware-AVG-1.5x", 947, 8.5),
        ("vision_transformer", 13044, 88.3),
    ],
)
def test_generated_networks_have_the_published_size(name: str, macs_m: float, params_m: float) -> None:
    graph = rebuild_published(name).graph
    assert graph.macs / 1e6 == pytest.approx(macs_m, rel=0.03)
    assert graph.params / 1e6 == pytest.approx(params_m, rel=0.03)
