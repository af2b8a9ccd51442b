"""Scores against accuracies of a user's own networks, as a function and on the command line."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nas.cli.main import app
from nas.errors import EvaluationError, UsageError
from nas.networks.named import space_network
from nas.scores import registry
from nas.scores.base import Score
from nas.scores.correlate import TrainedNetwork, correlate, encode_networks, read_trained
from nas.scores.rank_statistics import kendall_tau
from nas.scores.untrained import UntrainedNetwork
from search_spaces import get_space


def trained_networks(count: int, seed: int = 0) -> list[TrainedNetwork]:
    """Networks of `elastic-mini` whose accuracy is their capacity's rank with a little noise."""
    space, generator = get_space("elastic-mini"), np.random.default_rng(seed)
    architectures = space.decode(space.sample(count, generator))
    networks = [space_network(space, each, f"network {number}") for number, each in enumerate(architectures)]
    capacity = [math.sqrt(network.graph().params * network.graph().macs) for network in networks]
    accuracy = 60.0 + np.argsort(np.argsort(capacity)) * 20.0 / count + 0.5 * generator.standard_normal(count)
    return [TrainedNetwork(*pair) for pair in zip(networks, accuracy.tolist(), strict=True)]


def test_sizes_come_first_and_taus_are_right() -> None:
    trained = trained_networks(40)
    report = correlate(trained, ["capacity", "macs"], repeats=1, batch_size=4)
    assert [row.name for row in report.scores] == ["params", "macs", "capacity"]
    accuracy = [each.accuracy for each in trained]
    for row, size in zip(report.scores, ("params", "macs"), strict=False):
        assert row.tau.value == pytest.approx(
            kendall_tau([getattr(t.network.graph(), size) for t in trained], accuracy)
        )
    params, _, capacity = report.scores
    assert capacity.tau.value > 0.9
    assert capacity.tau.low < capacity.tau.value < capacity.tau.high
    assert math.isnan(params.given_params.value)
    assert capacity.given_params.value > 0.2
    assert report.few_label is not None
    assert report.few_label.value > 0.5
    assert report.notes == ()


def test_too_few_networks_are_said_to_be_too_few() -> None:
    report = correlate(trained_networks(8), [], repeats=1, batch_size=4)
    assert "8 networks are too few for a conclusion" in report.notes[0]
    report = correlate(trained_networks(5), [], repeats=1, batch_size=4)
    assert report.few_label is None
    assert "no cross-validation" in report.notes[1]


def test_a_score_that_fails_on_one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fussy(network: UntrainedNetwork) -> float:
        if network.subject.name == "network 3":
            raise EvaluationError("layer `stem` is odd")
        return float(network.graph.macs)

    monkeypatch.setitem(registry.SCORES._registered, "fussy", Score("fussy", fussy, is_free=True))
    report = correlate(trained_networks(12), ["fussy"], repeats=1, batch_size=4)
    row = report.scores[-1]
    assert row.tau.count == 11
    assert row.failures == (("network 3", "layer `stem` is odd"),)


