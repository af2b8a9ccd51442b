"""The interval for networks of other groups: each family predicted by a fit that has not seen it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latency_tables import fuse
from latency_tables.foreign_fit import family_of, foreign_interval
from latency_tables.kernels import ONNX_RUNTIME
from latency_tables.local_fit import Observation
from latency_tables.profile import KernelSample
from latency_tables.table_validation import Interval
from search_spaces import get_space

ALIKE = {"a": 1.0, "b": 1.0, "c": 1.0}
OWN = Interval(low=-0.01, high=0.01, coverage=0.9)


def observations(factors: dict[str, float]) -> list[Observation]:
    """Four networks of `elastic-mini` in each family, which take so many times what their kernels say."""
    space = get_space("elastic-mini")
    genotypes = space.sample(4 * len(factors), np.random.default_rng(0))
    found = []
    for number, architecture in enumerate(space.decode(genotypes)):
        family = list(factors)[number % len(factors)]
        graph = space.lower(architecture)
        kernels = tuple(kernel for _, ops in graph.blocks for kernel in fuse(ops, ONNX_RUNTIME))
        samples = tuple(KernelSample(kernel, _ms(kernel.macs), 1, 10) for kernel in kernels)
        total = sum(_ms(kernel.macs) for kernel in kernels)
        found.append(Observation(f"broad/{family}-{number}", graph.macs, kernels, factors[family] * total, samples))
    return found


def _ms(macs: int) -> float:
    return 0.02 + 1e-7 * macs


def test_a_family_is_a_group_or_a_kind_within_one() -> None:
    names = {"elastic/3": "elastic", "broad/windows-5": "broad/windows", "timm:vit_a?depth=2/0": "timm:vit_a?depth=2"}
    assert {name: family_of(name) for name in names} == names


def test_the_interval_holds_for_families_that_the_fit_has_not_seen() -> None:
    found = foreign_interval(observations({"a": 1.0, "b": 1.0, "c": 1.4}), OWN)
    assert found is not None
    assert found.high > 0.3  # the slower family, by a fit to the others
    assert found.low < -0.05  # the others, by a fit with the slower one
    alike = foreign_interval(observations(ALIKE), OWN)
    assert alike is not None
    assert alike.high < 0.1
    assert alike.high >= OWN.high
    assert alike.low <= OWN.low


def test_few_families_do_not_tell() -> None:
    assert foreign_interval(observations({"a": 1.0, "b": 1.2}), OWN) is None
    unlike = [replace(each, macs=each.macs * 100 ** (number % 3)) for number, each in enumerate(observations(ALIKE))]
    assert foreign_interval(unlike, OWN) is None  # each family is of another size than the others


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_it_is_never_narrower_than_among_the_fitted_groups(factor: float) -> None:
    wide = Interval(low=-0.6, high=3.0, coverage=0.9)
    found = foreign_interval(observations({"a": 1.0, "b": 1.0, "c": factor}), wide)
    assert found == wide
