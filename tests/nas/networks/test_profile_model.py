"""`nas profile`: what could be searched inside a timm model."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from nas.cli.main import app
from nas.errors import UsageError
from nas.networks.profile import profile_model
from search_spaces import UnknownNameError, get_space

MODEL = "vit_tiny_patch16_224?depth=3&embed_dim=48&img_size=64&num_heads=3"
FIXED = "xcit_nano_12_p16_224?depth=2&img_size=32"


def test_costs_are_those_of_the_search() -> None:
    profile = profile_model(MODEL, ["pixel6", "raspberrypi4"], limit_ms=1000, limits={"raspberrypi4": 1e-4})
    space = get_space(f"timm:{MODEL}")
    assert [network.name for network in profile.networks] == ["smallest", "middle", "largest"]
    for network in profile.networks:
        graph = space.lower(space.find(network.name))
        assert (network.params, network.macs) == (graph.params, graph.macs)
    assert profile.encodings == space.encodings
    assert profile.can_be_met == {"pixel6": True, "raspberrypi4": False}
    assert len(profile.sources) == 2


def test_what_cannot_be_searched_is_named() -> None:
    profile = profile_model(FIXED, ["pixel6"])
    assert any("input side" in reason for reason in profile.fixed)
    assert "image side" not in {axis.name for axis in profile.axes}
    axes = {axis.name: axis for axis in profile_model(MODEL, ["pixel6"]).axes}
    assert axes["heads"].places == 3
    assert axes["depth"].values == (2, 3)


def test_command() -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["profile", MODEL, "--target", "pixel6", "--limit", "1s"])
    assert shown.exit_code == 0
    assert "within 1000 ms" in shown.stdout
    found = runner.invoke(app, ["profile", MODEL, "--limit", "1us", "--json"])
    assert found.exit_code == 3
    assert json.loads(found.stdout)["can_be_met"]["pixel6"] is False
    missing = runner.invoke(app, ["profile", "vit_tiny_patch16_225"])
    assert missing.exit_code == 2
    assert "did you mean" in missing.output


def test_what_cannot_be_answered_is_refused() -> None:
    with pytest.raises(UnknownNameError):
        profile_model(MODEL, ["pixel66"])
    with pytest.raises(UsageError, match="two limits"):
        profile_model(MODEL, limit_ms=1, limits={"pixel6": 2})
