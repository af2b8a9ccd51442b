"""Which exits a network gets and when it leaves by them, from logits that are computed once.

Images of the search part are halved. The first half fits a temperature for each exit and chooses places and kinds; the
second half fixes the threshold: from 1 down, the last one in front of the first whose loss of accuracy cannot be shown
to be small enough. Nothing of this looks at other images.

Sources: temperatures: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599; thresholds:
Jazbec et al., "Fast yet Safe: Early-Exiting with Risk Control", NeurIPS 2024, arXiv 2405.20915, by fixed-sequence
testing of one number of images (Clopper and Pearson, 1934).

Legend of array suffixes: N images, E exits, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.errors import NasError, UsageError

Floats = npt.NDArray[np.float64]
Place = tuple[int, str]
"""Number of the part in front of an exit, and the kind of the exit."""
LEVEL = 0.95
"""Confidence of upper ends."""
THRESHOLDS = (1.0, 0.9999, 0.999, 0.998, 0.995, *(round(0.99 - 0.01 * step, 2) for step in range(70)))


class NoExitError(NasError):
    """No exits keep to the bounds that were asked for."""

    exit_code = 3


@dataclass(frozen=True)
class Cost:
    """Milliseconds from the image to each end of a chain, exit by exit: predicted, and the upper ends."""

    ms_E: Floats
    high_ms_E: Floats


@dataclass(frozen=True)
class SeenLogits:
    """Logits of some images.

    Attributes:
        exits_NK: Logits of each exit.
        last_NK: Logits of the network.
        labels_N: Classes of the images.
    """

    exits_NK: Mapping[Place, Floats]
    last_NK: Floats
    labels_N: npt.NDArray[np.int64]

    def half(self, number: int) -> SeenLogits:
        """Every other image, from the first (0) or the second (1)."""
        every = slice(number, None, 2)
        exits = {place: logits[every] for place, logits in self.exits_NK.items()}
        return SeenLogits(exits, self.last_NK[every], self.labels_N[every])


@dataclass(frozen=True)
class ExitPlan:
    """Exits, and when they are taken.

    Attributes:
        places: The exits in order.
        temperatures: What the logits of each are divided by.
        threshold: An exit is taken where the largest probability lies above it.
        shares: Share of the images that leave by each exit, the network's own end last.
        expected_ms: Mean latency.
        expected_high_ms: Upper end of the mean latency: of the table, and of the shares.
        worst_ms: Latency of images that leave by no exit.
        worst_high_ms: Upper end of that.
        lost_high: Upper end of the share of images that the network is right on and an exit in front of it wrong.
    """

    places: tuple[Place, ...]
    temperatures: tuple[float, ...]
    threshold: float
    shares: tuple[float, ...]
    expected_ms: float
    expected_high_ms: float
    worst_ms: float
    worst_high_ms: float
    lost_high: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        found = {name: value for name, value in vars(self).items() if name != "places"}
        return {"places": [list(place) for place in self.places], **found}


def most_confident(logits_NK: Floats, temperature: float) -> Floats:
    """The largest probability of each image."""
    scaled_NK = logits_NK / temperature
    shifted_NK = np.exp(scaled_NK - scaled_NK.max(axis=1, keepdims=True))
    found: Floats = shifted_NK.max(axis=1) / shifted_NK.sum(axis=1)
    return found


def fit_temperature(logits_NK: Floats, labels_N: npt.NDArray[np.int64]) -> float:
    """The temperature with the least cross-entropy, from 1/20 to 20."""
    from scipy.optimize import minimize_scalar

    def cross_entropy(logarithm: float) -> float:
        scaled_NK = logits_NK / math.exp(logarithm)
        top_N = scaled_NK.max(axis=1)
        log_sums_N = np.log(np.exp(scaled_NK - top_N[:, None]).sum(axis=1)) + top_N
        return float((log_sums_N - scaled_NK[np.arange(len(labels_N)), labels_N]).mean())

    bound = math.log(20)
    return float(math.exp(minimize_scalar(cross_entropy, bounds=(-bound, bound), method="bounded").x))


def exits_taken(confidence_EN: Floats, threshold: float) -> npt.NDArray[np.int64]:
    """The exit ``(N,)`` that each image leaves by, from 0; their number for the end of the network."""
    is_sure_EN = confidence_EN > threshold
    return np.where(is_sure_EN.any(axis=0), is_sure_EN.argmax(axis=0), len(confidence_EN))


def upper_share(count: int, total: int) -> float:
    """Upper end of a share, of which ``count`` of ``total`` were seen."""
    from scipy.stats import beta

    return 1.0 if count >= total else float(beta.ppf(LEVEL, count + 1, total - count))


def images_needed(risk: float) -> int:
    """Images on which a loss below ``risk`` can be shown at all: by seeing none."""
    return math.ceil(math.log(1 - LEVEL) / math.log(1 - risk))


def check_risk(risk: float, images: int) -> None:
    """Make sure that half of the search part can show what is asked.

    Raises:
        UsageError: It cannot.
    """
    half, needed = images // 2, images_needed(risk)
    if half < needed:
        least = 1 - (1 - LEVEL) ** (1 / max(half, 1))
        raise UsageError(
            f"`exit_risk` is {risk:g}, which cannot be shown on half of the search part, {half} images, expected"
            f" {needed} or more",
            hint=f"give {math.ceil(1000 * least) / 1000:g} or more, or more images",
        )


class ExitChooser:
    """Enumerates exits of a network.

    Args:
        seen: Logits on the search part.
        cost: Places to the milliseconds of each end.
        risk: Accuracy that may be lost, as a share of the images.
    """

    def __init__(self, seen: SeenLogits, cost: Callable[[Sequence[Place]], Cost], risk: float) -> None:
        self._first, self._second, self._cost, self._risk = seen.half(0), seen.half(1), cost, risk
        self._temperatures = {
            place: fit_temperature(logits, self._first.labels_N) for place, logits in self._first.exits_NK.items()
        }
        self._known = {
            number: {
                place: (most_confident(logits, self._temperatures[place]), _lost(half, logits))
                for place, logits in half.exits_NK.items()
            }
            for number, half in enumerate((self._first, self._second))
        }

    def choose(self, most: int, limit_ms: float | None, expected_limit_ms: float | None) -> ExitPlan:
        """The exits of least mean latency, up to ``most`` of them.

        Args:
            most: Most exits.
            limit_ms: Limit on the upper end of the worst latency; None for none.
            expected_limit_ms: Limit on the upper end of the mean latency; None for none.

        Raises:
            NoExitError: No exits keep to the limits, or none is safe.
        """
        fits = [
            (self._least(places), places)
            for places in self._combinations(most)
            if limit_ms is None or self._cost(places).high_ms_E[-1] <= limit_ms
        ]
        if not fits:
            raise NoExitError(
                f"exits: the network with any exit takes more than {limit_ms:g} ms in the worst case",
                hint="raise the limit, or finish a faster network",
            )
        found = self.plan(min(fits)[1])
        if found.threshold == THRESHOLDS[0]:
            raise NoExitError(
                f"exits: none can be shown to lose less than {self._risk:.1%} of the images",
                hint="raise `exit_risk`, or finish the network for longer",
            )
        if expected_limit_ms is not None and found.expected_high_ms > expected_limit_ms:
            raise NoExitError(
                f"exits: the mean latency is {found.expected_ms:.3g} ms, at most {found.expected_high_ms:.3g} ms,"
                f" expected {expected_limit_ms:g} ms or less",
                hint="raise `exit_risk` or the limit, allow more exits, or finish a faster network",
            )
        return found

    def plan(self, places: tuple[Place, ...]) -> ExitPlan:
        """These exits with the threshold that the second half of the images allows."""
        confidence_EN, lost_EN = self._arrays(1, places)
        images, threshold, lost_high = confidence_EN.shape[1], THRESHOLDS[0], upper_share(0, confidence_EN.shape[1])
        for candidate in THRESHOLDS[1:]:
            high = upper_share(_count_lost(confidence_EN, lost_EN, candidate), images)
            if high > self._risk:
                break
            threshold, lost_high = candidate, high
        taken_N, cost = exits_taken(confidence_EN, threshold), self._cost(places)
        ends = len(places) + 1
        shares = np.bincount(taken_N, minlength=ends) / images
        going_on = [int((taken_N > end).sum()) for end in range(ends - 1)]
        steps = np.diff(cost.high_ms_E)
        high_ms = cost.high_ms_E[0] + sum(
            upper_share(count, images) * step for count, step in zip(going_on, steps, strict=True)
        )
        return ExitPlan(
            places=places,
            temperatures=tuple(self._temperatures[place] for place in places),
            threshold=threshold,
            shares=tuple(shares.tolist()),
            expected_ms=float(shares @ cost.ms_E),
            expected_high_ms=float(high_ms),
            worst_ms=float(cost.ms_E[-1]),
            worst_high_ms=float(cost.high_ms_E[-1]),
            lost_high=lost_high,
        )

    def _combinations(self, most: int) -> Iterator[tuple[Place, ...]]:
        kinds: dict[int, list[Place]] = {}
        for place in self._first.exits_NK:
            kinds.setdefault(place[0], []).append(place)
        for count in range(1, most + 1):
            for numbers in combinations(sorted(kinds), count):
                yield from product(*(kinds[number] for number in numbers))

    def _least(self, places: tuple[Place, ...]) -> float:
        """Least mean latency on the first half among the thresholds that lose no more than is allowed there."""
        confidence_EN, lost_EN = self._arrays(0, places)
        ms_E, most = self._cost(places).ms_E, self._risk * confidence_EN.shape[1]
        found = [float(ms_E[-1])]
        for threshold in THRESHOLDS[1:]:
            if _count_lost(confidence_EN, lost_EN, threshold) > most:
                break
            found.append(float(ms_E[exits_taken(confidence_EN, threshold)].mean()))
        return min(found)

    def _arrays(self, half: int, places: Sequence[Place]) -> tuple[Floats, npt.NDArray[np.bool_]]:
        known = [self._known[half][place] for place in places]
        return np.stack([confidence for confidence, _ in known]), np.stack([lost for _, lost in known])


def _lost(seen: SeenLogits, logits_NK: Floats) -> npt.NDArray[np.bool_]:
    """Images that the network is right on and an exit is wrong on."""
    is_right_N = seen.last_NK.argmax(axis=1) == seen.labels_N
    return np.asarray(is_right_N & (logits_NK.argmax(axis=1) != seen.labels_N))


def _count_lost(confidence_EN: Floats, lost_EN: npt.NDArray[np.bool_], threshold: float) -> int:
    taken_N = exits_taken(confidence_EN, threshold)
    padded = np.vstack([lost_EN, np.zeros((1, lost_EN.shape[1]), dtype=bool)])
    return int(padded[taken_N, np.arange(lost_EN.shape[1])].sum())
