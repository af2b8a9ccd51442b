"""Importance ordering against no ordering, at equal sizes, over seeds.

Trains a small vision transformer on images as one ordinary network, takes it for the pretrained model, sorts its
channels, heads, hidden units and blocks by each criterion, and judges the same subnets of every sorting on images that
neither training nor sorting has seen. Nothing is trained after slicing.

    python benchmarks/importance.py [--seeds 3] [--epochs 40] [--records importance.jsonl]

Prints accuracy and loss of each criterion, and the paired difference to no ordering with a 95 % interval over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seed_intervals import with_interval

from nas.evaluation.evaluators import SupernetEvaluator
from nas.training.session import training_settings
from search_spaces import Architecture, SearchSpace, SingleSpace, get_space
from search_spaces.timm_models import DEPTH
from supernets import Supernet
from supernets.calibration import Calibration
from supernets.data.image_data import ImageData
from supernets.data.sources import load_data
from supernets.importance import CRITERIA, SORTED, sort_by_importance, sorted_along
from supernets.training.trainer import train_supernet

MODEL = "vit_tiny_patch16_224?img_size=32&patch_size=4&embed_dim=64&depth=4&num_heads=4"
NETWORKS, CALIBRATION_IMAGES = 24, 256


def trained(model: str, data: ImageData, epochs: int, rate: float, seed: int) -> Supernet:
    """The model trained from scratch, as a supernet."""
    space = get_space(f"timm:{model}", data.classes)
    whole = Supernet(SingleSpace(space, space.largest), seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(training_settings(epochs, None, seed), learning_rate=rate, policy="uniform")
        train_supernet(whole, data, settings, Path(folder))
    supernet = Supernet(space)
    supernet.load_state_dict(whole.state_dict())
    return supernet.eval()


def subnets(space: SearchSpace, seed: int) -> list[dict[str, int]]:
    """Choices of random networks between 40 and 80 % of the whole one's MACs."""
    from search_spaces import population_cost

    genotypes = space.sample(4000, np.random.default_rng(seed))
    shares = population_cost(space, genotypes).macs / population_cost(space, space.encode([space.largest])).macs[0]
    chosen = genotypes[(shares >= 0.4) & (shares <= 0.8)][:NETWORKS]
    return [dict(architecture.settings) for architecture in space.decode(chosen)]


def judge(supernet: Supernet, data: ImageData, networks: list[dict[str, int]]) -> tuple[float, float]:
    """Mean accuracy in [0, 1] and mean cross-entropy of the same sizes in one sorting."""
    evaluator = SupernetEvaluator(supernet, data)
    accuracy, loss = [], []
    for values in networks:
        space = supernet.space
        genotype = space.repair(space.encode([Architecture(space.name, space.version, tuple(values.items()))]))
        result = evaluator.evaluate(space.decode(genotype)[0], seed=0)
        accuracy.append(result.objective)
        loss.append(result.scores["cross_entropy"])
    return statistics.fmean(accuracy), statistics.fmean(loss)


def run_seed(model: str, source: str, epochs: int, rate: float, seed: int) -> dict[str, Any]:
    """All sortings of one trained model."""
    space = get_space(f"timm:{model}")
    data = load_data(source, space.image_side)
    supernet = trained(model, data, epochs, rate, seed)
    images_BCHW, labels_B = next(iter(data.batches("train", CALIBRATION_IMAGES)))
    networks = subnets(supernet.space, seed)
    whole = SupernetEvaluator(supernet, data).evaluate(supernet.space.largest, seed=0)
    record: dict[str, Any] = {"seed": seed, "whole": whole.objective, "sortings": {}}
    record["sortings"]["none"] = judge(supernet, data, networks)
    calibration = Calibration.of(supernet, images_BCHW, labels_B)
    for criterion in CRITERIA:
        sorted_supernet = supernet
        for axis in (*SORTED, DEPTH):
            sorted_supernet = sorted_along(sorted_supernet, axis, criterion, calibration)
        record["sortings"][criterion] = judge(sorted_supernet, data, networks)
    ordering = sort_by_importance(supernet, images_BCHW, labels_B)
    record["sortings"]["chosen"] = judge(ordering.supernet, data, networks)
    record["chosen"] = dict(ordering.criteria)
    return record


def report(records: list[dict[str, Any]]) -> None:
    """Print means over seeds and paired differences to no ordering."""
    count = len(records)
    whole = statistics.fmean(record["whole"] for record in records)
    print(f"{count} seeds, {NETWORKS} networks of 40 to 80 % of the MACs each; the whole network: {whole:.1%}")
    print(f"{'ordering':<12} {'accuracy':>9} {'loss':>7} {'accuracy beyond no ordering, points':>38}")
    for name in ("none", *CRITERIA, "chosen"):
        accuracy = [record["sortings"][name][0] for record in records]
        loss = statistics.fmean(record["sortings"][name][1] for record in records)
        gains = [100 * (a - record["sortings"]["none"][0]) for a, record in zip(accuracy, records, strict=True)]
        print(f"{name:<12} {statistics.fmean(accuracy):>9.1%} {loss:>7.3f} {with_interval(gains, signed=True):>38}")
    for record in records:
        print(f"seed {record['seed']}: chosen {record['chosen']}")


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--records", type=Path, help="a line of JSON per seed; seeds in it are not run again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records: list[dict[str, Any]] = []
    if arguments.records and arguments.records.exists():
        records = [json.loads(line) for line in arguments.records.read_text().splitlines()]
    for seed in range(arguments.seeds):
        if any(record["seed"] == seed for record in records):
            continue
        records.append(run_seed(arguments.model, arguments.data, arguments.epochs, arguments.learning_rate, seed))
        if arguments.records:
            with arguments.records.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
    report(sorted(records, key=lambda record: record["seed"])[: arguments.seeds])


if __name__ == "__main__":
    main()
