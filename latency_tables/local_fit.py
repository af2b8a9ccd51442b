"""From measured networks and their profiles to kernel times: one joint fit.

The profiler's own time is some microseconds per node, more than small kernels take, so neither source is enough alone:
whole networks, measured without profiler, say how much all kernels take together, and profiles say how it is shared
out. Both are fitted at once by non-negative least squares in relative error, with one number for the profiler's time
per node. A kernel's stored time leans on its own profile where it is long beside what the profiler disturbs, and on its
class's roofline where it is short. A class with many kernels has two rooflines: bytes that the cache still holds cost
less. Legend of array suffixes: f features of all classes, side by side.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latency_tables.errors import CalibrationError
from latency_tables.kernels import SMALL, Kernel
from latency_tables.predictor import KernelPrices
from latency_tables.profile import KernelSample
from latency_tables.table import KernelEntry, Roofline
from latency_tables.table_validation import Features

Array = npt.NDArray[np.float64]

BYTES_PER_ELEMENT = 4
FEWEST_NETWORKS = 4
_PROFILE_WEIGHT = 0.1
"""Weight of all profiled kernels together beside all measured networks (square root of the weight in the squares)."""
_RESOLUTION_MS = 0.003
"""What a profiled time is uncertain by, beyond a share of itself."""
_DISTURBANCE_MS = 0.3
"""Time per node up to which a kernel's stored time leans on its class rather than on its own profile.

Chosen on two spaces, each on a quieter and a busier machine: held-out error was lower for 0.3 than for 0.02 or 0.1 on
the large space (2.9 against 4.5 and 3.5 % when busy) and the same on the small one.
"""
_FEWEST_OF_A_SIZE = 40
"""Distinct kernels, small and large ones each, from which on a class has a roofline for either."""
_UNITS = np.array([1.0, 1e-6, 1e-6, 1e-6])  # of the features inside the fit, so that numbers are of one order
_DEFAULT_FACTORS = (0.5, 2.0)


@dataclass(frozen=True)
class Observation:
    """One network as it was measured.

    Attributes:
        kernels: Its kernels after fusion.
        samples: The profiled times of its kernels.
    """

    name: str
    macs: int
    kernels: tuple[Kernel, ...]
    measured_ms: float
    samples: tuple[KernelSample, ...]


@dataclass(frozen=True)
class LocalFit:
    """Kernel times and what turns their sum into a network's time.

    Attributes:
        profiler_ms: The profiler's own time per node.
    """

    rooflines: tuple[Roofline, ...]
    kernels: tuple[KernelEntry, ...]
    scale: float
    overhead_ms: float
    profiler_ms: float

    def milliseconds(self, kernels: Sequence[Kernel]) -> float:
        """The predicted time of a network."""
        prices = KernelPrices(self.rooflines, self.kernels, BYTES_PER_ELEMENT)
        return self.scale * sum(prices(kernel).ms for kernel in kernels) + self.overhead_ms


def fit_local(observations: Sequence[Observation]) -> LocalFit:
    """Fit kernel times to the observations.

    Raises:
        CalibrationError: There are fewer than `FEWEST_NETWORKS`.
    """
    if len(observations) < FEWEST_NETWORKS:
        raise CalibrationError(
            f"{len(observations)} measured networks, expected at least {FEWEST_NETWORKS}",
            "sample more networks of the space",
        )
    samples = _by_key(observations)
    classes = _classes(observations)
    rates_f, profiler_ms = _joint_rates(observations, samples, classes)
    rooflines = [
        _roofline(op, rates_f[4 * row : 4 * row + 4], kernels, samples, profiler_ms)
        for row, (op, kernels) in enumerate(classes.items())
    ]
    everything = {kernel.key: kernel for observation in observations for kernel in observation.kernels}
    other = _roofline("other", _common_rates(rooflines, everything), everything, samples, profiler_ms)
    prices = KernelPrices([*rooflines, other], (), BYTES_PER_ELEMENT)
    entries = tuple(_entry(key, group, prices, profiler_ms) for key, group in sorted(samples.items()))
    scale, overhead = _scale_and_overhead(observations, KernelPrices([*rooflines, other], entries, BYTES_PER_ELEMENT))
    return LocalFit((*rooflines, other), entries, scale, overhead, profiler_ms)


def _by_key(observations: Sequence[Observation]) -> dict[str, list[KernelSample]]:
    samples: dict[str, list[KernelSample]] = defaultdict(list)
    for observation in observations:
        for sample in observation.samples:
            samples[sample.kernel.key].append(sample)
    return samples


def _classes(observations: Sequence[Observation]) -> dict[str, dict[str, Kernel]]:
    """The distinct kernels of each class by their keys; classes with enough of both are split into small and large."""
    classes: dict[str, dict[str, Kernel]] = defaultdict(dict)
    for observation in observations:
        for kernel in observation.kernels:
            classes[kernel.op + SMALL * kernel.is_small(BYTES_PER_ELEMENT)][kernel.key] = kernel
    for op in {name.removesuffix(SMALL) for name in classes}:
        if min(len(classes[op]), len(classes[op + SMALL])) < _FEWEST_OF_A_SIZE:
            classes[op] |= classes.pop(op + SMALL)
    return dict(sorted(classes.items()))


def _features(kernel: Kernel) -> Array:
    return np.asarray(np.array(kernel.features(BYTES_PER_ELEMENT)) * _UNITS)


def _joint_rates(
    observations: Sequence[Observation], samples: dict[str, list[KernelSample]], classes: dict[str, dict[str, Kernel]]
) -> tuple[Array, float]:
    """The rates of all classes, ``[f]``, and the profiler's time per node; milliseconds per unit of feature."""
    from scipy.optimize import nnls

    columns = {key: slice(4 * row, 4 * row + 4) for row, kernels in enumerate(classes.values()) for key in kernels}
    profiler = 4 * len(classes)
    rows, targets = [], []
    for observation in observations:
        row = np.zeros(profiler + 1)
        for kernel in observation.kernels:
            row[columns[kernel.key]] += _features(kernel)
        rows.append(row / observation.measured_ms)
        targets.append(1.0)
    weight = _PROFILE_WEIGHT * np.sqrt(len(observations) / max(len(samples), 1))
    for group in samples.values():
        ms, nodes = _profiled(group)
        row = np.zeros(profiler + 1)
        row[columns[group[0].kernel.key]] = _features(group[0].kernel)
        row[profiler] = nodes
        rows.append(weight * row / (ms + _RESOLUTION_MS))
        targets.append(weight * ms / (ms + _RESOLUTION_MS))
    rates, _ = nnls(np.array(rows), np.array(targets), maxiter=100 * len(rows))
    return np.asarray(rates[:profiler] * np.tile(_UNITS, len(classes))), float(rates[profiler])


