"""Commands where the table of this machine has no evidence: no number, what it was made from, and how to get some."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import nas.latency.build
from latency_tables import LatencyTable, NoEvidenceError
from latency_tables.predictor import LatencyPredictor
from nas.cli.main import app
from nas.latency.evidence import (
    build_seconds,
    expected_build,
    expected_seconds,
    missing_groups,
    remedy,
    require_evidence,
)
from nas.latency.request import BuildRequest, extended, networks_of
from nas.networks.resolve import resolve_network
from search_spaces import get_space
from tests.support.tables import ROOFLINE, document, validation_of

MODEL = "vit_tiny_patch16_224?depth=2&img_size=32"
SMALL = {"elastic-mini/0": 500_000, "elastic-mini/1": 6_000_000}


def save(name: str = "local", groups: dict[str, int] = SMALL, **changes: Any) -> LatencyTable:
    from latency_tables.targets import user_table_path

    rooflines = [{**ROOFLINE, "highest": [1, 1e5, 1e5, 1e5]}]
    changes = {"rooflines": rooflines, "kernels": [], "validation": validation_of(groups), "aliases": [], **changes}
    table = LatencyTable.from_dict(document(name=name, **changes), "here")
    table.save(user_table_path(name))
    return table


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LatencyTable:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    return save()


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def test_predict_declines_and_offers_to_measure() -> None:
    code, shown, said = run("latency", "predict", MODEL, "--target", "local")
    assert code == 1
    assert "no evidence" in shown
    assert "made from networks of 500k to 6M MACs (2 of `elastic-mini`)" in said
    assert "`--build` measures 24 networks of `broad` first, and once more those that it knows: about" in said
    code, shown, _ = run("latency", "predict", MODEL, "elastic-mini/middle", "--target", "local", "--json")
    unknown, known = json.loads(shown)["networks"]
    assert code == 0
    assert unknown["extrapolated"]
    assert [unknown[name] for name in ("ms", "low_ms", "high_ms", "kernels")] == [None, None, None, []]
    assert known["low_ms"] < known["ms"] < known["high_ms"]


def test_profile_does_not_judge_a_limit_without_evidence() -> None:
    code, shown, said = run("profile", MODEL, "--target", "local", "--limit", "20ms")
    assert code == 1
    assert "unknown" in shown
    assert "20 ms on local may be met or not" in said
    assert f"`--build` measures 12 networks of `timm:{MODEL}` first" in said
    code, shown, _ = run("profile", MODEL, "--target", "local", "--limit", "20ms", "--json")
    document = json.loads(shown)
    assert document["can_be_met"] == {"local": None}
    assert all(network["latency"]["local"]["ms"] is None for network in document["networks"])


def test_a_preview_and_a_search_for_another_device_refuse_a_space_that_a_table_knows_nothing_of() -> None:
    code, _, said = run("search", "--dry-run", "--space", "elastic", "--target", "local")
    assert code == 4
    assert "no evidence for 100% of the networks of `elastic`" in said
    assert "`--build` measures 12 networks of `elastic` first" in said
    save("pi", provenance={**document()["provenance"], "transport": "ssh:pi@board"})
    code, _, said = run("search", "--space", "elastic", "--target", "pi", "--evaluations", "8")
    assert code == 4
    assert "nas latency build --target ssh:pi@board --name pi --spaces elastic-mini,elastic" in said


def test_a_phone_has_ranges() -> None:
    code, shown, said = run("search", "--dry-run", "--space", "elastic", "--target", "raspberrypi4")
    assert code == 0
    assert " to " in shown
    assert "a range without a number" in said
    assert "*" not in shown


def test_a_preview_takes_objectives_as_a_search_does() -> None:
    asked = ["--model", "vit_tiny_patch16_224?img_size=32", "--target", "pixel6", "--limit", "60%"]
    code, shown, said = run("search", "--dry-run", *asked, "--objectives", "balanced_accuracy,latency")
    assert (code, run("search", "--dry-run", *asked)[1]) == (0, shown)
    assert "can be met" in said


def test_build_measures_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[BuildRequest] = []

    def fake(request: BuildRequest, progress: object) -> LatencyTable:
        asked.append(request)
        return save(groups={**SMALL, **{f"{group}/0": 5_000_000_000 for group in request.groups}})

    monkeypatch.setattr(nas.latency.build, "build", fake)
    run("latency", "predict", MODEL, "--target", "local", "--build")
    run("profile", MODEL, "--target", "local", "--build")
    assert [request.groups for request in asked] == [
        ("broad", "elastic-mini"),
        ("broad", "elastic-mini", f"timm:{MODEL}"),
    ]
    code, _, said = run("latency", "predict", MODEL, "--target", "pixel6", "--build")
    assert code == 2
    assert "`--build` measures this machine" in said
    assert run("search", "--build", "--space", "elastic-mini")[0] == 2


def test_what_is_missing_for_a_network(local: LatencyTable) -> None:
    model, mini = resolve_network(MODEL), resolve_network("elastic-mini/middle")
    assert missing_groups(None, [model, mini]) == ["broad", "elastic-mini"]
    assert missing_groups(local, [model, mini]) == ["broad"]
    broad = save(groups={**SMALL, "broad/plain-0": 5_000_000, "broad/plain-1": 6_000_000})
    assert missing_groups(broad, [model]) == [f"timm:{MODEL}"]
    cut = resolve_network("vgg11?img_size=32")
    assert missing_groups(broad, [cut]) == []
    assert remedy(broad, []) == "measure the network itself: nas latency check NETWORK"


def test_more_networks_and_larger_ones_take_longer() -> None:
    assert networks_of("broad", 12) == 24
    assert networks_of("elastic", 12) == 12
    assert build_seconds(BuildRequest(("timm:a",)), 1_000_000_000) < 180
    broad = BuildRequest(("broad",))
    assert build_seconds(broad, 0) == build_seconds(broad, 10**12) > build_seconds(BuildRequest(("a",)), 10**6)
    assert build_seconds(BuildRequest(("a",)), 10**6, {"a": 10**9}) == build_seconds(BuildRequest(("b",)), 10**9)
    told = expected_build(BuildRequest(("broad", "elastic-mini"), networks=12))
    assert re.fullmatch(r"36 networks: about \d+ min on a quiet machine, 2 of them to write files", told)


def test_an_extended_table_keeps_what_it_knew(local: LatencyTable) -> None:
    assert extended(None, ["elastic"]) == BuildRequest(("elastic",), networks=12)
    assert extended(local, ["broad"]) == BuildRequest(("broad", "elastic-mini"), networks=12)
    many = save(
        groups={f"elastic/{number}": 10**6 for number in range(24)} | {f"broad/a-{n}": 10**6 for n in range(40)}
    )
    assert extended(many, ["elastic-mini"]) == BuildRequest(("broad", "elastic", "elastic-mini"), networks=24)


def test_a_search_knows_how_long_it_will_measure() -> None:
    mini, large = get_space("elastic-mini"), get_space("elastic")
    assert expected_seconds(["pixel6"], large) == 0
    first = expected_seconds(["local"], large)
    assert first > expected_seconds(["local"], mini) > 0  # the table is of another machine, and measured again


def test_a_space_that_is_inside_needs_no_group_of_its_own() -> None:
    space = get_space("elastic-mini")
    wide = {**ROOFLINE, "lowest": [0, 0, 0, 0], "highest": [1, 1e9, 1e8, 1e8]}
    names = (
        "other pointwise_conv depthwise_conv conv activation add multiply pool linear matmul softmax reshape group_norm"
    )
    rooflines = [{**wide, "op": op} for op in names.split()]
    table = save("board", groups={"broad/0": 1_000_000, "broad/1": 20_000_000}, rooflines=rooflines)
    require_evidence(LatencyPredictor(table), space)
    with pytest.raises(NoEvidenceError, match="no evidence for 100%"):
        require_evidence(LatencyPredictor(save("board", groups={"broad/0": 10**12}, rooflines=rooflines)), space)
