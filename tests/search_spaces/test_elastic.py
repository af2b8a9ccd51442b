"""ElasticViT: figures of the published space, networks and formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latency_tables.counting import counted_macs
from search_spaces import get_space, population_cost
from search_spaces.elastic import ElasticSpace
from search_spaces.elastic_reference import reference_macs, reference_macs_total
from supernets import Supernet, build_network

ELASTIC = get_space("elastic")
assert isinstance(ELASTIC, ElasticSpace)

# name: formula MACs, operator MACs, active parameters, all in millions
PUBLISHED = {
    "T1": (62.92, 64.90, 8.906),
    "T2": (119.98, 120.55, 9.300),
    "S1": (217.64, 221.55, 10.837),
    "S2": (318.53, 320.25, 10.232),
    "M": (415.58, 417.42, 12.017),
    "L1": (517.11, 522.88, 12.765),
    "L1.5": (618.78, 626.03, 14.706),
    "L2": (704.11, 713.13, 14.901),
    "L3": (815.40, 824.59, 15.345),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name: str) -> None:
    formula, macs, params = PUBLISHED[name]
    genotypes = ELASTIC.encode([ELASTIC.named[name]])
    cost = population_cost(ELASTIC, genotypes)
    assert reference_macs_total(ELASTIC, genotypes)[0] / 1e6 == pytest.approx(formula, abs=0.01)
    assert cost.macs[0] / 1e6 == pytest.approx(macs, rel=0.005)
    assert cost.params[0] / 1e6 == pytest.approx(params, rel=0.001)


def test_formula_over_the_whole_space() -> None:
    ends = ELASTIC.encode([ELASTIC.smallest, ELASTIC.largest])
    assert (reference_macs_total(ELASTIC, ends) / 1e6).tolist() == pytest.approx([37.365, 3191.459], abs=0.001)


@pytest.mark.parametrize(
    ("name", "stages", "rest"),
    [
        ("T1", (9.363, 6.322, 5.902, 11.268, 11.335, 8.319), 10.405),
        ("M", (61.365, 62.590, 46.124, 85.961, 69.950, 62.567), 415.581 - 388.557),
        ("L3", (132.186, 123.815, 98.787, 195.617, 145.342, 86.202), 815.399 - 781.949),
    ],
)
def test_formula_by_stage(name: str, stages: tuple[float, ...], rest: float) -> None:
    parts = reference_macs(ELASTIC, ELASTIC.encode([ELASTIC.named[name]]))
    found = [parts[stage.name][0] / 1e6 for stage in ELASTIC.definition.stages]
    assert found == pytest.approx(stages, abs=0.001)
    assert (parts["stem"][0] + parts["head"][0]) / 1e6 == pytest.approx(rest, abs=0.002)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("T1", (928, 7416, 32850, 85300, 242982, 725019, 2137665, 5673672)),
        ("M", (1184, 18416, 120648, 172112, 419148, 1405800, 3961476, 5918184)),
        ("L3", (1184, 30224, 209660, 279730, 713672, 2227936, 5466152, 6416424)),
    ],
)
def test_parameters_by_stage(name: str, expected: tuple[int, ...]) -> None:
    network = build_network(ELASTIC, ELASTIC.named[name])
    parts = ("stem", "C1", "C2", "T1", "T2", "T3", "T4", "head")
    found = tuple(sum(p.numel() for p in network.get_submodule(part).parameters()) for part in parts)
    assert found == expected


@pytest.mark.parametrize(
    ("image_side", "sides"),
    [
        (128, (32, 16, 8, 8, 4, 2)),
        (160, (40, 20, 10, 10, 5, 3)),
        (176, (44, 22, 11, 11, 6, 3)),
        (192, (48, 24, 12, 12, 6, 3)),
        (224, (56, 28, 14, 14, 7, 4)),
        (256, (64, 32, 16, 16, 8, 4)),
    ],
)
def test_feature_sides(image_side: int, sides: tuple[int, ...]) -> None:
    assert tuple(ELASTIC.stage_side(stage.name, image_side) for stage in ELASTIC.definition.stages) == sides
    architecture = ELASTIC.from_values({**dict(ELASTIC.smallest.settings), "input.side": image_side})
    network = build_network(ELASTIC, architecture).eval()
    with torch.no_grad():
        assert network.forward_features(torch.zeros(1, 3, 224, 224)).shape[-1] == sides[-1]  # type: ignore[operator]


def test_uniform_draws_reproduce_the_published_statistics() -> None:
    macs = reference_macs_total(ELASTIC, ELASTIC.sample(10_000, np.random.default_rng(0))) / 1e6
    assert macs.mean() == pytest.approx(561, abs=10)
    assert np.median(macs) == pytest.approx(496, abs=15)


def test_macs_of_random_networks_equal_the_count_of_pytorch() -> None:
    genotypes = ELASTIC.sample(12, np.random.default_rng(7))
    macs = population_cost(ELASTIC, genotypes).macs
    for architecture, expected in zip(ELASTIC.decode(genotypes), macs, strict=True):
        with torch.device("meta"):
            network = build_network(ELASTIC, architecture).to("meta").eval()
        side = architecture["input.side"]
        assert counted_macs(network, torch.empty(1, 3, side, side, device="meta")) == expected


def test_norm_takes_tokens_and_channels_together() -> None:
    layer = build_network(ELASTIC, ELASTIC.named["T1"]).get_submodule("T3.0.attention_norm")
    x_BCHW = torch.randn(3, 176, 4, 4) * torch.arange(1, 17).reshape(1, 1, 4, 4) + 5
    y_BCHW = layer(x_BCHW)
    assert torch.allclose(y_BCHW.mean(dim=(1, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(y_BCHW.std(dim=(1, 2, 3), unbiased=False), torch.ones(3), atol=1e-4)
    assert (y_BCHW.std(dim=1) - 1).abs().max() > 0.1


def test_supernet_size_against_the_reference() -> None:
    """The reference also holds weights that no subnet uses: shortcuts of width-keeping blocks, too wide first blocks.

    It sizes the first block of every stage as if the stage before had this stage's width.
    """
    largest = dict(ELASTIC.largest.settings)
    network = Supernet(ELASTIC).network
    unused_shortcuts, oversize = 2 * largest["stem.width"] ** 2, 0
    for stage in ELASTIC.definition.stages:
        width = largest[f"{stage.name}.width"]
        entry = network.get_submodule(f"{stage.name}.{'entry' if stage.is_transformer else '0'}")
        expansion, kernel = (6, 3) if stage.is_transformer else (6, 5)
        hidden = width * expansion
        full = hidden * (2 * width + kernel**2 + 4) + width * (width + 2)
        if stage.squeeze_excite or stage.is_transformer:
            full += hidden * 2 * (hidden // 4) + hidden + hidden // 4
        oversize += full - sum(p.numel() for p in entry.parameters())
        if not stage.is_transformer:
            unused_shortcuts += (largest[f"{stage.name}.depth"] - 1) * width**2
    assert sum(p.numel() for p in network.parameters()) + unused_shortcuts + oversize == 40_488_174
