"""Growth: candidates, ties, limits, families that are resumed, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import nas
from nas.cli.main import app
from nas.errors import RunError, UsageError
from nas.events import ignore
from nas.growth.choose import best_candidate
from nas.growth.grow import load_device
from nas.growth.limit import parse_limit
from nas.growth.rules import AsvitGrowth, ChoiceGrowth, grown_topologies, growth_rule, larger_widths
from nas.result import load_result
from nas.scores import asvit
from nas.scores.asvit import AsvitScores
from nas.scores.length_distortion import LengthDistortion
from nas.scores.ntk import NtkCondition
from search_spaces import get_space
from search_spaces.asvit_topology import parse_topology, topology_graph

SEED = "8,2,3|4,1,2|4,1,4|4,1,6|32"


class FakeScorer:
    """Metrics from the size of the network that is built, without building it on any device."""

    calls = 0

    def __init__(self, **_: Any) -> None:
        pass

    def __enter__(self) -> FakeScorer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def score_all(self, builds: Sequence[Callable[[], Any]]) -> Any:
        for build in builds:
            assert isinstance(build, partial)
            key = str(build.args[-1])
            draw = np.random.default_rng(abs(sum(key.encode()) * len(key))).random(2)
            FakeScorer.calls += 1
            yield AsvitScores(NtkCondition(5 + float(draw[0]), ()), LengthDistortion(1e-3 * (1 + float(draw[1])), ()))


@pytest.fixture
def fake_scorer(monkeypatch: pytest.MonkeyPatch) -> type[FakeScorer]:
    monkeypatch.setattr(asvit, "AsvitScorer", FakeScorer)
    FakeScorer.calls = 0
    return FakeScorer


# -- candidates and choice ---------------------------------------------------------------------------------------------


def test_first_step_has_twelve_candidates() -> None:
    start = parse_topology(SEED)
    found = grown_topologies(start)
    assert len(found) == len(set(found)) == 12
    assert {sum(topology.depths) for topology in found} == {5}
    assert {topology.width for topology in found} == {32, 36, 40}
    assert larger_widths(8) == [8, 9, 10]
    assert larger_widths(22) == [23, 24, 25, 26]
    assert len(AsvitGrowth().candidates(get_space("asvit-grown").from_topology(start))) == 12


def test_best_candidate_has_the_smallest_sum_of_dense_ranks() -> None:
    assert best_candidate(np.array([3.0, 1.0, 2.0]), np.array([1.0, 3.0, 2.0])) == 1
    assert best_candidate(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == 1


def test_tie_rules() -> None:
    ntk, length = np.array([1.0, 1.1, 1.2, 9.0]), np.array([1.0, 2.0, 3.0, 0.5])
    # Sums of ranks 2, 2, 2, 6: the tangent kernel has the larger range, 8/9 against 2.5/3.
    assert best_candidate(ntk, length) == 0
    assert best_candidate(ntk, length, "sensible") == 2
    # Now length distortion has the larger one, and the published rule prefers the shorter of the first two.
    assert best_candidate(np.array([1.0, 1.1, 1.2]), np.array([1.0, 2.0, 3.0])) == 0
    assert best_candidate(np.array([1.2, 1.1, 1.0]), np.array([3.0, 2.0, 1.0])) == 1


def test_growth_by_choices_is_larger_and_of_the_space() -> None:
    space = get_space("elastic-mini")
    rule = ChoiceGrowth(space)
    row = space.encode([space.smallest])[0]
    candidates = rule.candidates(space.smallest)
    rows = space.encode(candidates)
    assert len(candidates) == len(set(candidates)) > 5
    assert (rows >= row).all()
    assert (rows > row).any(axis=1).all()
    assert space.is_valid(rows).all()
    assert rule.candidates(space.largest) == []
    changed = {name for name in space.columns if any(network[name] != space.smallest[name] for network in candidates)}
    assert {name.rpartition(".")[2] for name in changed} == {"depth", "width"}


def test_proxy_has_a_quarter_of_the_width() -> None:
    rule, start = growth_rule(get_space("asvit").find("seed"))
    build = rule.build(start)
    assert isinstance(build, partial)
    assert build.args[0].width == 8
    assert rule.size(start).params == topology_graph(parse_topology(SEED)).params == 2_319_624


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [("80M", "params", 80e6), ("1.2G", "macs", 1.2e9), ("600MMACs", "macs", 6e8), ("30 ms", "latency", 30)],
)
def test_limits(text: str, kind: str, value: float) -> None:
    limit = parse_limit(text)
    assert (limit.kind, limit.value) == (kind, pytest.approx(value))


@pytest.mark.parametrize("text", ["80", "M", "0M", "-3M", "3parsecs", "", "nanM"])
def test_unclear_limits_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="parameters such as `80M`"):
        parse_limit(text)


# -- families ----------------------------------------------------------------------------------------------------------


def test_published_growth_ends_between_80_and_110_million(tmp_path: Path, fake_scorer: type[FakeScorer]) -> None:
    result = nas.scale(f"asvit:{SEED}", output=tmp_path / "run")
    space = get_space("asvit-grown")
    topologies = [space.topology(member.architecture) for member in result.front]
    assert [sum(topology.depths) for topology in topologies] == list(range(4, 4 + len(topologies)))
    params = [member.scores["rule_params"] for member in result.front]
    assert params == sorted(params)
    assert params[0] == 2_319_624
    assert 80e6 <= params[-1] <= 110e6
    assert all(value < 80e6 for value in params[:-1])
    assert all(b.width <= 1.25 * a.width for a, b in pairwise(topologies))
    assert result.pick(2).architecture == result.front[2].architecture


def test_resumed_growth_equals_an_uninterrupted_one(tmp_path: Path, fake_scorer: type[FakeScorer]) -> None:
    whole = nas.scale("asvit/seed", "12M", output=tmp_path / "whole")
    calls = fake_scorer.calls
    lines = (tmp_path / "whole" / "trials.jsonl").read_bytes()
    for cut in (0, len(lines) // 3, len(lines) - 20):
        folder = tmp_path / f"cut{cut}"
        nas.scale("asvit/seed", "2.4M", output=folder)
        settings = json.loads((folder / "settings.json").read_text())
        (folder / "settings.json").write_text(json.dumps({**settings, "up_to": "12M"}))
        (folder / "trials.jsonl").write_bytes(lines[:cut])
        fake_scorer.calls = 0
        resumed = nas.scale(output=folder, resume=True)
        assert [member.scores for member in resumed.front] == [member.scores for member in whole.front]
        assert [member.architecture for member in resumed.front] == [member.architecture for member in whole.front]
        assert fake_scorer.calls == calls - lines[:cut].count(b"\n")


def test_interrupted_growth_says_so_and_goes_on(
    tmp_path: Path, fake_scorer: type[FakeScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import contextmanager
    from threading import Event

    from nas.growth import grow

    @contextmanager
    def interrupted() -> Any:
        event = Event()
        monkeypatch.setattr(event, "is_set", lambda: fake_scorer.calls >= 20)
        yield event

    with monkeypatch.context() as patch:
        patch.setattr(grow, "deferred_interrupt", interrupted)
        first = nas.scale("asvit/seed", "12M", output=tmp_path / "run")
    assert first.is_interrupted
    assert len(first.front) == 2
    assert fake_scorer.calls == 20
    resumed = nas.scale(output=tmp_path / "run", resume=True)
    whole = nas.scale("asvit/seed", "12M", output=tmp_path / "whole")
    assert not resumed.is_interrupted
    assert [member.architecture for member in resumed.front] == [member.architecture for member in whole.front]


def test_growth_under_a_latency_stays_within_it(tmp_path: Path, fake_scorer: type[FakeScorer]) -> None:
    space = get_space("elastic")
    device = load_device("pixel6", space, ignore)
    limit_ms = 1.5 * device.latency(space.lower(space.find("S1"))).high_ms
    result = nas.scale("elastic/S1", f"{limit_ms:.3f}ms", target="pixel6", output=tmp_path / "run")
    assert len(result.front) > 3
    assert all(member.latency["pixel6"].high_ms <= limit_ms for member in result.front)
    assert result.document["limit_ms"] == pytest.approx(limit_ms, abs=1e-3)
    macs = [member.macs for member in result.front]
    assert macs == sorted(macs)


@pytest.mark.parametrize(
    ("network", "given", "error", "message"),
    [
        ("elastic/S1", {"up_to": "0.001ms"}, Exception, "beyond `0.001ms` already"),
        ("resnet18", {}, Exception, "which no adapter knows"),
        (None, {}, UsageError, "no network to grow"),
        ("asvit/seed", {"ties": "best"}, UsageError, "`ties` is 'best'"),
        ("asvit/seed", {"repeats": 0}, UsageError, "`repeats` is 0, expected a whole number from 1"),
        ("asvit:8,2,3|4,1,2|4,1,4|4,1,6|32,300", {}, Exception, "width"),
    ],
)
def test_what_cannot_be_grown_is_said(
    tmp_path: Path, network: str | None, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        nas.scale(network, **given, output=tmp_path / "run")


def test_changed_settings_are_refused(tmp_path: Path, fake_scorer: type[FakeScorer]) -> None:
    nas.scale("asvit/seed", "3M", output=tmp_path / "run")
    with pytest.raises(RunError, match="`seed` was 27"):
        nas.scale(seed=1, output=tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="`resume` without `output`"):
        nas.scale(resume=True)


def test_command_prints_the_family(tmp_path: Path, fake_scorer: type[FakeScorer]) -> None:
    arguments = ["scale", "--from", "asvit/seed", "--up-to", "4M", "-o", str(tmp_path / "run"), "--quiet"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert SEED in shown.output
    document = load_result(tmp_path / "run").document
    again = CliRunner().invoke(app, ["scale", "--resume", str(tmp_path / "run"), "--json", "--quiet"])
    assert json.loads(again.stdout)["front"] == document["front"]
    assert CliRunner().invoke(app, ["scale"]).exit_code == 2


def test_real_growth_by_one_step(tmp_path: Path) -> None:
    result = nas.scale("elastic-mini/smallest", "0.7MMACs", repeats=1, output=tmp_path / "run")
    assert len(result.front) > 1
    assert all(np.isfinite(list(member.scores.values())).all() for member in result.front)
