"""What a network gains by learning the features of the model that it was cut out of, without labels.

Trains a small vision transformer on images as one ordinary network, forgets its classifier and the labels, sorts it by
what its features say alone, and cuts random networks of 40 to 80 % of its MACs out of it, compensated in order. Each is
judged on the test part as it is, and after it has learned what the whole model sees.

    python benchmarks/feature_distillation.py [--seeds 3] [--epochs 40] [--networks 3] [--learn 10] [--rate 1e-3]

Prints fidelity, the mean cosine with the whole model's outputs, and the accuracy of a classifier that is fitted to the
outputs with labels, before and after.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from compensation import MODEL, random_networks
from fidelity import CALIBRATION_IMAGES, MOST_IMAGES, seen, whole

from nas.evaluation.compensation import SEQUENTIAL, Compensation
from nas.evaluation.fidelity import chosen_without_labels, mean_cosine, solve_last_layer
from nas.training.session import training_settings
from search_spaces import get_space
from supernets import Supernet
from supernets.calibration import Calibration
from supernets.data.image_data import ImageData
from supernets.data.sources import load_data
from supernets.features import told_by_components
from supernets.importance import sort_by_importance
from supernets.probing import fit_classifier
from supernets.timm_models.rotation import rotate_heads
from supernets.training.feature_distillation import FeatureTeacher
from supernets.training.trainer import train_supernet


def judged(alone: Supernet, told: Supernet, data: ImageData) -> str:
    """Fidelity of a network alone, and the accuracy of its probe, both on the test part."""
    (_, known, labels), (_, outputs, true) = (seen(alone.network, alone, data, part) for part in ("train", "test"))
    wanted = seen(told.network, told, data, "test")[1]
    probe = fit_classifier(known, labels, data.classes)
    return f"fidelity {mean_cosine(outputs, wanted):.3f}, probe {probe.accuracy(outputs, true):.1%}"


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--learn", type=int, default=10, help="epochs in which a network learns from the whole one")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--weights", help="file of trained weights with {seed} in its name; made where it is missing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(arguments.data, get_space(f"timm:{arguments.model}").image_side)
    for seed in range(arguments.seeds):
        told = told_by_components(whole(arguments, data, seed), data, MOST_IMAGES)
        images_BCHW, _ = next(iter(data.train_batches(CALIBRATION_IMAGES, seed, epoch=0)))
        calibration = Calibration.of_views(told, images_BCHW, seed)
        told = sort_by_importance(told, images_BCHW, calibration=calibration).supernet
        rotate_heads(told, images_BCHW)
        print(f"seed {seed}: whole model {judged(told, told, data)}", flush=True)
        settings = training_settings(arguments.learn, None, seed)
        settings = replace(settings, learning_rate=arguments.rate, policy="uniform")
        for architecture in random_networks(told.space, seed)[: arguments.networks]:
            alone = chosen_without_labels(told, data, architecture, seed, Compensation(SEQUENTIAL, 512))
            macs, most = (told.space.lower(each).macs for each in (architecture, told.space.largest))
            before = judged(alone, told, data)
            with tempfile.TemporaryDirectory() as folder:
                train_supernet(alone, data, settings, Path(folder), teacher=FeatureTeacher(told))
            solve_last_layer(alone.eval(), told, data)
            after = judged(alone, told, data)
            print(f"  {macs / most:.0%} of the MACs: {before}; after {arguments.learn} epochs {after}", flush=True)


if __name__ == "__main__":
    main()
