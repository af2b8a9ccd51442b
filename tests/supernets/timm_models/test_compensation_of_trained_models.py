"""What slicing costs a model that was trained on digits, right after it and without any training."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from nas.evaluation.accuracy import accuracy_of
from nas.training.session import training_settings
from search_spaces import Architecture, SingleSpace, get_space, population_cost
from search_spaces.timm_models import PATCH, SIDE
from supernets import Supernet
from supernets.calibration import Calibration
from supernets.data.sources import load_data
from supernets.importance import SORTED, sorted_along
from supernets.timm_models.compensation import Compensator
from supernets.timm_models.rotation import rotate_heads
from supernets.training.trainer import train_supernet
from tests.support.timm_networks import timm_space

MODEL = "vit_tiny_patch16_224?img_size=32&patch_size=8&embed_dim=64&depth=4&num_heads=4"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_digits_right_after_slicing(seed: int, tmp_path: Path) -> None:
    data = load_data("digits", 32)
    space = get_space(f"timm:{MODEL}", data.classes)
    whole = Supernet(SingleSpace(space, space.largest), seed=seed)
    train_supernet(whole, data, replace(training_settings(40, None, seed), learning_rate=1e-3), tmp_path)
    supernet = Supernet(space)
    supernet.load_state_dict(whole.state_dict())
    supernet.eval()
    images_BCHW, labels_B = next(iter(data.batches("train", 256)))
    calibration = Calibration.of(supernet, images_BCHW, labels_B)
    for axis in SORTED:
        supernet = sorted_along(supernet, axis, "taylor", calibration)
    rotate_heads(supernet, images_BCHW)
    compensator, space = Compensator(supernet, images_BCHW), timm_space(supernet)

    def right(network: nn.Module) -> float:
        return 100 * accuracy_of(network, data, "search", "cpu")

    def cut(kind: str, size: int) -> Architecture:
        values = {c.name: size if c.name.endswith(kind) else c.values[-1] for c in space.choices}
        return space.from_values(values)

    assert right(supernet.extract(cut("rank", 8))) > right(supernet.network) - 0.5
    assert right(compensator(cut("embed", 32))) >= 95
    genotypes = space.sample(2000, np.random.default_rng(seed))
    columns = [space.columns[name] for name in (SIDE, PATCH)]
    genotypes[:, columns] = space.cardinalities[columns] - 1
    shares = population_cost(space, genotypes).macs / population_cost(space, space.encode([space.largest])).macs[0]
    networks = space.decode(genotypes[(shares >= 0.4) & (shares <= 0.8)][:24])
    compensated = statistics.fmean(right(compensator(architecture)) for architecture in networks)
    assert compensated >= 93
    assert compensated >= statistics.fmean(right(supernet.extract(architecture)) for architecture in networks) + 10
