"""From a pretrained model to a file of a share of its latency, against training from scratch and uniform shrinking.

The model is given with its weights (``--model``, ``--weights``), or a small vision transformer of timm is trained on
the images and taken for the pretrained one: one for all seeds, as a checkpoint that one has, or one for each
(``--originals``). For every seed one command, ``nas search --budget``, looks for the best network inside it within a
share of its latency on this machine, trains and exports it. Beside it:

- untrained: what ``--budget 0`` finds within the same limit;
- scratch: the network of the first, trained alone from random weights for as long as its search and training took;
- uniform: the largest network within the same predicted latency whose blocks are all of one size, with the original's
  weights and the original as its teacher, for as long;
- fine-tuned: the original itself, for as long, from the classifier that was fitted to its features.

    python benchmarks/own_model.py [--seeds 3] [--budget 10m] [--share 0.5] [--records FILE] [--folder FOLDER]
    python benchmarks/own_model.py --model NAME --weights FILE --data DIR --budget 25m --share 0.6

Accuracies are on the test part, which nothing else looks at, in ONNX Runtime. Latencies of all networks of a seed are
measured in turns. A record is a line per seed; seeds that have one are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
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
from nas.training.fine_tuning import pretrained_rate
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
        weights: Weights of the model; None to train it first.
        original_seed: Of the model that is trained first.
        epochs: Of that training.
        train: What the budget trains: ``winner`` or ``supernet``.
        share: Limit, as a share of the original's latency, upper ends of both predictions.
        rate: Peak learning rate from random weights.
    """

    model: str
    weights: Path | None
    data: str
    seed: int
    original_seed: int
    epochs: int
    budget: str
    train: str
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
    """All six networks of one seed: test accuracies, measured latencies and costs."""
    folder = runs / f"seed-{plan.seed}"
    weights = plan.weights or _trained_original(plan, runs / f"original-{plan.original_seed}")
    asked = ["search", "--model", plan.model, "--weights", str(weights), "--data", plan.data, "--target", "local"]
    asked += ["--limit", f"{plan.share:.0%}", "--seed", str(plan.seed), "--force", "-q"]
    took = {}
    budgets = {"untrained": ("--budget", "0"), "ours": ("--budget", plan.budget, "--train", plan.train)}
    for name, budget in budgets.items():
        if not (folder / name / "front.json").exists():
            started = time.monotonic()
            nas(*asked, *budget, "-o", str(folder / name))
            took[name] = time.monotonic() - started
    return {**_judge(plan, folder), "took": took}


def _trained_original(plan: Plan, pretrained: Path) -> Path:
    if not (pretrained / "training.json").exists():
        nas(
            *("train", "--space", f"timm:{plan.model}", "--arch", "largest", "--data", plan.data),
            *("--epochs", str(plan.epochs), "--set", f"learning_rate={plan.rate}"),
            *("--seed", str(plan.original_seed), "-o", str(pretrained), "--force", "-q"),
        )
    weights = pretrained / "exports" / "network"
    if not weights.exists():
        nas("export", str(pretrained))
    return weights


def _judge(plan: Plan, folder: Path) -> dict[str, Any]:
    result, untrained = load_result(folder / "ours"), load_result(folder / "untrained")
    supernet, metadata = load_supernet(original_checkpoint(result.run))
    space, chosen = supernet.space, result.pick().architecture
    data = load_data(plan.data, metadata["data"]["image_side"])
    settings = json.loads((result.run / "settings.json").read_text(encoding="utf-8"))
    parts = ("training_seconds", "search_seconds", "winner_seconds")
    seconds = sum(settings[part] or 0.0 for part in parts)
    whole = supernet.extract(space.largest).eval()
    original = folder / "original.onnx"
    export_onnx(whole, space.image_side, original)
    shrunk = uniform_network(space, result.limit_ms or math.inf)
    exports = {
        "original": original,
        "ours": result.run / result.document["verified"]["export"] / "model.onnx",
        "untrained": untrained.run / untrained.document["verified"]["export"] / "model.onnx",
        "scratch": _trained_alone(plan, space, chosen, data, seconds, folder / "scratch", None, None),
        "uniform": _trained_alone(
            plan, space, shrunk, data, seconds, folder / "uniform", supernet, NetworkTeacher(whole)
        ),
        "fine-tuned": _trained_alone(plan, space, space.largest, data, seconds, folder / "fine-tuned", supernet, None),
    }
    networks = dict.fromkeys(exports, chosen)
    networks |= {
        "original": space.largest,
        "fine-tuned": space.largest,
        "untrained": untrained.pick().architecture,
        "uniform": shrunk,
    }
    return {
        "seed": plan.seed,
        "limit_ms": result.limit_ms,
        "seconds": seconds,
        "accuracy": {name: onnx_accuracy(path, data, space, networks[name]).accuracy for name, path in exports.items()},
        "ms": dict(zip(exports, milliseconds(list(exports.values())), strict=True)),
        "macs": {name: space.lower(network).macs for name, network in networks.items()},
        "model": {name: result.document["model"].get(name) for name in ("accuracy", "knn", "probe", "fine_tuned")},
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
    rate = plan.rate if source is None else pretrained_rate(space)
    settings = replace(training_settings(None, seconds, plan.seed), learning_rate=rate, policy="uniform")
    train_supernet(network, data, settings, folder, resume=True, teacher=teacher)
    side = space.input_shape(dict(architecture.settings))[-1]
    export_onnx(network.extract(architecture).eval(), side, path)
    return path


def report(records: Sequence[dict[str, Any]]) -> str:
    """Means over seeds with their intervals, differences paired by seed."""
    titles = ("test accuracy, %", "ours minus it, points", "latency, share of original")
    lines = ["", f"{'network':10} {titles[0]:>18} {titles[1]:>24} {titles[2]:>28}"]
    for name in records[0]["accuracy"]:
        accuracy = [100 * record["accuracy"][name] for record in records]
        ahead = [100 * (record["accuracy"]["ours"] - record["accuracy"][name]) for record in records]
        share = [record["ms"][name] / record["ms"]["original"] for record in records]
        margin = "" if name == "ours" else with_interval(ahead, 2, signed=True)
        lines.append(f"{name:10} {with_interval(accuracy, 2):>18} {margin:>24} {with_interval(share, 2):>28}")
    lines.append(f"{len(records)} seeds; 95 % intervals over seeds by Student's t")
    return "\n".join(lines)


def main() -> None:
    """Run what has no record yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--weights", type=Path, help="of the model; without them it is trained first")
    parser.add_argument("--data", default="glyphs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--originals", action="store_true", help="a pretrained model for each seed")
    parser.add_argument("--epochs", type=int, default=70, help="of the model that is taken for the pretrained one")
    parser.add_argument("--budget", default="10m", help="of the search, training included")
    parser.add_argument("--train", default="winner", help="what the budget trains: winner or supernet")
    parser.add_argument("--share", type=float, default=0.5, help="limit, of the original's latency")
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
        fields = ("model", "weights", "data", "epochs", "budget", "train", "share", "rate")
        settings = {name: getattr(given, name) for name in fields}
        plan = Plan(seed=seed, original_seed=seed if given.originals else 0, **settings)
        records[seed] = run_seed(plan, given.folder)
        with given.records.open("a") as file:
            file.write(json.dumps(records[seed]) + "\n")
        print(f"seed {seed}: accuracy {records[seed]['accuracy']}, ms {records[seed]['ms']}", flush=True)
    print(report([records[seed] for seed in sorted(records)]))


if __name__ == "__main__":
    main()
