"""Two runs on one page: what it shows, and which runs are not compared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.errors import UsageError
from nas.report import build_comparison
from nas.report.statistics import difference_interval, share_interval
from tests.support.report_runs import TARGET, write_run


def judged_run(run: Path, count: int, images: int, right: int, **changes: Any) -> Path:
    """A run whose networks are ranked by accuracy, and whose fastest one was exported."""
    write_run(run, count, space_name="elastic-mini", **changes)
    for name in ("front.json", "trials.jsonl"):
        (run / name).write_text((run / name).read_text().replace("length_distortion", "accuracy"))
    document = json.loads((run / "front.json").read_text())
    shipped = document["front"][0]
    measured = {TARGET: {"ms": shipped["latency"][TARGET]["ms"], "kind": "measured"}}
    verified = {"number": shipped["number"], "test_accuracy": right / images, "test_images": images}
    document["verified"] = {**verified, "latency": measured}
    (run / "front.json").write_text(json.dumps(document))
    settings = {"schema": 1, "data": "photos", "data_digest": "12ab", "seed": 3, "evaluations": count}
    (run / "settings.json").write_text(json.dumps(settings))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return judged_run(tmp_path / "small", 6, 200, 100), judged_run(tmp_path / "large", 14, 200, 124, limit_ms=2.0)


def change(run: Path, file: str, edit: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((run / file).read_text())
    edit(document)
    (run / file).write_text(json.dumps(document))


def test_page_shows_two_runs_beside_one_another(runs: tuple[Path, Path]) -> None:
    page = build_comparison(*runs)
    assert page == runs[0] / "comparison.html"
    source = page.read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", source[: source.index('<script type="application/json"')]))
    low, high = share_interval(124, 200)
    assert f"62.0 % ({100 * low:.1f} to {100 * high:.1f})" in text
    low, high = difference_interval(0.5, 0.62, (200, 200))
    assert f"+12.0 points ({100 * low:+.1f} to {100 * high:+.1f})" in text
    shipped = [json.loads((run / "front.json").read_text())["front"][0] for run in runs]
    first, second = (network["latency"][TARGET]["ms"] for network in shipped)
    assert f"measured latency {first:.2f} ms {second:.2f} ms {100 * (second / first - 1):+.1f} %" in text
    assert "evaluations 6 14" in text
    assert " seed " not in text[text.index("What differs") :], "it is the same"
    figure = json.loads(source[source.index("{", source.index('id="figures"')) : source.index("</script>")])["fronts"]
    assert [trace["name"] for trace in figure["data"]] == [
        f"{name}: {what}" for name in ("small", "large") for what in ("front", "recommended", "measured")
    ]
    assert len(figure["layout"]["shapes"]) == 2, "both limits"


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("front.json", {"target": "local", "front": []}, "latency counts on different targets, `pixel6` and `local`"),
        ("front.json", {"sources": ["pixel6: Pixel 6a, fp32; x"]}, "not one device, `Google Pixel 6 Cortex-X1` and"),
        ("front.json", {"objectives": {"maximise": "params", "minimise": "latency"}}, "different things, `accuracy`"),
        ("settings.json", {"data_digest": "99"}, r"different images, `photos` \(digest 12ab\) and `photos` \(dig"),
        ("settings.json", {"data_digest": None, "data": "digits"}, r"different images, .* and `digits`"),
        ("settings.json", {"data_digest": None, "data": None, "accuracies_digest": "5"}, "different images"),
    ],
)
def test_runs_that_are_about_something_else_are_refused(
    runs: tuple[Path, Path], file: str, edit: dict[str, Any], message: str
) -> None:
    change(runs[1], file, lambda document: document.update(edit))
    with pytest.raises(UsageError, match=message):
        build_comparison(*runs)
    assert not (runs[0] / "comparison.html").exists()


def test_images_are_known_again_wherever_they_lie(runs: tuple[Path, Path]) -> None:
    change(runs[0], "settings.json", lambda document: document.update(data=None, supernet="runs/supernet"))
    change(runs[1], "settings.json", lambda document: document.update(data="/elsewhere/photos"))
    assert build_comparison(*runs).exists()
    with pytest.raises(UsageError, match="are one run, expected two"):
        build_comparison(runs[0], runs[0] / ".")


def test_a_run_without_a_front_has_nothing_that_ships(runs: tuple[Path, Path]) -> None:
    change(runs[1], "front.json", lambda document: document.update(front=[], verified=None))
    assert "The front of large is empty." in build_comparison(*runs).read_text(encoding="utf-8")


def test_interval_of_a_difference_holds_what_it_must() -> None:
    """Against draws: the true difference lies in about 95 of 100 intervals, at the ends too."""
    generator = np.random.default_rng(0)
    for first, second in ((0.5, 0.55), (0.97, 1.0)):
        drawn = generator.binomial(150, (first, second), (100, 2)) / 150
        intervals = [difference_interval(float(one), float(other), (150, 150)) for one, other in drawn]
        assert np.mean([low <= second - first <= high for low, high in intervals]) > 0.88
    assert difference_interval(1.0, 1.0, (20, 20)) == pytest.approx((-0.161, 0.161), abs=1e-3)
