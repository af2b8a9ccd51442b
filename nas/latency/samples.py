"""Networks to measure: a spread sample of a search space, plain vision transformers, and probes of many operators.

A table is fitted to such networks and checked on others of the same groups, drawn with another seed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nas.latency.sample import BROAD, PROBES, Sample
from search_spaces import Architecture, SearchSpace, get_space, population_cost, space_kinds, space_names
from search_spaces.errors import UnknownNameError

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.graph import OpGraph

VIT = "vit"
CANDIDATES = 4000
"""Networks that are drawn for a spread sample to be chosen from."""


def group_names() -> list[str]:
    """The groups of networks that can be sampled: every registered space, ``broad``, ``vit`` and ``probes``."""
    return [*space_names(), BROAD, VIT, PROBES]


def is_group(name: str) -> bool:
    """Whether networks of such a group can be sampled; those of ``timm:NAME`` are the networks inside that model."""
    return name in group_names() or _is_of_a_kind(name)


def _is_of_a_kind(name: str) -> bool:
    kind, separator, _ = name.partition(":")
    return bool(separator) and kind in space_kinds()


def latency_samples(group: str, count: int, seed: int) -> list[Sample]:
    """Networks of a group whose sizes are spread evenly on a logarithmic scale of MACs.

    Args:
        group: A registered space, or one of a kind such as ``timm:NAME``; ``broad`` for models of timm of many families
            and sizes; ``vit`` for plain vision transformers of random width, depth, heads, ratio, patch and resolution;
            or ``probes`` for small networks that mix operators which no space of ours uses.
        count: Number of networks.
        seed: Seed of the draw; equal arguments give equal networks. A space's smallest and largest network come first,
            whatever the seed.

    Raises:
        UnknownNameError: There is no such group.
    """
    if group == VIT:
        return [_vit_sample(number, config) for number, config in enumerate(_spread_vits(count, seed))]
    if group == BROAD:
        from nas.latency.broad import broad_samples

        return broad_samples(count, seed)
    if group == PROBES:
        from nas.latency.probes import probe_sample

        return [probe_sample(number, seed) for number in range(count)]
    if group not in space_names() and not _is_of_a_kind(group):
        raise UnknownNameError("group of networks", group, group_names())
    space = get_space(group)
    chosen = spread_sample(space, count, seed)
    return [_space_sample(space, number, architecture) for number, architecture in enumerate(chosen)]


def spread_sample(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """Random networks of a space whose MACs are spread evenly on a logarithmic scale, its two ends included."""
    ends = space.encode([space.smallest, space.largest])[:count]
    drawn = np.unique(space.sample(CANDIDATES, np.random.default_rng(seed)), axis=0)
    chosen = _spread(np.log(population_cost(space, drawn).macs), count)[1:-1]
    return space.decode(np.concatenate([ends, drawn[chosen]]))


@dataclass(frozen=True)
class VitConfig:
    """Arguments of a timm `VisionTransformer`."""

    img_size: int
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    num_classes: int

    @property
    def macs(self) -> int:
        """About its multiply-accumulates; the traced graph has the exact number."""
        tokens, width = (self.img_size // self.patch_size) ** 2 + 1, self.embed_dim
        linear = tokens * width * width * (4 + 2 * self.mlp_ratio)
        return int(self.depth * (linear + 2 * tokens * tokens * width))


def _spread_vits(count: int, seed: int) -> list[VitConfig]:
    generator = np.random.default_rng(seed)
    drawn = [_random_vit(generator) for _ in range(CANDIDATES)]
    return [drawn[position] for position in _spread(np.log([config.macs for config in drawn]), count)]


def _random_vit(generator: np.random.Generator) -> VitConfig:
    """Patches are small on small images, so that there are 16 to 257 tokens."""
    side = int(generator.choice([32, 96, 128, 160, 192, 224]))
    patch = 4 if side == 32 else int(generator.choice([8, 16])) if side <= 128 else 16
    heads = int(generator.choice([3, 4, 6, 8]))
    return VitConfig(
        img_size=side,
        patch_size=patch,
        embed_dim=heads * int(generator.choice([32, 48, 64])),
        depth=int(generator.integers(4, 15)),
        num_heads=heads,
        mlp_ratio=float(generator.choice([2, 3, 3.5, 4])),
        num_classes=int(generator.choice([10, 100, 1000])),
    )


def _vit_sample(number: int, config: VitConfig) -> Sample:
    import torch

    from latency_tables.trace import trace

    name, build = f"{VIT}/{number}", functools.partial(_build_vit, config)

    def lower() -> OpGraph:
        with torch.device("meta"):
            module = build()
        return trace(module, (3, config.img_size, config.img_size), name)

    return Sample(name, build, lower, config.img_size)


def _build_vit(config: VitConfig) -> nn.Module:
    from timm.models import VisionTransformer

    network: nn.Module = VisionTransformer(**asdict(config))
    return network


def _space_sample(space: SearchSpace, number: int, architecture: Architecture) -> Sample:
    def build() -> nn.Module:
        from supernets import build_network, family_of

        return family_of(space).deploy(build_network(space, architecture))

    side = space.input_shape(dict(architecture.settings))[-1]
    return Sample(f"{space.name}/{number}", build, functools.partial(space.lower, architecture), side)


def _spread(log_macs: npt.NDArray[np.float64], count: int) -> Sequence[int]:
    """Positions whose values are spread evenly between the ends, each taken once."""
    chosen: list[int] = []
    for goal in np.linspace(log_macs.min(), log_macs.max(), count):
        distance = np.abs(log_macs - goal)
        distance[chosen] = np.inf
        chosen.append(int(np.argmin(distance)))
    return chosen
