"""Tables of known accuracies in place of evaluations."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import nas
from nas.errors import NasError, UsageError
from nas.evaluation.accuracy_table import AccuracyTable, InterpolatingEvaluator, TableEvaluator
from nas.evaluation.listed_space import ListedSpace
from search_spaces import Architecture, get_space, population_cost
from tests.support.mixing_space import MixingSpace

SPACE = get_space("elastic-mini")


def write_table(path: Path, networks: int = 1000) -> dict[Architecture, float]:
    """A table whose accuracies grow with size, with noise; the form of the architectures changes from row to row."""
    genotypes = np.unique(SPACE.sample(2 * networks, np.random.default_rng(5)), axis=0)
    generator = np.random.default_rng(6)
    genotypes = generator.permutation(genotypes)[:networks]
    size_n = np.log(population_cost(SPACE, genotypes).macs)
    accuracy_n = 60 + 3 * (size_n - size_n.min()) + generator.standard_normal(len(size_n))
    known = dict(zip(SPACE.decode(genotypes), accuracy_n.tolist(), strict=True))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Architecture", "seconds", "Top-1"])
        for number, (architecture, accuracy) in enumerate(known.items()):
            whole = architecture.to_json()
            writer.writerow(
                [whole, 1, accuracy] if number % 2 else [whole.partition('"choices": ')[2][:-1], 1, accuracy]
            )
    return {architecture: accuracy / 100 for architecture, accuracy in known.items()}


def search(path: Path, folder: Path, **given: object) -> nas.result.SearchResult:
    return nas.search(space="elastic-mini", target="pixel6", accuracies=path, output=folder, **given)  # type: ignore[arg-type]


def test_random_search_finds_the_best_of_1000_exactly_and_proposes_nothing_else(tmp_path: Path) -> None:
    known = write_table(tmp_path / "table.csv")
    result = search(tmp_path / "table.csv", tmp_path / "run", controller="random", evaluations=2000)
    assert result.document["evaluated"] == len(known) == 1000
    best = result.pick("best")
    assert best.objectives == {"accuracy": max(known.values())}
    assert all(known[member.architecture] == member.objectives["accuracy"] for member in result.front)
    assert any("looked up in `table.csv`, which has 1,000 networks" in line for line in result.document["sources"])


def test_default_controller_proposes_rows_of_the_table_within_the_limit_and_resumes(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    known = write_table(path, 300)
    whole = search(path, tmp_path / "whole", limit_ms=0.5, evaluations=14)
    assert {member.architecture for member in whole.front} <= set(known)
    assert all(member.latency["pixel6"].high_ms <= 0.5 for member in whole.front)
    search(path, tmp_path / "parts", limit_ms=0.5, evaluations=10)
    parts = search(path, tmp_path / "parts", resume=True, evaluations=14)
    assert parts.document["front"] == whole.document["front"]
    path.write_text(path.read_text().replace("6", "5", 1000))
    with pytest.raises(NasError):
        search(path, tmp_path / "parts", resume=True, evaluations=20)


def test_interpolated_accuracies_are_called_predicted_and_say_how_sure_they_are(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    known = write_table(path, 60)
    table = AccuracyTable.read(path, SPACE)
    evaluator = InterpolatingEvaluator(table)
    architecture, accuracy = next(iter(known.items()))
    assert evaluator.evaluate(architecture, 0).objective == pytest.approx(accuracy)
    assert evaluator.evaluate(architecture, 0).scores == {"standard_deviation": 0.0}
    other = next(a for a in SPACE.decode(SPACE.sample(100, np.random.default_rng(0))) if a not in known)
    predicted = evaluator.evaluate(other, 0)
    assert predicted.scores["standard_deviation"] > 0.002
    assert min(known.values()) - 0.05 < predicted.objective < max(known.values()) + 0.05
    with pytest.raises(NasError, match="no such network"):
        TableEvaluator(table).evaluate(other, 0)
    result = search(path, tmp_path / "run", interpolate=True, evaluations=12, seed=1)
    assert any(member.architecture not in known for member in result.front)
    assert all(list(member.objectives) == ["predicted_accuracy"] for member in result.front)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("ARCHITECTURE,97\n", "line 2: architecture of `elastic-mini`: missing or unknown choices"),
        ("{\"space\": 1,97\n", "line 2"),
        ("nobody,97\n", "line 2: space `elastic-mini` has no short form for architectures, found `nobody`"),
        ("", "found no networks"),
        ("SMALLEST,97\nSMALLEST,98\n", "line 3: found 98.00% for a network that an earlier line gives 97.00%"),
        ("SMALLEST,\n", "line 2: accuracy is nothing"),
        ("ELASTIC,97\n", "line 2: architecture belongs to space `elastic` version 1, expected `elastic-mini`"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_by_line(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "table.csv"
    texts = {"SMALLEST": SPACE.smallest.to_json(), "ELASTIC": get_space("elastic").smallest.to_json()}
    for name, text in {**texts, "ARCHITECTURE": '{"T1.width": 3}'}.items():
        rows = rows.replace(name, '"' + text.replace('"', '""') + '"')
    path.write_text(f"architecture,accuracy\n{rows}")
    with pytest.raises(UsageError, match="accuracies") as caught:
        AccuracyTable.read(path, SPACE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": "digits"}, "`data` is 'digits', but accuracies are looked up"),
        ({"score": "naswot"}, "`score` is 'naswot', but accuracies are looked up"),
        ({"fidelity": "halving"}, "neither halves nor workers"),
        ({"executor": "ray"}, "neither halves nor workers"),
        ({"objectives": ["params"]}, "expected `accuracy` among them, since networks with known accuracies"),
        ({"accuracies": None, "interpolate": True}, "`interpolate` without a table"),
    ],
)
def test_what_makes_no_sense_beside_a_table_is_refused(tmp_path: Path, given: dict[str, object], message: str) -> None:
    write_table(tmp_path / "table.csv", 10)
    with pytest.raises(UsageError) as caught:
        nas.search(**{"space": "elastic-mini", "accuracies": tmp_path / "table.csv", **given})  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_listed_space_holds_its_list_alone_with_labelled_choices_too() -> None:
    base = MixingSpace()
    whole = np.unique(base.sample(500, np.random.default_rng(0)), axis=0)
    listed = whole[::3]
    space = ListedSpace(base, listed)
    generator = np.random.default_rng(1)
    assert {row.tobytes() for row in space.sample(2 * len(listed), generator)} == {row.tobytes() for row in listed}
    repaired = space.repair(whole)
    assert {row.tobytes() for row in repaired} == {row.tobytes() for row in listed}
    assert space.is_valid(whole).tolist() == [row.tobytes() in {one.tobytes() for one in listed} for row in whole]
    changed = (repaired != whole).sum(axis=1)
    assert changed[::3].max() == 0
    assert np.median(changed) <= 1
    assert space.encodings == len(listed)
