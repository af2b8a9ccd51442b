"""Sliced networks right after slicing, without any training: as they are cut, and compensated.

Trains a small vision transformer on images as one ordinary network, takes it for the pretrained model, sorts it by
Taylor importance, rotates its heads, and judges networks inside it on images that nothing has seen: some that cut one
axis alone, and random ones of 40 to 80 % of the MACs that cut all axes but the side of the image and its patches.

    python benchmarks/compensation.py [--seeds 3] [--epochs 40] [--images 256] [--weights FILE{seed}]

Prints top-1 accuracy by seed and variant, and what compensation adds to random networks, with a 95 % interval over
seeds.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from importance import trained
from seed_intervals import with_interval

from nas.evaluation.accuracy import accuracy_of
from search_spaces import Architecture, SearchSpace, get_space, population_cost
from search_spaces.timm_models import PATCH, SIDE
from supernets import Supernet
from supernets.calibration import Calibration
from supernets.data.image_data import ImageData
from supernets.data.sources import load_data
from supernets.importance import SORTED, sorted_along
from supernets.timm_models.compensation import NONE, PREFIX, SEQUENTIAL, Compensator
from supernets.timm_models.rotation import rotate_heads

MODEL = "vit_tiny_patch16_224?img_size=32&patch_size=8&embed_dim=64&depth=4&num_heads=4"
VARIANTS = (NONE, PREFIX, SEQUENTIAL)
RANDOM_NETWORKS = 24
CUT: dict[str, dict[str, int]] = {
    "hidden units 64 of 256": {"hidden": 64},
    "heads 2 of 4": {"heads": 2},
    "heads 1 of 4": {"heads": 1},
    "rank 8 of 16": {"rank": 8},
    "rank 4 of 16": {"rank": 4},
    "width 32 of 64": {"embed": 32},
    "depth 2 of 4": {"depth": 2},
}


def cut(space: SearchSpace, sizes: dict[str, int]) -> Architecture:
    """The largest network but for the choices whose names end as given."""
    values = {c.name: sizes.get(c.name.rpartition(".")[2], c.values[-1]) for c in space.choices}
    drawn = space.encode([Architecture(space.name, space.version, tuple(values.items()))])
    return space.decode(space.repair(drawn))[0]


def random_networks(space: SearchSpace, seed: int) -> list[Architecture]:
    """Networks between 40 and 80 % of the whole one's MACs, on its own images and patches."""
    genotypes = space.sample(4000, np.random.default_rng(seed))
    columns = [space.columns[name] for name in (SIDE, PATCH) if name in space.columns]
    genotypes[:, columns] = space.cardinalities[columns] - 1
    shares = population_cost(space, genotypes).macs / population_cost(space, space.encode([space.largest])).macs[0]
    return space.decode(genotypes[(shares >= 0.4) & (shares <= 0.8)][:RANDOM_NETWORKS])


def prepared(supernet: Supernet, data: ImageData, images: int) -> tuple[Supernet, dict[str, Compensator]]:
    """The model sorted and rotated, and a maker of its networks for every variant."""
    images_BCHW, labels_B = next(iter(data.batches("train", images)))
    calibration = Calibration.of(supernet, images_BCHW, labels_B)
    for axis in SORTED:
        supernet = sorted_along(supernet, axis, "taylor", calibration)
    rotate_heads(supernet, images_BCHW)
    return supernet, {variant: Compensator(supernet, images_BCHW, variant) for variant in VARIANTS}


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", help="file of trained weights with {seed} in its name, in place of a training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(arguments.seeds):
        data = load_data(arguments.data, get_space(f"timm:{arguments.model}").image_side)
        if arguments.weights:
            from safetensors.torch import load_file

            supernet = Supernet(get_space(f"timm:{arguments.model}", data.classes))
            supernet.load_state_dict(load_file(Path(arguments.weights.format(seed=seed))))
        else:
            supernet = trained(arguments.model, data, arguments.epochs, 1e-3, seed)
        supernet, makers = prepared(supernet.eval(), data, arguments.images)

        def judge(architecture: Architecture, makers: dict[str, Compensator] = makers) -> tuple[float, ...]:
            made = (makers[variant](architecture) for variant in VARIANTS)
            return tuple(100 * accuracy_of(network, data, "search", "cpu") for network in made)  # noqa: B023

        rows.setdefault("whole", []).append(judge(supernet.space.largest))
        for name, sizes in CUT.items():
            rows.setdefault(name, []).append(judge(cut(supernet.space, sizes)))
        found = [judge(architecture) for architecture in random_networks(supernet.space, seed)]
        rows.setdefault("random networks", []).append(tuple(map(statistics.fmean, zip(*found, strict=True))))
    print(f"{'top-1, %, by seed':<24}" + "".join(f"{variant:>28}" for variant in VARIANTS))
    for name, seeds in rows.items():
        print(f"{name:<24}" + "".join(f"{'  '.join(f'{seed[place]:.1f}' for seed in seeds):>28}" for place in range(3)))
    if arguments.seeds > 1:
        gains = [seed[2] - seed[0] for seed in rows["random networks"]]
        print(f"random networks, {SEQUENTIAL} beyond {NONE}: {with_interval(gains, signed=True)} points")


if __name__ == "__main__":
    main()
