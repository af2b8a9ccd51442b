"""How scores are taken: names, repeats, shared passes, failures that are named, and nothing that is left changed."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import nn

from nas.errors import EvaluationError, UsageError
from nas.evaluation.evaluators import ScoreEvaluator
from nas.networks.named import space_network
from nas.scores import registry
from nas.scores.base import Score
from nas.scores.measure import evaluate_score, evaluate_scores
from nas.scores.registry import get_score, register_score, score_names
from nas.scores.subject import ScoreSubject
from nas.scores.untrained import UntrainedNetwork
from nas.testing import ScoreContract, ToyNetwork, toy_subject
from search_spaces import UnknownNameError, get_space, plugins
from search_spaces.graph import SOURCE, Op, OpGraph

GRAPH = OpGraph([("model", (Op("all", "linear", (SOURCE,), ((3,),), (5,), macs=15, params=15),))], (3,))
SIDE = 8


@pytest.fixture
def subject() -> ScoreSubject:
    return toy_subject()


@pytest.fixture
def own_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.SCORES, "_registered", {})


def broken(build: Callable[[], nn.Module], shape: tuple[int, int, int] = (3, SIDE, SIDE)) -> ScoreSubject:
    return ScoreSubject("broken", build, shape, lambda: GRAPH)


# -- names --------------------------------------------------------------------------------------------------------


def test_every_name_leads_to_its_score() -> None:
    assert [get_score(name).name for name in score_names()] == score_names()
    assert score_names()[:2] == ["params", "macs"]
    assert get_score("length-distortion").key == "length_distortion"
    assert all(get_score(name).source for name in score_names())


def test_unknown_score() -> None:
    with pytest.raises(UnknownNameError, match="unknown score: `synflo`") as caught:
        get_score("synflo")
    assert caught.value.hint == "did you mean `synflow`?"


@pytest.mark.usefixtures("own_scores")
def test_a_score_of_ones_own(subject: ScoreSubject) -> None:
    register_score(Score("layers", lambda network: float(len(list(network.module.modules())))))
    assert evaluate_score(subject, "layers", seed=0) == len(list(ToyNetwork().modules()))
    with pytest.raises(ValueError, match="`layers` is registered already"):
        register_score(Score("layers", lambda network: 0.0))
    with pytest.raises(ValueError, match="`snip` is registered already"):
        register_score(Score("snip", lambda network: 0.0))


def test_scores_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", "nas.scores.synflow:SYNFLOW", "nas.scores")
    monkeypatch.setattr(plugins, "installed", lambda group: {"theirs": point} if group == "nas.scores" else {})
    assert "theirs" in score_names()
    assert get_score("theirs") is get_score("synflow")


def test_documentation_lists_every_score_and_its_example_works(subject: ScoreSubject) -> None:
    text = (Path(__file__).parents[3] / "docs" / "scores.md").read_text(encoding="utf-8")
    section = text.partition("## Which there are")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(documented) == sorted(score_names())
    namespace: dict[str, Score] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], namespace)
    network = UntrainedNetwork(subject, 0, 4)
    assert network.measure(namespace["LARGEST_GRADIENT"].function)[0] > 0


# -- repeats ------------------------------------------------------------------------------------------------------


def registered(name: str) -> type[ScoreContract]:
    class Registered(ScoreContract):
        def make_score(self) -> Score:
            return get_score(name)

    return Registered


globals().update({f"Test {name}": registered(name) for name in score_names()})


def test_the_value_is_the_mean_over_the_repeats(subject: ScoreSubject) -> None:
    results = evaluate_scores(subject, ["params", "snip"], seed=3, repeats=2, batch_size=4)
    assert (results["params"].value, results["params"].repeats) == (15, (15,))
    assert math.isnan(results["params"].spread)
    assert results["snip"].value == pytest.approx(statistics.fmean(results["snip"].repeats))
    assert results["snip"].spread == pytest.approx(statistics.stdev(results["snip"].repeats))
    assert results["snip"].spread > 0


def test_repeat_r_uses_seed_plus_r(subject: ScoreSubject) -> None:
    names = [name for name in score_names() if not get_score(name).is_free]
    both = evaluate_scores(subject, names, seed=5, repeats=2, batch_size=4)
    later = evaluate_scores(subject, names, seed=6, repeats=1, batch_size=4)
    assert {name: result.repeats[1] for name, result in both.items()} == {
        name: result.repeats[0] for name, result in later.items()
    }


def test_passes_are_shared_and_count_for_all_who_use_them(subject: ScoreSubject) -> None:
    built = []

    def build() -> nn.Module:
        built.append(1)
        return ToyNetwork()

    counted = dataclasses.replace(subject, build=build)
    names = ["snip", "grad-norm", "zico", "naswot", "near", "w-pca", "az-expressivity", "synflow", "dss"]
    results = evaluate_scores(counted, names, repeats=2, batch_size=4)
    assert len(built) == 2  # once per repeat

    network = UntrainedNetwork(subject, 0, 4)
    network.measure(get_score("snip").function)
    shared = network._shared["forward"].seconds + network._shared["gradients"].seconds
    assert network.measure(get_score("zico").function)[1] > shared
    assert all(result.seconds > 0 for result in results.values())


def test_images_of_ones_own(subject: ScoreSubject) -> None:
    images = torch.rand(6, 3, SIDE, SIDE)
    given = evaluate_scores(subject, ["snip", "naswot"], repeats=1, images=images)
    noise = evaluate_scores(subject, ["snip", "naswot"], repeats=1, batch_size=6)
    assert given["snip"].value != noise["snip"].value
    with pytest.raises(UsageError, match=r"found images of shape \(3, 4, 4\), expected \(3, 8, 8\)"):
        evaluate_scores(subject, ["snip"], images=torch.rand(6, 3, 4, 4))


@pytest.mark.parametrize(("arguments", "message"), [({"repeats": 0}, "`repeats` is 0"), ({"batch_size": 3}, "found 3")])
def test_numbers_out_of_range(subject: ScoreSubject, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate_scores(subject, ["snip"], **arguments)


# -- nothing is left changed --------------------------------------------------------------------------------------


def test_a_module_in_two_places_is_put_back() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(3, 5)
            self.first = nn.Linear(5, 5)
            self.second = self.first
            self.third = nn.Linear(5, 5)
            self.third.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.third(self.second(self.first(self.stem(x.flatten(1))).relu()))

    module = Shared()
    parameters = {name: id(value) for name, value in module.named_parameters(remove_duplicate=False)}
    subject = ScoreSubject("shared", lambda: module, (3, 1, 1), lambda: GRAPH)
    results = evaluate_scores(subject, ["synflow", "snip", "dss", "zico"], repeats=1, batch_size=4)
    assert {name: result.failure for name, result in results.items()} == dict.fromkeys(results, "")
    assert parameters == {name: id(value) for name, value in module.named_parameters(remove_duplicate=False)}


# -- failures -----------------------------------------------------------------------------------------------------


def test_a_layer_that_fails_is_named_and_other_scores_go_on() -> None:
    class Fussy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) < 4:
                raise RuntimeError("I want four images")
            return x

    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(192, 8), Fussy()), nn.Linear(8, 3))

    results = evaluate_scores(broken(build), ["params", "snip", "zico", "synflow"], repeats=2, batch_size=4)
    assert results["params"].value == 15
    for name in ("snip", "zico", "synflow"):
        assert results[name].failure == "layer `1.1` (Fussy) fails with RuntimeError: I want four images"
        assert math.isnan(results[name].value)
        assert len(results[name].repeats) == 1  # a second try would fail as well


def test_overflow_names_the_layer() -> None:
    def build() -> nn.Module:
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        nn.init.constant_(network[2].weight, 3e38)
        return network

    results = evaluate_scores(broken(build), ["snip", "naswot", "synflow"], repeats=1, batch_size=4)
    assert results["snip"].failure == "numbers overflow, first in the output of layer `2` (Linear)"
    assert results["naswot"].failure == results["snip"].failure
    assert math.isfinite(results["synflow"].value)  # in float64


def test_synaptic_flow_beyond_float64_is_a_named_failure() -> None:
    def build() -> nn.Module:
        layers = [nn.Linear(3, 3) for _ in range(10)]
        for layer in layers:
            nn.init.constant_(layer.weight, 1e37)
        return nn.Sequential(nn.Flatten(), *layers)

    result = evaluate_scores(broken(build, (3, 1, 1)), ["synflow"], repeats=1)["synflow"]
    assert result.failure == "numbers overflow, first in the output of layer `9` (Linear)"
    assert math.isnan(result.value)


@pytest.mark.parametrize(
    ("layers", "score", "message"),
    [
        ([nn.Flatten(), nn.Linear(192, 3)], "naswot", "calls no activation function"),
        ([nn.Flatten(), nn.Linear(192, 3)], "az-expressivity", "no residual connection"),
        ([nn.Flatten(), nn.ReLU()], "snip", "no weights of convolutions or linear layers"),
        ([nn.Conv2d(3, 2, 1)], "snip", r"shape \(8, 2, 8, 8\), expected logits of shape \(images, classes\)"),
    ],
)
def test_networks_that_lack_what_a_score_measures(layers: list[nn.Module], score: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate_score(broken(lambda: nn.Sequential(*layers)), score, seed=0, repeats=1)


@pytest.mark.usefixtures("own_scores")
def test_a_number_that_is_not_finite_is_a_failure_not_a_rank(subject: ScoreSubject) -> None:
    register_score(Score("endless", lambda network: math.inf))
    result = evaluate_scores(subject, ["endless"], repeats=1)["endless"]
    assert result.failure == "the value is inf, expected a finite number"
    assert math.isnan(result.value)


# -- in searches --------------------------------------------------------------------------------------------------


def test_search_ranks_by_any_score() -> None:
    space = get_space("elastic-mini")
    evaluator = ScoreEvaluator(space, "naswot")
    assert (evaluator.name, evaluator.is_free) == ("naswot", False)
    found = evaluator.evaluate(space.smallest, seed=0).objective
    subject = ScoreSubject.of(space_network(space, space.smallest, "smallest"))
    assert found == evaluate_score(subject, "naswot", seed=0, repeats=5)


def test_free_scores_come_from_the_op_graph() -> None:
    space = get_space("elastic-mini")
    evaluator = ScoreEvaluator(space)
    assert (evaluator.name, evaluator.is_free) == ("capacity", True)
    graph = space.lower(space.middle)
    expected = math.sqrt(graph.params * graph.macs) / 1e6
    assert evaluator.evaluate(space.middle, seed=0).objective == pytest.approx(expected)
