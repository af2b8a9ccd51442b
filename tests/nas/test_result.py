"""What a search gives back, through the public functions, from question to exported and verified network."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import nas
from latency_tables.predictor import Latency
from latency_tables.repeats import Measurement
from nas.errors import InfeasibleError, NasError, RunError, UsageError
from nas.exporting.verify import compare_latency
from nas.records.trial import State, Trial
from nas.result import SearchResult, load_result
from nas.runs.front import load_front
from nas.runs.front_document import FrontHeader, front_document
from nas.searching import search as run_search
from nas.searching.extra_scores import MEMBERS
from search_spaces import Architecture, UnknownNameError, get_space
from tests.support.searches import FakeEvaluator

SPACE = get_space("elastic-mini")


def make_trial(number: int, ms: float, objective: float, architecture: Architecture = SPACE.smallest) -> Trial:
    return Trial(
        number=number,
        state=State.DONE,
        reason="",
        architecture=architecture,
        genotype=tuple(SPACE.encode([architecture])[0].tolist()),
        costs={"params": 1, "macs": 2},
        latency={"pixel6": Latency(ms, ms * 0.9, ms * 1.1, "calibrated", False)},
        objectives={"accuracy": objective},
        scores={},
        seconds=0.0,
    )


def make_result(folder: Path, points: list[tuple[float, float]]) -> SearchResult:
    header = FrontHeader(
        run=folder,
        space="elastic-mini",
        seed=3,
        target="pixel6",
        limit_ms=12.0,
        objective="accuracy",
        sources=["pixel6: calibrated"],
    )
    document = front_document(header, [make_trial(number, *point) for number, point in enumerate(points)], 9)
    (folder / "front.json").write_text(json.dumps(document))
    (folder / "settings.json").write_text("{}")
    return SearchResult(folder, document)


BENT = [(1.0, 0.1), (2.0, 0.5), (3.0, 0.6), (10.0, 0.7)]


@pytest.mark.parametrize(("pick", "number"), [("knee", 2), ("best", 3), ("fastest", 0), (1, 1), ("1", 1)])
def test_pick(tmp_path: Path, pick: str | int, number: int) -> None:
    assert make_result(tmp_path, BENT).pick(pick).number == number


@pytest.mark.parametrize("pick", ["nee", 4, -1, "4", ""])
def test_pick_of_nothing_says_what_there_is(tmp_path: Path, pick: str | int) -> None:
    with pytest.raises(UsageError, match=f"no network `{pick}` on the front of 4") as caught:
        make_result(tmp_path, BENT).pick(pick)
    assert "a number from 0 to 3" in caught.value.hint


def test_pick_from_an_empty_front_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NasError, match="is empty"):
        make_result(tmp_path, []).pick()


def test_result_goes_to_disk_and_back(tmp_path: Path) -> None:
    result = make_result(tmp_path, BENT)
    loaded = load_result(tmp_path)
    assert loaded.front == result.front
    assert (loaded.target, loaded.objective, loaded.evaluated) == ("pixel6", "accuracy", 9)
    assert loaded.front[0].architecture == SPACE.smallest


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no `front"), ("{", "cannot be read"), ('{"schema": 9}', "has schema 9")]
)
def test_unreadable_result_is_a_run_error(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "front.json").write_text(content)
    with pytest.raises(RunError, match=message):
        load_result(tmp_path)
    with pytest.raises(RunError, match=r"front\.json` is damaged"):
        SearchResult(tmp_path, {"front": [{"number": 1}]}).front  # noqa: B018


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("front", 0, "params"), "many", r"`front\.0\.params`: found 'many', expected a whole number"),
        (("front", 1, "latency", "pixel6", "ms"), float("inf"), "found Infinity, expected finite numbers"),
        (("front", 1, "objectives"), {}, r"`front\.1` has no value of `accuracy`"),
        (("front", 2, "latency"), {}, r"`front\.2` has no value of `latency:pixel6`"),
        (("front", 0, "architecture", "choices"), [], r"`front\.0\.architecture`"),
        (("front",), {}, "`front`: it is no list"),
        (("target",), 6, "`target`: found '6', expected text"),
        (("settled",), {"number": 1}, r"`settled\.architecture`: it is missing"),
        (("limits",), {"params": {"upper": None}}, r"`limits\.params\.upper`"),
        (("fronts",), {"moon": None}, r"`fronts\.moon`: it is missing, expected a list"),
    ],
)
def test_front_that_no_search_writes_is_refused_by_name(
    tmp_path: Path, path: tuple[str | int, ...], value: object, message: str
) -> None:
    make_result(tmp_path, BENT)
    document = json.loads((tmp_path / "front.json").read_text())
    inside = document
    for name in path[:-1]:
        inside = inside[name]
    inside[path[-1]] = value
    (tmp_path / "front.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match=message) as caught:
        load_front(tmp_path)
    assert "front.json" in str(caught.value)
    assert caught.value.hint


def test_measured_latency_is_put_beside_the_predicted() -> None:
    predicted = Latency(2.0, 1.8, 2.2, "measured", False)
    measured = Measurement("n", 2.1, "median", 0.1, 2.0, 2.3, 1.9, 90, 3, 0.01, "wall", 1.0, True)
    verified = compare_latency(predicted, measured, 3.0)
    assert verified["latency"]["local"] == {
        "ms": 2.1,
        "low_ms": 2.0,
        "high_ms": 2.3,
        "kind": "measured",
        "extrapolated": False,
    }
    assert verified["latency_difference"] == pytest.approx(0.05)
    assert verified["warnings"] == []
    slow = compare_latency(predicted, replace(measured, ms=3.2), 3.0)
    assert len(slow["warnings"]) == 2
    assert "+60%" in slow["warnings"][0]
    fast = compare_latency(predicted, replace(measured, ms=1.2), 3.0, "local@int8", "int8-dynamic")
    assert fast["warnings"] == [
        "measured latency differs by -40% from the predicted, which is of integers in every layer; the file is written"
        " as `int8-dynamic`, which is faster"
    ]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Keeps two threads from waiting for each other where other programs hold the processors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cheap_score(monkeypatch: pytest.MonkeyPatch) -> FakeEvaluator:
    evaluator = FakeEvaluator()
    evaluator.name = "length_distortion"
    monkeypatch.setattr(run_search, "untrained_evaluator", lambda space, score, workers: evaluator)
    monkeypatch.setattr(run_search._Search, "_score_in_columns", lambda search: None)
    return evaluator


def test_search_without_data(tmp_path: Path, cheap_score: FakeEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = nas.search("elastic-mini", limit_ms=1.0, evaluations=20)
    assert first.run == tmp_path / "runs" / "elastic-mini-pixel6-1"
    assert first.evaluated == len(cheap_score.calls) == 20
    assert all(member.latency["pixel6"].high_ms <= 1.0 for member in first.front)
    assert "pixel6" in first.document["sources"][0]
    with pytest.raises(RunError, match="holds a run already"):
        nas.search("elastic-mini", limit_ms=1.0, evaluations=20, output=first.run)

    more = nas.search(output=first.run, resume=True, evaluations=30)
    assert len(cheap_score.calls) == 30
    whole = nas.search("elastic-mini", limit_ms=1.0, evaluations=30)
    assert more.front == whole.front
    assert json.loads((first.run / "settings.json").read_text())["evaluations"] == 30


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"space": "elastic"}, "`space` was 'elastic-mini'"),
        ({"seed": 5}, "`seed` was 0"),
        ({"limit_ms": 2.0}, "`limit_ms` was 1.0"),
        ({"controller": "random"}, "`controller` was 'nsga2'"),
    ],
)
def test_changed_settings_are_refused(
    tmp_path: Path, cheap_score: FakeEvaluator, given: dict[str, Any], message: str
) -> None:
    nas.search("elastic-mini", limit_ms=1.0, evaluations=3, output=tmp_path / "run")
    with pytest.raises(RunError, match=message):
        nas.search(**given, output=tmp_path / "run", resume=True)


def test_changed_latency_table_is_refused(tmp_path: Path, cheap_score: FakeEvaluator) -> None:
    run = nas.search("elastic-mini", limit_ms=1.0, evaluations=3, output=tmp_path / "run").run
    settings = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_text(json.dumps({**settings, "latency_fingerprint": "0"}))
    with pytest.raises(RunError, match="`latency_fingerprint` was '0'"):
        nas.search(output=run, resume=True)


def test_impossible_limit_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="on `pixel6`"):
        nas.search("elastic-mini", limit_ms=0.001, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_wrong_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown search space: `elastik`"):
        nas.search("elastik", output=tmp_path / "run")
    with pytest.raises(UnknownNameError, match="unknown target: `pixel7`"):
        nas.search("elastic-mini", "pixel7", output=tmp_path / "run")
    with pytest.raises(UnknownNameError, match="unknown controller: `nsga22`"):
        nas.search("elastic-mini", controller="nsga22", output=tmp_path / "run")
    with pytest.raises(UnknownNameError, match="unknown score: `param`"):
        nas.search("elastic-mini", score="param", output=tmp_path / "run")
    with pytest.raises(UsageError, match="ranked by accuracy"):
        nas.search("elastic-mini", score="params", data="digits", output=tmp_path / "run")
    with pytest.raises(UsageError, match="`resume` without `output`"):
        nas.search(resume=True)
    assert not (tmp_path / "run").exists()


def test_search_that_evaluates_nothing_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(FakeEvaluator):
        def evaluate(self, architecture: Architecture, seed: int) -> Any:
            raise OverflowError("too large")

    monkeypatch.setattr(run_search, "untrained_evaluator", lambda space, score, workers: Broken())
    monkeypatch.setattr(run_search._Search, "_score_in_columns", lambda search: None)
    with pytest.raises(NasError, match="none of 3 networks could be evaluated: OverflowError: too large"):
        nas.search("elastic-mini", limit_ms=1.0, evaluations=3, output=tmp_path / "run")


@pytest.mark.parametrize("score", ["params", "macs"])
def test_size_as_a_score_finds_the_largest_within_the_limit(tmp_path: Path, score: str) -> None:
    result = nas.search("elastic-mini", limit_ms=1.0, score=score, evaluations=40, output=tmp_path / "run")
    best = result.pick("best")
    assert result.objective == score
    assert best.objectives[score] == getattr(best, score)
    assert best.objectives[score] > max(getattr(member, score) for member in result.front[:-1])


def test_front_found_by_size_is_given_its_length_distortion(tmp_path: Path) -> None:
    result = nas.search("elastic-mini", limit_ms=1.0, evaluations=60, output=tmp_path / "run")
    assert result.objective == "capacity"
    scored = [member for member in result.front if "length_distortion" in member.scores]
    assert len(scored) == min(MEMBERS, len(result.front)) > 2
    assert result.front[0] in scored
    assert result.front[-1] in scored
    assert all(member.scores["length_distortion"] > 0 for member in scored)


@pytest.mark.usefixtures("one_thread")
def test_real_score_ranks_networks(tmp_path: Path) -> None:
    score = "length-distortion"
    result = nas.search("elastic-mini", limit_ms=1.0, score=score, evaluations=3, output=tmp_path / "run")
    assert result.objective == "length_distortion"
    assert result.front
    assert all(member.objectives["length_distortion"] > 0 for member in result.front)


def test_names_of_the_package_are_loaded_on_first_use() -> None:
    code = (
        "import sys, nas; assert not {'torch', 'optuna', 'pydantic', 'numpy'} & set(sys.modules);"
        "import nas.searching.search, nas.training.train, nas.searching.preview;"
        "assert callable(nas.search) and callable(nas.train) and callable(nas.preview) and callable(nas.load);"
        "assert set(nas.__all__) <= set(dir(nas))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute `searchh`"):
        nas.searchh  # noqa: B018
