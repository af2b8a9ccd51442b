"""Run folders of searches that were never made, for what reads run folders."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from nas.objectives.pareto import pareto_mask
from search_spaces import get_space, population_cost

TARGET = "pixel6"


def latency_record(macs: int, noise: float) -> dict[str, Any]:
    ms = 1.2 + macs / 42e6 * noise
    return {"ms": ms, "low_ms": 0.91 * ms, "high_ms": 1.12 * ms, "kind": "calibrated", "extrapolated": noise > 1.2}


def make_trials(count: int, limit_ms: float, space_name: str = "elastic") -> list[dict[str, Any]]:
    space, generator = get_space(space_name), np.random.default_rng(3)
    genotypes = space.sample(count, generator)
    cost = population_cost(space, genotypes)
    trials: list[dict[str, Any]] = []
    for number, architecture in enumerate(space.decode(genotypes)):
        params, macs = int(cost.params[number]), int(cost.macs[number])
        latency = latency_record(macs, float(generator.normal(1.0, 0.12)))
        feasible = latency["high_ms"] <= limit_ms
        objective = 8.0 - 0.9 * math.log10(macs) - 0.2 * math.log10(params) + float(generator.normal(0, 0.08))
        trials.append(
            {
                "number": number,
                "state": "done" if feasible else "infeasible",
                "reason": "" if feasible else "over the limit",
                "choices": dict(architecture.settings),
                "genotype": genotypes[number].tolist(),
                "params": params,
                "macs": macs,
                "latency": {TARGET: latency},
                "objectives": {"length_distortion": -objective} if feasible else {},
                "scores": {"condition_number": float(generator.normal())} if feasible else {},
                "seconds": 0.2,
            }
        )
    return trials


def front_document(trials: list[dict[str, Any]], limit_ms: float, space_name: str = "elastic") -> dict[str, Any]:
    done = [trial for trial in trials if trial["state"] == "done"]
    costs = np.array([[t["latency"][TARGET]["ms"], -t["objectives"]["length_distortion"]] for t in done])
    members = [trial for trial, on_front in zip(done, pareto_mask(costs.reshape(-1, 2)), strict=True) if on_front]
    members.sort(key=lambda trial: float(trial["latency"][TARGET]["ms"]))
    return {
        "schema": 1,
        "space": space_name,
        "run": "runs/elastic-1",
        "seed": 0,
        "target": TARGET,
        "limit_ms": limit_ms,
        "objectives": {"maximise": "length_distortion", "minimise": "latency"},
        "evaluated": len(done),
        "front": [
            {
                "architecture": {"space": space_name, "version": 1, "choices": trial["choices"]},
                **{key: trial[key] for key in ("number", "params", "macs", "latency", "objectives")},
            }
            for trial in members
        ],
        "sources": ["pixel6: Google Pixel 6 Cortex-X1, LiteRT, int8, 1 thread; calibrated from 22 published figures"],
    }


def write_run(run: Path, count: int = 60, limit_ms: float = 16.0, trials_line: str = "", **changes: Any) -> Path:
    """A run folder with ``count`` networks of ``space_name``; ``changes`` are of its front's document."""
    space = changes.pop("space_name", "elastic")
    run.mkdir()
    trials = make_trials(count, limit_ms, space) if count else []
    document = {**front_document(trials, limit_ms, space), **changes}
    (run / "front.json").write_text(json.dumps(document))
    (run / "trials.jsonl").write_text("".join(json.dumps(trial) + "\n" for trial in trials) + trials_line)
    (run / "settings.json").write_text(json.dumps({"schema": 1, "controller": "evolution", "evaluations": count}))
    environment = {"python": "3.12.1", "versions": {"torch": "2.15.0"}, "resumed": [{"python": "3.12.2"}]}
    (run / "environment.json").write_text(json.dumps(environment))
    return run
