"""From a pretrained model to a file of half its latency, against training from scratch and uniform shrinking.

A small vision transformer of timm is trained on images and taken for the pretrained model: one for all seeds, as a
checkpoint that one has, or one for each (``--originals``). For every seed the networks inside it are searched on this
machine within a share of its measured latency, and the best one is finished and exported. Beside it, each given the
time that the search's training and the finish took together:

- scratch: the same network, trained alone from random weights;
- uniform: the largest network within the same predicted latency whose blocks are all of one size, with the original's
  weights and the original as its teacher.

    python benchmarks/own_model.py [--seeds 3] [--originals] [--data glyphs] [--records FILE] [--folder FOLDER]

Accuracies are on the test part, which nothing else looks at, the finished network's in ONNX Runtime. Latencies of all
networks of a seed are measured in turns. A record is a line per seed; seeds that have one are not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seed_intervals import with_interval

from latency_tables.measure import measure_networks
from nas.exporting.verify import onnx_accuracy
from nas.latency.device import load_device
from nas.networks.onnx import export_onnx
from nas.objectives.bounds import Bounds
from nas.result import load_result
from nas.runs.folder import original_checkpoint
from nas.training.pretrained import PRETRAINED_RATE
from nas.training.session import training_settings
from search_spaces import Architecture, SearchSpace, SingleSpace
from supernets import Supernet
from supernets.checkpoint import load_supernet
from supernets.data.image_data import ImageData
from supernets.data.sources import load_data
from supernets.training.network_teacher import NetworkTeacher
from supernets.training.targets import Teacher
from supernets.training.trainer import train_supernet

MODEL = "vit_tiny_patch16_224?img_size=32&patch_size=8&depth=6&embed_dim=128&num_heads=4"
CANDIDATES = 20_000


@dataclass(frozen=True)
class Plan:
    """What one seed is to do.

    Attributes:
        original_seed: Of the model that is taken for the pretrained one.
        share: Limit, as a share of the original's measured latency. It holds for the upper end of the predicted
            interval, so networks take some 8 % less.
        rate: Peak learning rate from random weights.
    """

    model: str
    data: str
    seed: int
    original_seed: int
    epochs: int
    budget: str
    finish_epochs: int
    share: float
    rate: float


def nas(*arguments: str) -> None:
    """Run a command of nas, quietly; its messages are shown where it fails."""
    ended = subprocess.run([sys.executable, "-m", "nas", *arguments], capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"nas {' '.join(arguments)}\n{ended.stdout}{ended.stderr}")


def milliseconds(files: Sequence[Path]) -> list[float]:
    """Latencies of ONNX files, measured in turns."""
    return [measurement.ms for measurement in measure_networks(files).measurements]


def run_seed(plan: Plan, runs: Path) -> dict[str, Any]:
    """All four networks of one seed: test accuracies, measured latencies and costs."""
    seed, folder, pretrained = str(plan.seed), runs / f"seed-{plan.seed}", runs / f"original-{plan.original_seed}"
    search, finish = folder / "search", folder / "finish"
    rates = [f"learning_rate={plan.rate}", f"learning_rate={PRETRAINED_RATE}"]
    space = f"timm:{plan.model}"
    if not (pretrained / "training.json").exists():
        nas(
            *("train", "--space", space, "--arch", "largest", "--data", plan.data, "--epochs", str(plan.epochs)),
            *("--set", rates[0], "--seed", str(plan.original_seed), "-o", str(pretrained), "--force", "-q"),
        )
    weights = pretrained / "exports" / "network"
    if not weights.exists():
        nas("export", str(pretrained))
    [whole_ms] = milliseconds([weights / "model.onnx"])
    limit = plan.share * whole_ms
    if not (search / "front.json").exists():
        nas(
            *("search", "--model", plan.model, "--weights", str(weights), "--data", plan.data, "--target", "local"),
            *("--limit", f"{limit}ms", "--budget", plan.budget, "--seed", seed, "-o", str(search), "--force", "-q"),
        )
    if not (finish / "finish.json").exists():
        nas(
            *("finish", str(search), "--pick", "best", "--epochs", str(plan.finish_epochs), "--set", rates[1]),
            *("--seed", seed, "-o", str(finish), "--force", "-q"),
        )
    nas("export", str(finish), "--format", "timm,onnx-fp16,onnx-int8")
    return _judge(plan, folder, weights / "model.onnx", limit)


def _judge(plan: Plan, folder: Path, original: Path, limit: float) -> dict[str, Any]:
    result = load_result(folder / "search")
    supernet, metadata = load_supernet(original_checkpoint(result.run))
    space, chosen = supernet.space, result.pick("best").architecture
    data = load_data(plan.data, metadata["data"]["image_side"])
    finished = json.loads((folder / "finish" / "finish.json").read_text())
    seconds = finished["seconds"] + result.document["training"]["seconds"]
    teacher = NetworkTeacher(supernet.extract(space.largest))
    shrunk = uniform_network(space, limit)
    scratch = _trained_alone(plan, space, chosen, data, seconds, folder / "scratch", None, None)
    uniform = _trained_alone(plan, space, shrunk, data, seconds, folder / "uniform", supernet, teacher)
    exports = {
        "original": original,
        "ours": folder / "finish" / "exports" / "network" / "model.onnx",
        "scratch": scratch,
        "uniform": uniform,
    }
    networks = {"original": space.largest, "ours": chosen, "scratch": chosen, "uniform": shrunk}
    return {
        "seed": plan.seed,
        "limit_ms": limit,
        "seconds": seconds,
        "accuracy": {name: onnx_accuracy(path, data, space, networks[name]).accuracy for name, path in exports.items()},
        "ms": dict(zip(exports, milliseconds(list(exports.values())), strict=True)),
        "macs": {name: space.lower(network).macs for name, network in networks.items()},
        "formats": json.loads((exports["ours"].parent / "proof.json").read_text())["formats"],
    }


def uniform_network(space: SearchSpace, limit: float) -> Architecture:
    """The network with the most MACs within the limit whose blocks are all of one size."""
    bounds = Bounds(space, [load_device(space, "local")])
    kinds = [choice.name.rpartition(".")[2] for choice in space.choices]
    names = sorted(set(kinds))
    levels = np.random.default_rng(0).random((CANDIDATES, len(names)))
    shares = levels[:, [names.index(kind) for kind in kinds]]
    genotypes = np.unique(space.repair((shares * space.cardinalities).astype(np.int8)), axis=0)
    predicted = bounds.predict(genotypes)
    within = predicted.latency["local"].high_ms <= limit
    if not within.any():
        raise SystemExit(f"no network with equal blocks takes {limit:.3g} ms or less")
    return space.decode(genotypes[within][np.argmax(predicted.columns["macs"][within])][None])[0]


def _trained_alone(
    plan: Plan,
    space: SearchSpace,
    architecture: Architecture,
    data: ImageData,
    seconds: float,
    folder: Path,
    source: Supernet | None,
    teacher: Teacher | None,
) -> Path:
    """The ONNX file of a network that was trained for so many seconds, from random weights or those of ``source``."""
    path = folder / "model.onnx"
    if path.exists():
        return path
    network = Supernet(SingleSpace(space, architecture), seed=plan.seed)
    if source is not None:
        network.network.load_state_dict(source.extract(architecture).state_dict())
    rate = plan.rate if source is None else PRETRAINED_RATE
    settings = replace(training_settings(None, seconds, plan.seed), learning_rate=rate, policy="uniform")
    train_supernet(network, data, settings, folder, resume=True, teacher=teacher)
    side = space.input_shape(dict(architecture.settings))[-1]
    export_onnx(network.extract(architecture).eval(), side, path)
    return path


def report(records: Sequence[dict[str, Any]]) -> str:
    """Means over seeds with their intervals, differences paired by seed."""
    titles = ("test accuracy, %", "ours minus it, points", "latency, share of original")
    lines = ["", f"{'network':10} {titles[0]:>18} {titles[1]:>24} {titles[2]:>28}"]
    for name in ("original", "ours", "scratch", "uniform"):
        accuracy = [100 * record["accuracy"][name] for record in records]
        ahead = [100 * (record["accuracy"]["ours"] - record["accuracy"][name]) for record in records]
        share = [record["ms"][name] / record["ms"]["original"] for record in records]
        margin = "" if name == "ours" else with_interval(ahead, 2, signed=True)
        lines.append(f"{name:10} {with_interval(accuracy, 2):>18} {margin:>24} {with_interval(share, 2):>28}")
    for name in ("onnx-fp16", "onnx-int8"):
        measured = [record["formats"] for record in records if "latency_ratio" in record["formats"][name]]
        if measured:
            ratio = with_interval([formats[name]["latency_ratio"] for formats in measured], 2)
            changes = [100 * (formats[name]["accuracy"] - formats["onnx"]["accuracy"]) for formats in measured]
            change = with_interval(changes, 2, signed=True)
            lines.append(f"{name}: {ratio} x the time of fp32, accuracy {change} points beside it")
    lines.append(f"{len(records)} seeds; 95 % intervals over seeds by Student's t")
    return "\n".join(lines)


def main() -> None:
    """Run what has no record yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--data", default="glyphs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--originals", action="store_true", help="a pretrained model for each seed")
    parser.add_argument("--epochs", type=int, default=70, help="of the model that is taken for the pretrained one")
    parser.add_argument("--budget", default="4m", help="of the search, training included")
    parser.add_argument("--finish-epochs", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.53, help="limit, of the original's latency")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--records", type=Path, default=Path("own_model.jsonl"))
    parser.add_argument("--folder", type=Path, default=Path("own_model_runs"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = given.records.read_text().splitlines() if given.records.exists() else []
    records = {record["seed"]: record for record in map(json.loads, lines)}
    for seed in range(given.seeds):
        if seed in records:
            continue
        fields = ("model", "data", "epochs", "budget", "finish_epochs", "share", "rate")
        settings = {name: getattr(given, name) for name in fields}
        plan = Plan(seed=seed, original_seed=seed if given.originals else 0, **settings)
        records[seed] = run_seed(plan, given.folder)
        with given.records.open("a") as file:
            file.write(json.dumps(records[seed]) + "\n")
        print(f"seed {seed}: accuracy {records[seed]['accuracy']}, ms {records[seed]['ms']}", flush=True)
    print(report([records[seed] for seed in sorted(records)]))


if __name__ == "__main__":
    main()
