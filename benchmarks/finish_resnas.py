"""Whether a searched and finished network beats the hand-designed one of as many multiply-accumulates.

For each seed a supernet of `resnas-mini` is trained, ViT-ResNAS's evolution searches it for the most accurate network
with at most as many multiply-accumulates as the hand-designed `res-mini` has (and at least 0.975 of them), and the best
one is finished and exported. Beside it stand, with the same recipe and all exported too:

    res-mini                  finished from the same supernet in the same way
    searched, from scratch    for as many epochs without inherited weights and without a teacher
    res-mini, from scratch    likewise
    res-mini, equal cost      from scratch for as many epochs as supernet, search, teacher and finish together would pay
                              for, in multiply-accumulates (a step costs three times a forward pass)

Printed are test accuracies of the exported files in ONNX Runtime, means over seeds with 95 % intervals (Student's t) of
them and of the differences to `res-mini`, and how far ONNX Runtime's accuracies lie from those that PyTorch prints.

Every stage is a run folder beside the file of records, so that the same command goes on where it was stopped.

    python benchmarks/finish_resnas.py --records FILE [--seeds 3] [--arms searched res-mini] [--estimate]
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seed_intervals import with_interval

import nas
from nas.events import TrialFinished
from search_spaces import Architecture, SearchSpace, get_space, population_cost
from supernets.data.image_data import ImageData
from supernets.data.sources import load_data
from supernets.sampling import get_policy

SPACE, HAND_DESIGNED, POLICY = "resnas-mini", "res-mini", "multi-architecture"
ARMS = ("searched", "res-mini", "searched, from scratch", "res-mini, from scratch", "res-mini, equal cost")
BATCH_SIZE = 32
STEP_COST = 3
"""Forward and backward pass, in forward passes."""
MAC_RATE = 1.2e10
"""Multiply-accumulates per second that an estimate of the time assumes, for one core."""


@dataclass(frozen=True)
class Setup:
    """What numbers must have in common to stand in one table.

    Attributes:
        data: Source of the images.
        supernet_epochs: Of each supernet's training.
        evaluations: Of each search.
        epochs: Of each finish.
    """

    data: str
    supernet_epochs: int
    evaluations: int
    epochs: int


@dataclass(frozen=True)
class Result:
    """A finished network.

    Attributes:
        macs: Of the network.
        epochs: It was trained for.
        search_accuracy: On the search part, of the weights that were exported.
        torch_test_accuracy: On the test part.
        test_accuracy: The same in ONNX Runtime.
        test_images: Of the test part.
        seconds: Of the training.
    """

    macs: int
    epochs: float
    search_accuracy: float
    torch_test_accuracy: float
    test_accuracy: float
    test_images: int
    seconds: float


def main() -> None:
    """Run what the records lack and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=Path, required=True, metavar="FILE", help="JSON lines, added to")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--supernet-epochs", type=int, default=60)
    parser.add_argument("--evaluations", type=int, default=3350)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, metavar="NETWORK", help="all, unless told")
    parser.add_argument("--estimate", action="store_true", help="only say how long it would take")
    arguments = parser.parse_args()
    setup = Setup(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Setup)})
    torch.set_num_threads(1)
    bench = Benchmark(setup, arguments.records)
    jobs = [(arm, seed) for seed in range(arguments.seeds) for arm in arguments.arms]
    missing = [job for job in jobs if job not in bench.results]
    print(f"{len(missing)} of {len(jobs)} networks to finish, about {bench.estimate(missing) / 60:.0f} minutes in all")
    if arguments.estimate:
        return
    started = time.monotonic()
    for arm, seed in missing:
        result = bench.run(arm, seed)
        minutes = (time.monotonic() - started) / 60
        print(f"{minutes:5.1f} min  seed {seed}, {arm}: {result.test_accuracy:.2%}", file=sys.stderr)
    report(bench.results, arguments.arms, arguments.seeds)
    took = ", ".join(f"{seconds / 60:.1f}" for seconds in bench.search_seconds.values())
    print(f"searches of {setup.evaluations} evaluations took {took} minutes")


