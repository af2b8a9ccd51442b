"""Many kinds of networks from 5 M to 5 G multiply-accumulates, so that a table has evidence for any model of timm.

A family is models of timm that are built alike, on images of several sizes. Between them the families hold the kernels
that image models are made of. They are as unlike one another as models that nobody measured are unlike them: a table is
checked on each family by a fit that has not seen it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from nas.latency.sample import BROAD, LARGEST_BROAD_MACS, SMALLEST_BROAD_MACS, Sample
from nas.networks.named import timm_network

SIDES = (64, 96, 128, 160, 192, 224, 256)
REFERENCE_SIDE = 224
FAMILIES: Mapping[str, Mapping[str, float]] = {
    "transformer": {
        "vit_tiny_patch16_224?depth=4": 0.44,
        "vit_small_patch16_224?depth=4": 1.57,
        "vit_small_patch16_224": 4.6,
        "vit_base_patch16_224?depth=3": 4.48,
    },
    "inverted": {
        "mobilenetv2_035": 0.06,
        "mobilenetv3_large_100": 0.22,
        "efficientnet_b0": 0.39,
        "tf_efficientnetv2_b0": 0.72,
        "efficientnet_b3": 0.96,
    },
    "residual": {"resnet10t": 1.1, "resnet18": 1.82, "resnet50": 4.09},
    "grouped": {"regnety_002": 0.2, "regnetx_008": 0.8, "resnext50_32x4d": 4.23},
    "modern": {"convnext_atto": 0.55, "convnext_nano": 2.45, "convnext_tiny": 4.46},
    "windows": {
        "swin_tiny_patch4_window7_224?depths=[1,1,1,1]&embed_dim=48": 0.43,
        "swin_tiny_patch4_window7_224?depths=[1,1,2,1]": 1.99,
        "swin_tiny_patch4_window7_224": 4.49,
    },
    "pooled": {"poolformer_s12": 1.81, "poolformer_s24": 3.41},
    "concatenated": {"ghostnet_100": 0.15, "densenet121": 2.87},
}
"""Models of each family, with their multiply-accumulates on images of `REFERENCE_SIDE` pixels in billions."""


def broad_samples(count: int, seed: int) -> list[Sample]:
    """Networks of all families in turns; those of one family are spread evenly on a logarithmic scale of MACs."""
    generator = np.random.default_rng(seed)
    names = list(FAMILIES)
    sizes = [len(range(place, count, len(names))) for place in range(len(names))]
    chosen = {name: _spread(FAMILIES[name], size, generator) for name, size in zip(names, sizes, strict=True)}
    return [
        _sample(names[number % len(names)], number, *chosen[names[number % len(names)]].pop(0))
        for number in range(count)
    ]


def _spread(models: Mapping[str, float], count: int, generator: np.random.Generator) -> list[tuple[str, int]]:
    """Models with sides of images, near sizes that are drawn from equal parts of the family's range; none twice."""
    candidates = {
        (model, side): math.log(macs_g * 1e9 * (side / REFERENCE_SIDE) ** 2)
        for model, macs_g in models.items()
        for side in SIDES
    }
    low = max(min(candidates.values()), math.log(SMALLEST_BROAD_MACS))
    high = min(max(candidates.values()), math.log(LARGEST_BROAD_MACS))
    chosen: list[tuple[str, int]] = []
    for place in range(count):
        goal = low + (high - low) * (place + generator.random()) / count
        chosen.append(min(candidates, key=lambda pair: abs(candidates[pair] - goal)))
        del candidates[chosen[-1]]
    return chosen


def _sample(family: str, number: int, model: str, side: int) -> Sample:
    network = timm_network(model, side)
    assert network.build is not None
    return Sample(f"{BROAD}/{family}-{number}", network.build, network.graph, side)
