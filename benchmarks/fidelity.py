"""Fidelity without labels beside what labels would say: do both rank networks alike?

Trains a small vision transformer on images as one ordinary network, forgets its classifier and the labels, sorts and
slices it by what its features say alone, and judges random networks of 40 to 80 % of its MACs twice: by fidelity, and
by a classifier that is fitted to their features with labels.

    python benchmarks/fidelity.py [--seeds 3] [--epochs 40] [--weights FILE{seed}]

Prints Kendall's tau over the networks of each seed with a bootstrap interval over networks, for several dampings;
beside it how well two probes agree, one judged on the search part, one on the test part: no more can be expected.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from compensation import MODEL, random_networks
from importance import trained
from scipy.stats import kendalltau
from torch import Tensor, nn

from search_spaces import get_space
from supernets import Supernet
from supernets.calibration import Calibration
from supernets.data.image_data import ImageData, Part
from supernets.data.sources import load_data
from supernets.features import run_watched, told_by_components
from supernets.fidelity import ALPHA, fidelity
from supernets.importance import sort_by_importance
from supernets.probing import fit_classifier
from supernets.timm_models.compensation import VARIANTS, Compensator
from supernets.timm_models.rotation import rotate_heads

MOST_IMAGES, CALIBRATION_IMAGES = 20_000, 128
DAMPINGS = (1e-3, 1e-2, ALPHA, 1.0)
DRAWS = 2000


@torch.no_grad()
def seen(network: nn.Module, supernet: Supernet, data: ImageData, part: Part) -> tuple[Tensor, Tensor, Tensor]:
    """Features, outputs and labels of a part of the images."""
    rows = [(*run_watched(network, supernet.space, x), labels) for x, labels in data.batches(part, 128)]
    features, outputs, labels = zip(*rows, strict=True)
    return torch.cat(features), torch.cat(outputs), torch.cat(labels)


def tau_with_interval(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Kendall's tau, and its 95 % interval over networks drawn with replacement."""
    pairs, generator = np.array([first, second]), np.random.default_rng(0)
    drawn = [pairs[:, generator.integers(0, len(first), len(first))] for _ in range(DRAWS)]
    low, high = np.nanpercentile([kendalltau(*each).statistic for each in drawn], [2.5, 97.5])
    return float(kendalltau(*pairs).statistic), float(low), float(high)


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", help="file of trained weights with {seed} in its name; made where it is missing")
    parser.add_argument("--compensation", choices=VARIANTS, default="sequential")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(arguments.seeds):
        data = load_data(arguments.data, get_space(f"timm:{arguments.model}").image_side)
        supernet = whole(arguments, data, seed)
        told = told_by_components(supernet, data, MOST_IMAGES)
        images_BCHW, _ = next(iter(data.train_batches(CALIBRATION_IMAGES, seed, epoch=0)))
        calibration = Calibration.of_views(told, images_BCHW, seed)
        told = sort_by_importance(told, images_BCHW, calibration=calibration).supernet
        rotate_heads(told, images_BCHW)
        make = Compensator(told, next(iter(data.train_batches(512, seed, epoch=0)))[0], arguments.compensation)
        _, wanted, _ = seen(told.network, told, data, "search")
        halves: list[tuple[float, float]] = []
        found: dict[float, list[float]] = {alpha: [] for alpha in DAMPINGS}
        probes = []
        for architecture in random_networks(told.space, seed):
            network = make(architecture)
            known, _, labels = seen(network, told, data, "train")
            features, outputs, true = seen(network, told, data, "search")
            probe, unseen = fit_classifier(known, labels, data.classes, seed), seen(network, told, data, "test")
            halves.append((probe.accuracy(features, true), probe.accuracy(unseen[0], unseen[2])))
            counts = data.splits["search"], data.splits["test"]
            probes.append(float(np.average(halves[-1], weights=counts)))
            for alpha in DAMPINGS:
                found[alpha].append(fidelity(features, outputs, wanted, alpha))
        agreement = kendalltau(*zip(*halves, strict=True)).statistic
        networks = f"{len(probes)} networks, probe {min(probes):.3f} to {max(probes):.3f}"
        print(f"seed {seed}: {networks}; probes on two parts agree with tau {agreement:.2f}", flush=True)
        for alpha, values in found.items():
            tau, low, high = tau_with_interval(values, probes)
            figures = f"fidelity {min(values):.3f} to {max(values):.3f}, tau {tau:.2f} [{low:.2f}, {high:.2f}]"
            print(f"  damping {alpha:g}: {figures}")


def whole(arguments: argparse.Namespace, data: ImageData, seed: int) -> Supernet:
    """The trained model."""
    from safetensors.torch import load_file, save_file

    path = Path(arguments.weights.format(seed=seed)) if arguments.weights else None
    if path is None or not path.exists():
        supernet = trained(arguments.model, data, arguments.epochs, 1e-3, seed)
        if path is not None:
            save_file({name: tensor.contiguous() for name, tensor in supernet.state_dict().items()}, path)
        return supernet
    supernet = Supernet(get_space(f"timm:{arguments.model}", data.classes))
    supernet.load_state_dict(load_file(path))
    return supernet.eval()


if __name__ == "__main__":
    main()