class Benchmark:
    """One setup, with what is known of it already.

    Args:
        setup: What is done.
        records: JSON lines that may hold those of other setups; run folders stand beside it.
    """

    def __init__(self, setup: Setup, records: Path) -> None:
        self.setup, self.records = setup, records
        digest = hashlib.sha256(json.dumps(asdict(setup)).encode()).hexdigest()[:12]
        self.work = records.with_suffix(".work") / digest
        self.images: ImageData = load_data(setup.data, get_space(SPACE).image_side)
        self.space: SearchSpace = get_space(SPACE, self.images.classes)
        self.limit = self.space.lower(self.space.find(HAND_DESIGNED)).macs
        self.results: dict[tuple[str, int], Result] = {}
        self.search_seconds: dict[int, float] = {}
        text = records.read_text(encoding="utf-8") if records.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # what was killed left half a line
            records.write_text(whole, encoding="utf-8")
        for line in map(json.loads, whole.splitlines()):
            if line["setup"] != asdict(setup):
                continue
            if "search_seconds" in line:
                self.search_seconds[line["seed"]] = line["search_seconds"]
            else:
                self.results[line["arm"], line["seed"]] = Result(**line["result"])

    def run(self, arm: str, seed: int) -> Result:
        """One network, from where an earlier session left off, written to the records."""
        network = self._searched(seed) if arm.startswith("searched") else self.space.find(HAND_DESIGNED)
        inherits = arm in ("searched", "res-mini")
        epochs = self._equal_epochs(seed) if arm == "res-mini, equal cost" else self.setup.epochs
        folder = self.work / f"seed{seed}" / arm.replace(", ", "-").replace(" ", "-")
        options: dict[str, Any] = {"batch_size": BATCH_SIZE}
        document = folder / "finish.json"
        if not document.exists():
            source = self._supernet(seed) if inherits else None
            nas.finish(
                source,
                self.setup.data,
                arch=network.to_json(),
                epochs=epochs,
                options=options,
                seed=seed,
                **_in(folder),
            )
        found = json.loads(document.read_text(encoding="utf-8"))
        verified = found["verified"]
        result = Result(
            macs=self.space.lower(network).macs,
            epochs=found["epochs"],
            search_accuracy=found["accuracy"]["averaged"],
            torch_test_accuracy=verified["torch_test_accuracy"],
            test_accuracy=verified["test_accuracy"],
            test_images=verified["test_images"],
            seconds=found["seconds"],
        )
        self.results[arm, seed] = result
        self._append({"arm": arm, "seed": seed, "result": asdict(result)})
        return result

    def estimate(self, jobs: Sequence[tuple[str, int]]) -> float:
        """Seconds that jobs take on one core, from multiply-accumulates alone."""
        middle = self.limit * self.images.splits["train"] * STEP_COST
        shared = self._supernet_macs(0) + self._search_macs()
        own = {arm: middle * self.setup.epochs for arm in ARMS}
        own["res-mini, equal cost"] = middle * self._equal_epochs(0)
        return (sum(own[arm] for arm, _ in jobs) + shared * len({seed for _, seed in jobs})) / MAC_RATE

    # -- stages ------------------------------------------------------------------------------------------------------

    def _supernet(self, seed: int) -> Path:
        """The run folder of a seed's supernet."""
        folder = self.work / f"seed{seed}" / "supernet"
        if not (folder / "training.json").exists():
            nas.train(
                SPACE,
                self.setup.data,
                policy=POLICY,
                epochs=self.setup.supernet_epochs,
                seed=seed,
                options={"batch_size": BATCH_SIZE},
                **_in(folder),
            )
        return folder

    def _searched(self, seed: int) -> Architecture:
        """The most accurate network that a seed's search found."""
        folder = self.work / f"seed{seed}" / "search"
        if (folder / "front.json").exists():
            return nas.load_result(folder).pick("best").architecture
        events: list[TrialFinished] = []

        def note(event: object) -> None:
            if isinstance(event, TrialFinished):
                events[:] = [event]

        result = nas.search(
            SPACE,
            supernet=self._supernet(seed),
            macs=self.limit,
            controller="evolution-resnas",
            evaluations=self.setup.evaluations,
            seed=seed,
            progress=note,
            **_in(folder),
        )
        if events:
            self.search_seconds[seed] = events[0].seconds
            self._append({"seed": seed, "search_seconds": events[0].seconds})
        return result.pick("best").architecture

    def _append(self, line: dict[str, Any]) -> None:
        with self.records.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"setup": asdict(self.setup), **line}, allow_nan=False) + "\n")

    # -- costs, in multiply-accumulates ------------------------------------------------------------------------------

    def _equal_epochs(self, seed: int) -> int:
        """Epochs of `res-mini` from scratch that cost what everything does that a searched network needs."""
        images = self.images.splits["train"]
        finish = self.setup.epochs * images * (STEP_COST * self.limit + self.space.lower(self.space.largest).macs)
        total = self._supernet_macs(seed) + self._search_macs() + finish
        return math.ceil(total / (STEP_COST * self.limit * images))

    def _supernet_macs(self, seed: int) -> float:
        """Of the networks that the policy assigns, each on its share of the images."""
        steps = self.setup.supernet_epochs * self.images.steps_per_epoch(BATCH_SIZE)
        sampler = get_policy(POLICY).begin(self.space, seed, BATCH_SIZE)
        drawn = [[each.architecture for each in sampler.assign(step, step / steps)] for step in range(steps)]
        macs = [population_cost(self.space, self.space.encode(networks)).macs.mean() for networks in drawn]
        return STEP_COST * BATCH_SIZE * float(np.sum(macs))

    def _search_macs(self) -> float:
        return float(self.setup.evaluations * self.images.splits["search"] * self.limit)


def _in(folder: Path) -> dict[str, Any]:
    """Go on in a folder, or begin."""
    return {"output": folder, "resume": (folder / "settings.json").exists()}


# -- what came out ---------------------------------------------------------------------------------------------------


def report(results: dict[tuple[str, int], Result], arms: Sequence[str], seeds: int) -> None:
    """Print accuracies by arm, and what the first one is ahead of the others."""
    found = {arm: [results[arm, seed] for seed in range(seeds)] for arm in arms}
    accuracy = {arm: np.array([100 * result.test_accuracy for result in each]) for arm, each in found.items()}
    images = found[arms[0]][0].test_images
    print(f"\ntest accuracy in % of the exported files in ONNX Runtime, {seeds} seeds, {images} images")
    print(f"{'network':26}{'M MACs':>8}{'epochs':>8}{'accuracy':>16}{f'{arms[0]} less it':>20}{'minutes':>9}")
    for arm, each in found.items():
        rows = np.array([(result.macs / 1e6, result.epochs, result.seconds / 60) for result in each])
        macs, epochs, minutes = rows.mean(axis=0).tolist()
        gain = "" if arm == arms[0] else with_interval(accuracy[arms[0]] - accuracy[arm], 2, signed=True)
        print(f"{arm:26}{macs:8.2f}{epochs:8.0f}{with_interval(accuracy[arm], 2):>16}{gain:>20}{minutes:9.1f}")
    everything = [result for each in found.values() for result in each]
    worst = max(abs(result.test_accuracy - result.torch_test_accuracy) for result in everything)
    print(f"ONNX Runtime differs from PyTorch by {100 * worst:.2f} points of test accuracy at most")


if __name__ == "__main__":
    main()
