"""Whether `--recipe deit-lt` helps where some classes have fifty times the images of others.

Glyphs are cut so that the training images of a class fall from 200 to 4, class by class; the other parts stay even. For
each seed a supernet of `elastic-mini` is trained on them, and its smallest network finished three times from there with
the supernet's largest network as teacher: plainly, by the recipe, and plainly with the recipe's augmentation, so that
one sees what the loss does by itself. Printed are balanced accuracies of the exported files on the test part, of groups
of classes too, with 95 % intervals over seeds (Student's t).

    python benchmarks/long_tail.py --records FILE [--seeds 3] [--epochs 20]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from seed_intervals import with_interval

import nas
from nas.evaluation.judgement import FREQUENCIES
from supernets.data.glyphs import GlyphSource
from supernets.data.image_data import LoadOptions
from supernets.data.memory_images import MemoryData
from supernets.data.sources import register_data_source

NAME, RATIO = "glyphs-long-tail", 50
ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deit-lt": {"recipe": "deit-lt"},
    "plain, strongly augmented": {"options": {"augmentation": "deit"}},
}


class LongTail(GlyphSource):
    """Glyphs whose training images fall from class to class."""

    name = NAME

    def load(self, text: str, options: LoadOptions) -> MemoryData:
        """The glyphs that are left."""
        data = super().load(text, options)
        train, labels = data.division.parts["train"], data.labels
        most = np.bincount(labels[train]).max()
        kept = [
            train[labels[train] == number][: round(most * RATIO ** (-number / (data.classes - 1)))]
            for number in range(data.classes)
        ]
        parts = {**data.division.parts, "train": np.sort(np.concatenate(kept))}
        data.division = dataclasses.replace(data.division, parts=parts)
        return data


def run(seed: int, folder: Path, epochs: int) -> list[dict[str, Any]]:
    """Train the supernet of a seed, and finish its smallest network in every way."""
    supernet = folder / f"supernet-{seed}"
    if not (supernet / "training.json").exists():
        nas.train("elastic-mini", NAME, policy="uniform", epochs=epochs, seed=seed, output=supernet, force=True)
    found = []
    for arm, asked in ARMS.items():
        result = nas.finish(
            supernet, arch="elastic-mini/smallest", teacher="largest", epochs=epochs, seed=seed,
            output=folder / f"{arm}-{seed}", force=True, **asked,
        )  # fmt: skip
        groups = result.verified.get("test_by_frequency", {})
        found.append(
            {"seed": seed, "arm": arm, "balanced": result.verified["test_balanced_accuracy"]}
            | {name: facts["accuracy"] for name, facts in groups.items()}
        )
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True, help="a line of JSON per network; goes on behind them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    register_data_source(NAME, LongTail())
    lines = arguments.records.read_text().splitlines() if arguments.records.exists() else []
    records = [json.loads(line) for line in lines]
    for seed in range(arguments.seeds):
        if seed not in {record["seed"] for record in records}:
            found = run(seed, arguments.records.parent / "long-tail", arguments.epochs)
            records += found
            with arguments.records.open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in found)
    plain = [record["balanced"] for record in records if record["arm"] == "plain"]
    for arm in ARMS:
        own = [record for record in records if record["arm"] == arm]
        difference = [record["balanced"] - other for record, other in zip(own, plain, strict=True)]
        columns = {name: [record[name] for record in own if name in record] for name in ("balanced", *FREQUENCIES)}
        texts = [f"{name} {with_interval(100 * np.array(values))}" for name, values in columns.items() if values]
        print(f"{arm:28}{'  '.join(texts)}  beyond plain {with_interval(100 * np.array(difference), signed=True)}")


if __name__ == "__main__":
    main()
