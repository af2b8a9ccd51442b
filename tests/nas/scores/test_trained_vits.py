"""The benchmark's networks: what is lowered by hand is what the modules hold, and records survive a kill."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from score_records import Job, Outcome, Records, Setting
from trained_vits import build, load_trained_sets, lower

from latency_tables.trace import trace

FAMILIES: list[dict[str, Any]] = [
    {"hidden_dim": 192, "depth": 3, "num_heads": [3, 4, 3], "mlp_ratio": [3.5, 4.0, 4.0]},
    {"base_dim": 16, "depth": [1, 2, 1], "num_heads": [2, 4, 8], "mlp_ratio": 2},
    {"embed_dim": 96, "head_dim": 16, "depth": 2, "num_heads": [4, 5], "mlp_ratio": [3.0, 4.0]},
]


@pytest.mark.parametrize("settings", FAMILIES)
def test_op_graphs_equal_the_modules(settings: dict[str, Any]) -> None:
    with torch.device("meta"):
        module = build(settings, 64)
    graph, traced = lower(settings, 64), trace(module, (3, 64, 64), "network")
    assert graph.params == sum(parameter.numel() for parameter in module.parameters())
    assert graph.macs == traced.macs


def test_every_block_has_its_own_size() -> None:
    module = build(FAMILIES[2], 32)
    assert [block.attn.num_heads for block in module.blocks] == [4, 5]  # type: ignore[union-attr]
    assert [block.attn.head_dim for block in module.blocks] == [16, 16]  # type: ignore[union-attr]
    assert [block.mlp.fc1.out_features for block in module.blocks] == [288, 384]  # type: ignore[union-attr]
    assert module(torch.randn(2, 3, 32, 32)).shape == (2, 100)


def test_loading_turns_ranks_round(tmp_path: Path) -> None:
    archs = [{"id": f"n{rank}", "arch": FAMILIES[0], "rank": {"task": rank}} for rank in (4, 0, 2)]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"sets": {"small": {"source": "nobody", "archs": archs}}}))
    (trained,) = load_trained_sets(path)
    assert trained.tasks["task"].tolist() == [-4.0, 0.0, -2.0]
    assert trained.part(slice(2)).ids == ("n4", "n0")
    assert trained.sizes_n2.shape == (3, 2)


def test_records_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    job = Job("small", "n0", Setting(64, 8), 0)
    Records(path).add(job, {"zico": Outcome(1.5, 0.1), "dss": Outcome(math.nan, 0.2, "no attention")})
    with path.open("a") as file:
        file.write('{"set_name": "small", "netw')
    records = Records(path)
    assert records.missing(job, ["zico", "dss", "snip"]) == ["snip"]
    records.add(job, {"snip": Outcome(2.0, 0.1)})
    again = Records(path)
    assert again.missing(job, ["zico", "dss", "snip"]) == []
    assert np.isnan(again._outcomes[job, "dss"].value)
    assert again._outcomes[job, "snip"] == Outcome(2.0, 0.1)