def test_networks_without_a_common_space_are_told_apart_by_their_graphs() -> None:
    trained = trained_networks(40)
    strangers = [dataclasses.replace(each.network, architecture=None) for each in trained]
    encoded = encode_networks(strangers)
    assert len(encoded) == 40
    assert np.isfinite(encoded.features_nf).all()
    assert encoded.features_nf.shape[1] == 9
    unknown = [TrainedNetwork(network, each.accuracy) for network, each in zip(strangers, trained, strict=True)]
    report = correlate(unknown, [], repeats=1, batch_size=4)
    assert report.few_label is not None
    assert report.few_label.value > 0.5


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("", "line 1: found nothing, expected a line of column names", "network, accuracy"),
        ("name,accuracy\nresnet18,70\n", "found `name`, `accuracy`", "network, accuracy"),
        ("network,accuracy\nelastic-mini/largest,\n", "line 2: accuracy is nothing, expected a share", ""),
        (
            "network,accuracy\nelastic-mini/largest,nan\n",
            "line 2: column `accuracy`: found `nan`, expected a number",
            "",
        ),
        (
            "network,accuracy\nelastic-mini/largest,high\n",
            "line 2: column `accuracy`: found `high`, expected a number",
            "",
        ),
        ("network,accuracy\nelastic-mini/largest,70\nelastic-mini/smallest,0.6\n", "line 3: accuracy is 0.6", "_%"),
        ("network,accuracy\nelastic-mini/largest,-70\n", "line 2: accuracy is -70, expected a share", ""),
        ("network,accuracy\nelastic-mini/largest,81,4\n", "line 2: found 3 fields, expected 2", "`;`"),
        ("network,accuracy\n,70\n", "line 2: no network", ""),
        ("network,accuracy\nelastic-mini/larges,70\n", "line 2: unknown architecture", "elastic-mini"),
        ("network,accuracy\nelastic-mini/largest,71\nelastic-mini/largest,72\n", "line 3: network", ""),
        ("network,accuracy\nelastic-mini/largest,70\n", "found 1 of at least 5 networks", ""),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str, hint: str) -> None:
    path = tmp_path / "accuracies.csv"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        read_trained(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    if "unknown" not in message:
        assert hint in caught.value.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_trained(tmp_path / "nowhere.csv")
    (tmp_path / "latin.csv").write_bytes("network,accuracy\nrésumé,1\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin.csv`: line 2: byte 18 is not UTF-8"):
        read_trained(tmp_path / "latin.csv")


def write_csv(path: Path, count: int) -> None:
    lines = ["network,accuracy,remark"]
    for each in trained_networks(count):
        assert each.network.architecture is not None
        text = each.network.architecture.to_json().replace('"', '""')
        lines.append(f'"{text}",{each.accuracy},kept')
    path.write_text("\n".join(lines), encoding="utf-8-sig")


def test_command_line(tmp_path: Path) -> None:
    path = tmp_path / "accuracies.csv"
    write_csv(path, 12)
    command = ["correlate", str(path), "--scores", "capacity,depth", "--quiet"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    position = {
        name: next(i for i, line in enumerate(lines) if name in line) for name in ("params ", "macs", "capacity")
    }
    assert position["macs"] < position["capacity"]
    assert "few-label predictor" in shown.stdout
    assert "too few for a conclusion" in shown.stderr

    document = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert document["schema"] == 1
    assert document["networks"] == 12
    assert [row["name"] for row in document["scores"]] == ["params", "macs", "capacity", "depth"]
    assert document["scores"][0]["tau_given_params"]["value"] is None

    refused = CliRunner().invoke(app, ["correlate", str(path), "--scores", "capacty"])
    assert refused.exit_code == 2
    assert "did you mean `capacity`" in refused.stderr


def test_one_network_under_two_names_is_refused_and_twins_are_named(tmp_path: Path) -> None:
    path = tmp_path / "accuracies.csv"
    others = "elastic-mini/largest,70\nelastic-mini/smallest,60\nelastic/T1,62\nelastic/T2,63\n"
    architecture = json.dumps(get_space("elastic-mini").largest.to_dict()).replace('"', '""')
    for one, two in (
        ("resnet18", "resnet18.a1_in1k"),
        ("resnet18", "timm/resnet18"),
        ("elastic-mini/largest", f'"{architecture}"'),
    ):
        rows = others if one in others else f"{others}{one},71\n"
        path.write_text(f"network,accuracy\n{rows}{two},72\n")
        with pytest.raises(UsageError, match=r"line \d: network .* stands in line \d already"):
            read_trained(path)
    path.write_text(f"network,accuracy\n{others}resnet18.a1_in1k,70\nresnet18.fb_ssl_yfcc100m_ft_in1k,72\n")
    report = correlate(read_trained(path), ["params"], repeats=1, batch_size=4)
    assert "the same, and no score tells them apart: `resnet18.a1_in1k` = `resnet18.fb_ssl" in report.notes[-1]
