"""The MAC formula behind ElasticViT's complexity levels and published figures.

Source: the reference implementation of Tang et al., ICCV 2023. It leaves out squeeze-and-excitation and some
shortcuts, counts the softmax and takes the input of a strided block to be exactly twice its output, so it lies 0.4 to
3 % beside the operator count of `population_cost`. Use it for the paper's levels and for nothing else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from search_spaces.elastic import ENTRY_EXPANSION, ENTRY_KERNEL, HEAD_WIDTH, ElasticSpace, Stage
from search_spaces.space import Genotypes

Counts = npt.NDArray[np.int64]


def reference_macs(space: ElasticSpace, genotypes: Genotypes) -> dict[str, Counts]:
    """The paper's multiply-accumulates of each part (`stem`, the stages, `head`), ``[n]`` each.

    Args:
        space: A space of the ElasticViT family.
        genotypes: ``[n, c]``.
    """
    formula = _Formula(space, genotypes)
    parts = {"stem": formula.stem()}
    for stage in space.definition.stages:
        parts[stage.name] = formula.transformer(stage) if stage.is_transformer else formula.convolution(stage)
    parts["head"] = formula.head()
    return parts


def reference_macs_total(space: ElasticSpace, genotypes: Genotypes) -> Counts:
    """The paper's multiply-accumulates of each genotype, ``[n]``."""
    total: Counts = np.sum(list(reference_macs(space, genotypes).values()), axis=0, dtype=np.int64)
    return total


class _Formula:
    def __init__(self, space: ElasticSpace, genotypes: Genotypes) -> None:
        self.space = space
        self.values = {choice.name: space.values(genotypes, choice.name) for choice in space.choices}
        self.previous_width = self.values["stem.width"]
        self.side = -(-self.values["input.side"] // space.definition.stem_stride)

    def stem(self) -> Counts:
        """First convolution and separable blocks; the kernel of the first block counts for all."""
        width, kernel = self.values["stem.width"], self.values["stem.kernel"]
        side = self.values["input.side"] // self.space.definition.stem_stride
        blocks = self.values["stem.depth"] * (width * kernel**2 + width**2)
        return np.asarray((27 * width + blocks) * side**2, dtype=np.int64)

    def convolution(self, stage: Stage) -> Counts:
        """Inverted residual blocks, squeeze-and-excitation and strided shortcuts included."""
        width, expansion, kernel, depth = (
            self.values[f"{stage.name}.{choice}"] for choice in ("width", "expansion", "kernel", "depth")
        )
        first = self._conv_block(width, expansion, kernel, stage.stride, stage.squeeze_excite, shortcut=True)
        other = self._conv_block(width, expansion, kernel, 1, stage.squeeze_excite, shortcut=True)
        return np.asarray(first + (depth - 1) * other, dtype=np.int64)

    def transformer(self, stage: Stage) -> Counts:
        """The stage's entry, without its gate and shortcut, then attention and feed-forward layers."""
        width, ratio, scale, depth = (
            self.values[f"{stage.name}.{choice}"] for choice in ("width", "mlp_ratio", "v_scale", "depth")
        )
        entry = self._conv_block(width, ENTRY_EXPANSION, ENTRY_KERNEL, stage.stride, False, shortcut=False)
        tokens, heads, value_width = self.side**2, width // HEAD_WIDTH, scale * width
        projections = (width * (2 * width + value_width) + value_width * width + value_width) * tokens
        products = heads * (HEAD_WIDTH + 1 + HEAD_WIDTH * scale) * tokens**2
        feed_forward = 2 * width * ratio * width * tokens
        return np.asarray(entry + depth * (projections + products + feed_forward), dtype=np.int64)

    def head(self) -> Counts:
        """Three linear layers, the first of them on every token."""
        definition, width = self.space.definition, self.previous_width
        hidden, features = width * definition.head_expansion, definition.head_features
        widen = width * hidden * self.side**2
        return np.asarray(widen + hidden * features + features * self.space.classes, dtype=np.int64)

    def _conv_block(
        self,
        width: Counts,
        expansion: Counts | int,
        kernel: Counts | int,
        stride: int,
        squeeze_excite: bool,
        shortcut: bool,
    ) -> Counts:
        in_width, hidden = self.previous_width, self.previous_width * expansion
        self.side = -(-self.side // stride)
        self.previous_width = width
        in_side = self.side * stride
        macs = in_width * hidden * in_side**2 + hidden * (kernel**2 + width) * self.side**2
        if squeeze_excite:
            macs = macs + 2 * hidden * (hidden // 4)
        if shortcut and stride > 1:
            macs = macs + in_width * width * self.side**2
        return np.asarray(macs, dtype=np.int64)
