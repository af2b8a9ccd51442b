"""Which of several networks to explore: the one that spends its MACs on width rather than on depth.

Source: performance-aware sampling of Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast
Vision Transformer on Diverse Mobile Devices", ICCV 2023, arXiv 2303.09730.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture, Genotypes, SearchSpace
from search_spaces.elastic import ElasticSpace
from supernets.sampling.levels import level_macs


def preference(space: SearchSpace, candidates: Sequence[Architecture], anchor: Architecture) -> npt.NDArray[np.int64]:
    """MACs ``[n]`` that each candidate has because it is deeper than ``anchor``, less those because it is wider.

    With the anchor's widths in its place a candidate has ``F_w`` MACs, with the anchor's depths ``F_d``; the value is
    ``F_w - F_d``, and the lower one is preferred. Widths and depths are those of transformer stages in the ElasticViT
    family, elsewhere all choices named ``width`` or ``depth``; in a space that has none all candidates are equal.
    """
    genotypes_nc, anchor_1c = space.encode(candidates), space.encode([anchor])
    without_width = _with_choices(space, genotypes_nc, anchor_1c, "width")
    without_depth = _with_choices(space, genotypes_nc, anchor_1c, "depth")
    return np.asarray(level_macs(space, without_width) - level_macs(space, without_depth), dtype=np.int64)


def _with_choices(space: SearchSpace, genotypes_nc: Genotypes, anchor_1c: Genotypes, kind: str) -> Genotypes:
    replaced: Genotypes = genotypes_nc.copy()
    columns = _columns(space, kind)
    replaced[:, columns] = anchor_1c[:, columns]
    return replaced


def _columns(space: SearchSpace, kind: str) -> list[int]:
    if isinstance(space, ElasticSpace):
        names = [f"{stage.name}.{kind}" for stage in space.definition.stages if stage.is_transformer]
        return [space.columns[name] for name in names]
    return [column for name, column in space.columns.items() if name.rpartition(".")[2] == kind]
