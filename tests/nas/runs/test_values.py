"""Values of Python's natural types: converted to what a run folder keeps, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nas
from nas.errors import UsageError
from nas.finishing.settings import FinishSettings
from nas.growth.settings import ScaleSettings
from nas.runs.settings import read_given
from nas.runs.torch_device import choose_device, devices_here
from nas.searching.settings import SearchSettings
from nas.training.settings import TrainSettings
from search_spaces import get_space


@pytest.mark.parametrize(
    ("settings", "name", "value", "kept"),
    [
        (SearchSettings, "data", Path("d"), "d"),
        (SearchSettings, "seed", np.int64(3), 3),
        (SearchSettings, "seed", torch.tensor(3), 3),
        (SearchSettings, "evaluations", 1e3, 1000),
        (SearchSettings, "limit_ms", np.float32(1), 1.0),
        (SearchSettings, "limit_ms", "12ms", 12.0),
        (SearchSettings, "limit_ms", "0.5s", 500.0),
        (SearchSettings, "limit_ms", 12, 12),
        (SearchSettings, "budget_seconds", "1h30m", 5400.0),
        (SearchSettings, "budget_seconds", np.array(90.0), 90.0),
        (SearchSettings, "macs", "1.8G", 1.8e9),
        (SearchSettings, "window", "97.5%", 0.975),
        (SearchSettings, "objectives", ("params", "macs"), ["params", "macs"]),
        (SearchSettings, "objectives", {"params", "macs"}, ["macs", "params"]),
        (SearchSettings, "objectives", "params, macs", ["params", "macs"]),
        (SearchSettings, "limits", {"pixel6": "12ms", "macs": np.int32(64)}, {"pixel6": 12.0, "macs": 64}),
        (SearchSettings, "device", torch.device("cuda", 1), "cuda:1"),
        (SearchSettings, "force", np.bool_(True), True),
        (SearchSettings, "space", np.str_("elastic"), "elastic"),
        (TrainSettings, "options", {"batch_size": np.int64(8), "teachers": ()}, {"batch_size": 8, "teachers": []}),
        (FinishSettings, "run", Path("r"), "r"),
        (FinishSettings, "pick", 3, "3"),
        (ScaleSettings, "network", Path("a.json"), "a.json"),
    ],
)  # fmt: skip
def test_natural_types_are_converted(settings: type, name: str, value: object, kept: object) -> None:
    given = read_given(settings, {name: value}, "here")
    assert given == {name: kept}
    assert type(given[name]) is type(kept)
    json.dumps(given)


def test_an_architecture_is_a_network() -> None:
    smallest = get_space("elastic-mini").smallest
    assert json.loads(read_given(TrainSettings, {"arch": smallest}, "here")["arch"]) == smallest.to_dict()


def test_what_is_off_is_not_given() -> None:
    assert read_given(SearchSettings, {"force": np.bool_(False), "resume": False, "seed": None}, "here") == {}


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (SearchSettings, {"limit_ms": float("nan")}),
        (SearchSettings, {"limit_ms": np.inf}),
        (SearchSettings, {"limit_ms": "12"}),
        (SearchSettings, {"limit_ms": True}),
        (SearchSettings, {"limit_ms": 0}),
        (SearchSettings, {"limit_ms": [12]}),
        (SearchSettings, {"limits": {"pixel6": np.nan}}),
        (SearchSettings, {"limits": {"peak-memory": "12ms"}}),
        (SearchSettings, {"limits": ["pixel6=12ms"]}),
        (SearchSettings, {"macs": 10**400}),
        (SearchSettings, {"budget_seconds": -1}),
        (SearchSettings, {"gpus_per_trial": -0.5}),
        (SearchSettings, {"window": 1.5}),
        (SearchSettings, {"seed": -1}),
        (SearchSettings, {"seed": 2**63}),
        (SearchSettings, {"seed": 2**64}),
        (SearchSettings, {"seed": 1.5}),
        (SearchSettings, {"seed": True}),
        (SearchSettings, {"seed": np.array([1, 2])}),
        (SearchSettings, {"seed": "one"}),
        (SearchSettings, {"evaluations": 0}),
        (SearchSettings, {"batch": 10**12}),
        (SearchSettings, {"data": ""}),
        (SearchSettings, {"data": "a\0b"}),
        (SearchSettings, {"data": b"d"}),
        (SearchSettings, {"data": "\udcff"}),
        (SearchSettings, {"objectives": 3}),
        (SearchSettings, {"objectives": ["params", ""]}),
        (SearchSettings, {"force": 1}),
        (SearchSettings, {"progress": "loud"}),
        (TrainSettings, {"options": ["batch_size=8"]}),
        (TrainSettings, {"device": 0}),
        (TrainSettings, {"epochs": complex(1)}),
        (ScaleSettings, {"up_to": None, "repeats": 0}),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(settings: type, values: Mapping[str, Any]) -> None:
    name = list(values)[-1]
    with pytest.raises(UsageError, match=rf"here: `{name}` is .*, expected "):
        read_given(settings, values, "here")


@pytest.mark.parametrize("seed", [2**31, 2**63 - 1])
def test_large_seeds_are_searched_with(tmp_path: Path, seed: int) -> None:
    result = nas.search("elastic-mini", evaluations=8, seed=seed, controller="random", output=tmp_path / "run")
    assert result.document["seed"] == seed


@pytest.mark.parametrize("device", ["cuda:7", "gpu0", "meta", "CUDA:99", "cpu:1", "tpu", "cuda:-1", "cuda:x"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path, device: str) -> None:
    for verb in (nas.search, nas.train):
        with pytest.raises(UsageError, match=rf"device `{device}`: no such device here, found cpu"):
            verb("elastic-mini", data="digits", device=device, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_devices_are_named_as_pytorch_names_them() -> None:
    assert devices_here()[0] == "cpu"
    assert {choose_device(name) for name in ("cpu", "CPU", " cpu ")} == {"cpu"}
    assert torch.device(choose_device("cpu:0")) == torch.device("cpu:0")
    assert choose_device(None) == ("cuda" if torch.cuda.is_available() else "cpu")