def _profiled(group: Sequence[KernelSample]) -> tuple[float, float]:
    """Median time and number of nodes of a kernel's samples."""
    return statistics.median(sample.ms for sample in group), statistics.median(sample.nodes for sample in group)


def _common_rates(rooflines: Sequence[Roofline], kernels: dict[str, Kernel]) -> Array:
    """Rates for classes that were not measured: one fit over all kernels as their own classes price them."""
    from scipy.optimize import nnls

    prices = KernelPrices(rooflines, (), BYTES_PER_ELEMENT)
    times = np.array([max(prices(kernel).ms, 1e-6) for kernel in kernels.values()])
    design = np.array([_features(kernel) for kernel in kernels.values()])
    rates, _ = nnls(design / times[:, None], np.ones(len(times)))
    return np.asarray(rates * _UNITS)


def _roofline(
    op: str, rates: Array, kernels: dict[str, Kernel], samples: dict[str, list[KernelSample]], profiler_ms: float
) -> Roofline:
    features = np.array([kernel.features(BYTES_PER_ELEMENT) for kernel in kernels.values()])
    lowest, highest = _four(features.min(axis=0)), _four(features.max(axis=0))
    ratios = []
    for key, kernel in kernels.items():
        predicted = float(np.dot(rates, kernel.features(BYTES_PER_ELEMENT)))
        ms, nodes = _profiled(samples[key]) if key in samples else (0.0, 0.0)
        if predicted > 0 and ms - profiler_ms * nodes > 3 * _RESOLUTION_MS:
            ratios.append((ms - profiler_ms * nodes) / predicted)
    low, high = np.percentile(ratios, [5, 95]) if len(ratios) >= 8 else _DEFAULT_FACTORS
    return Roofline(
        op=op,
        launch_us=rates[0] * 1e3,
        ms_per_million_macs=rates[1] * 1e6,
        ms_per_megabyte_read=rates[2] * 1e6,
        ms_per_megabyte_written=rates[3] * 1e6,
        lowest=lowest,
        highest=highest,
        direct=op != "other",
        low=min(float(low), 1.0),
        high=max(float(high), 1.0),
        n_fit=len(kernels),
        intensity=_intensity(features),
    )


def _intensity(features: Array) -> tuple[float, float]:
    ratios = features[:, 1] / np.maximum(features[:, 2], 1.0)
    return float(ratios.min()), float(ratios.max())


def _four(values: Array) -> Features:
    launches, macs, read, written = values.tolist()
    return launches, macs, read, written


def _entry(key: str, group: Sequence[KernelSample], prices: KernelPrices, profiler_ms: float) -> KernelEntry:
    kernel = group[0].kernel
    own = np.array([max(sample.ms - profiler_ms * sample.nodes, 0.0) for sample in group])
    profiled, expected = float(np.median(own)), prices(kernel).ms
    trust = profiled**2 / (profiled**2 + (_DISTURBANCE_MS * max(1, _profiled(group)[1])) ** 2)
    quarter, three_quarters, high = np.percentile(own, [25, 75, 95])
    return KernelEntry(
        op=kernel.op,
        key=key,
        features=kernel.features(BYTES_PER_ELEMENT),
        median_ms=trust * profiled + (1 - trust) * expected,
        iqr_ms=float(three_quarters - quarter),
        min_ms=float(own.min()),
        p95_ms=float(high),
        runs=sum(sample.runs for sample in group),
        networks=len(group),
        how="in_situ",
    )


def _scale_and_overhead(observations: Sequence[Observation], prices: KernelPrices) -> tuple[float, float]:
    from scipy.optimize import nnls

    sums = np.array([sum(prices(kernel).ms for kernel in observation.kernels) for observation in observations])
    measured = np.array([observation.measured_ms for observation in observations])
    design = np.column_stack([sums, np.ones(len(sums))]) / measured[:, None]
    (scale, overhead), _ = nnls(design, np.ones(len(sums)))
    return float(scale), float(overhead)
