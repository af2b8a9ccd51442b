"""Benchmarks, run as they are documented: tables from records that are there, and what is computed where some lack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
SETUP = {"space": "elastic-mini", "data": "digits", "batch_size": 32, "alone_epochs": 1, "networks": 3}
ONE_EACH = {"network": 1.0, "image": 0.0, "mac": 0.0, "forward_share": 0.5, "step": 0.0}
LEVELS = 8
FAMILIES: dict[str, list[dict[str, Any]]] = {
    "plain": [
        {"hidden_dim": 192, "depth": 3, "num_heads": [3, 4, 3], "mlp_ratio": [3.5, 4.0, ratio]}
        for ratio in (1.0, 2.0, 3.0, 4.0)
    ],
    "pooling": [
        {"base_dim": 16, "depth": [1, 2, depth], "num_heads": [2, 4, 8], "mlp_ratio": 2} for depth in (1, 2, 3, 4)
    ],
    "narrow": [
        {"embed_dim": 96, "head_dim": 16, "depth": 2, "num_heads": [4, heads], "mlp_ratio": [3.0, 4.0]}
        for heads in (2, 3, 5, 6)
    ],
}


def run(benchmark: str, *arguments: object, folder: Path = ROOT) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{benchmark}.py"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_document_of_targets_has_the_errors_of_the_shipped_tables() -> None:
    printed = run("calibrate_tables").strip()
    assert printed.startswith("| target | runs on |")
    assert printed in (ROOT / "docs" / "reference-targets.md").read_text(encoding="utf-8")


def sampling_policies(records: Path, minutes: float, *arguments: object) -> list[list[str]]:
    """The words of the lines that it prints."""
    sizes = ("--space", "elastic-mini", "--data", "digits", "--networks", 3, "--alone-epochs", 1)
    printed = run("sampling_policies", "--records", records, "--cpu-minutes", minutes, *sizes, *arguments)
    return [line.split() for line in printed.splitlines()]


def test_policies_of_equal_cost_take_as_many_steps_as_their_passes_pay_for(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps({"setup": {**SETUP, "cpu_minutes": 20.0}, "costs": ONE_EACH}) + '\n{"setup": {"spa')
    lines = sampling_policies(path, 20.0, "--estimate", "--seeds", 1)
    steps = {line[0]: int(line[3]) for line in lines if line[1:3] == ["seed", "0"]}
    assert steps.pop("uniform") == 1200
    assert steps.pop("sandwich") == steps.pop("complexity-aware") == 300
    assert 270 < steps.pop("conflict-aware") < 300, "scores that are taken again cost steps"
    assert not steps
    assert path.read_text().count("\n") == 1, "half a line is cut off"


@pytest.mark.slow
def test_the_size_of_networks_counts_in_what_policies_cost(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    costs = {"network": 0.0, "image": 0.0, "mac": 1e-9, "forward_share": 0.4, "step": 0.0}
    path.write_text(json.dumps({"setup": {**SETUP, "cpu_minutes": 0.2}, "costs": costs}) + "\n")
    lines = sampling_policies(path, 0.2, "--estimate", "--seeds", 1, "--policies", "uniform", "sandwich")
    steps = {line[0]: int(line[3]) for line in lines if line[1:3] == ["seed", "0"]}
    assert steps["uniform"] > 4 * steps["sandwich"]


def test_the_report_of_policies_compares_levels_and_ranks(tmp_path: Path) -> None:
    """One policy gives every network its own accuracy less 0.1, the other one turns their order round."""
    truth = np.linspace(0.5, 0.9, 3 * LEVELS)
    entries: list[dict[str, Any]] = [{"costs": ONE_EACH}]

    def add(accuracies: list[float], seconds: float, policy: str, seed: int, alone: int | None) -> None:
        job = {"policy": policy, "seed": seed, "steps": 45, "alone": alone}
        entries.append({"job": job, "result": {"accuracies": accuracies, "seconds": seconds, "steps": 45}})

    for number, accuracy in enumerate(truth.tolist()):
        add([accuracy], 1.0, "uniform", 0, number)
    for seed in range(2):
        add((truth - 0.1).tolist(), 60.0, "conflict-aware", seed, None)
        add(truth[::-1].tolist(), 60.0, "sandwich", seed, None)
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps({"setup": {**SETUP, "cpu_minutes": 1.0}, **entry}) + "\n" for entry in entries))
    lines = sampling_policies(path, 1.0, "--seeds", 2, "--policies", "conflict-aware", "sandwich")
    rows = [line[1] for line in lines if line and line[0] in ("conflict-aware", "sandwich")]
    assert rows[-2:] == ["1.000", "-1.000"]
    assert ["all", "levels", "60.0", "±", "0.0", "70.0", "±", "0.0"] in lines
    assert ["less", "conflict-aware", "+10.0", "±", "0.0"] in lines


@pytest.mark.slow
def test_scores_of_trained_networks_are_kept_and_compared_with_their_ranks(tmp_path: Path) -> None:
    """More parameters are better here by construction; half a line of a killed run is computed again."""
    sets = {
        name: {
            "source": "nobody",
            "archs": [{"id": f"n{n}", "arch": arch, "rank": {"task": 3 - n}} for n, arch in enumerate(archs)],
        }
        for name, archs in FAMILIES.items()
    }
    (tmp_path / "truth.json").write_text(json.dumps({"sets": sets}))
    records = tmp_path / "truth.scores.jsonl"
    records.write_text('{"set_name": "plain", "netw')
    asked = ("truth.json", "--scores", "capacity", "--workers", 1)
    lines = [line.split() for line in run("score_correlation", *asked, "--repeats", 1, folder=tmp_path).splitlines()]
    rows = [line for line in lines if line and line[0] == "params"]
    assert [row[1] for row in rows] == ["+1.00", "+1.00", "+1.00", "1.000"], "three sets and the summary"
    kept = [json.loads(line) for line in records.read_text().splitlines()]
    assert {(entry["set_name"], entry["network"]) for entry in kept} == {
        (s, f"n{n}") for s in FAMILIES for n in range(4)
    }
    before = records.read_bytes()
    run("score_correlation", *asked, "--repeats", 2, folder=tmp_path)
    assert records.read_bytes().startswith(before)
    assert len(records.read_bytes().splitlines()) == 2 * len(before.splitlines()), "nothing is computed twice"


@pytest.mark.slow
def test_models_of_the_table_hold_what_is_promised(tmp_path: Path) -> None:
    names = ["vit_tiny_patch16_224", "levit_128s", "mobilenetv4_hybrid_medium", "vit_srelpos_small_patch16_224"]
    records = tmp_path / "records.jsonl"
    run("check_timm_supernets", "--records", records, "--only", *names)
    found = {entry["name"]: entry for entry in map(json.loads, records.read_text().splitlines())}
    assert found.keys() == set(names)
    assert "one table for all blocks together" in found.pop(names[3])["reason"]
    for entry in found.values():
        assert not entry["reason"], entry
        assert max(entry["largest"], entry["extracted"], entry["rebuilt"]) <= 1e-5, entry
        assert entry["counts_agree"], entry
