"""Operators of blocks of many sizes from a few traced ones, exactly.

Every number of an operator (a side of a shape, its MACs, its parameters) is a polynomial of the block's sizes. For
almost all blocks it is of degree one in each size, and sizes meet in products only with the width: heads with the width
in the attention, hidden units with the width behind it; where the width of heads varies too, with their number and
with both. Such a polynomial is known everywhere once it is known at twice
as many points as there are sizes. A few blocks have two widths, or squares, as those that mix their heads: there any
polynomial of degree two is asked for, which takes more points. Either is checked at a point in between; a block whose
numbers are of another kind is traced at every size instead. The same block on other numbers of tokens has polynomials
of degree two of these, too, so three numbers of tokens tell of all others, which is checked for each at one size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, islice
from math import lcm, prod

import numpy as np
import numpy.typing as npt

from search_spaces.graph import Op

Sizes = tuple[int, ...]
Trace = Callable[[Sizes], tuple[Op, ...]]


class SizedOps:
    """The operators of one block as a function of its sizes.

    Args:
        trace: Gives the operators at given sizes; costly.
        values: Candidate values of every size, ascending; the width comes first.
        degree: Degree of the polynomials, where it is known, 0 for numbers of another kind; None finds out.
        products: Further sizes, by their places, that meet in products; with each of them what is left of it without
            one.

    Attributes:
        degree: 1 for products with the width, 2 for any of two sizes, 0 where every size is traced.
    """

    def __init__(
        self,
        trace: Trace,
        values: Sequence[tuple[int, ...]],
        degree: int | None = None,
        products: Sequence[tuple[int, ...]] = (),
    ) -> None:
        self._trace = trace
        self._products = products
        self._values = [tuple(sizes) for sizes in values]
        self._known: dict[Sizes, tuple[Op, ...]] = {}
        self._points: dict[Sizes, tuple[Op, ...]] = {}
        self._numbers: dict[Sizes, npt.NDArray[np.int64]] = {}
        self.degree = 0
        for tried in (1, 2) if degree is None else (degree,):
            if self._holds(tried, is_known=degree is not None):
                self.degree = tried
                break

    @property
    def is_polynomial(self) -> bool:
        """Whether a few points tell all; otherwise every size is traced."""
        return self.degree > 0

    def __call__(self, sizes: Sizes) -> tuple[Op, ...]:
        """The operators at ``sizes``, which lie within the ranges."""
        if sizes not in self._known:
            self._known[sizes] = self._combined(sizes, self.degree) if self.degree else self._trace(sizes)
        return self._known[sizes]

    @staticmethod
    def on_tokens(samples: Mapping[int, SizedOps], tokens: int, trace: Trace) -> SizedOps | None:
        """The operators of the same block on another number of tokens; None where that cannot be told.

        Args:
            samples: The block's operators by number of tokens, three of them.
            tokens: Another number.
            trace: Gives the operators on so many tokens, to check with.
        """
        forms = {tuple(map(_form, ops._points[point])) for ops in samples.values() for point in ops._points}
        if len(forms) > 1 or len({ops.degree for ops in samples.values()}) > 1:
            return None
        found = copy.copy(next(iter(samples.values())))
        if not found.is_polynomial:
            return None
        weights = [
            prod((Fraction(tokens - other, own - other) for other in samples if other != own), start=Fraction(1))
            for own in samples
        ]
        found._trace, found._known = trace, {}
        found._numbers = {
            point: _weighted(weights, np.stack([ops._numbers[point] for ops in samples.values()]))
            for point in found._numbers
        }
        between = found._between()
        return found if found._combined(between, found.degree) == trace(between) else None

    def _holds(self, degree: int, *, is_known: bool) -> bool:
        """Whether the numbers are polynomials of a degree that takes fewer traces than there are sizes."""
        if degree == 0:
            return False
        points = list(self._weights(self._point({}), degree))
        if degree > 1 and len(points) >= prod(map(len, self._values)):
            return False
        self._points |= {point: self._trace(point) for point in points if point not in self._points}
        self._numbers = {point: np.array(list(_numbers(ops)), np.int64) for point, ops in self._points.items()}
        if len({tuple(_form(op) for op in self._points[point]) for point in points}) > 1:
            return False
        between = self._between()
        return is_known or self._combined(between, degree) == self._trace(between)

    def _combined(self, sizes: Sizes, degree: int) -> tuple[Op, ...]:
        weights = {point: weight for point, weight in self._weights(sizes, degree).items() if weight}
        numbers = _weighted(list(weights.values()), np.stack([self._numbers[point] for point in weights]))
        return tuple(_with_numbers(self._points[self._point({})], iter(numbers.tolist())))

    def _weights(self, sizes: Sizes, degree: int) -> dict[Sizes, Fraction]:
        """What each point counts for at ``sizes``.

        Points are the largest sizes but for one or two that are at their least, and in degree two for one that is in
        the middle. With the share t of a size (0 at its largest, 1 at its least) and m that of its middle, the
        polynomial is a sum of terms t, t (t - 1) and products of several t.
        """
        spans = [(axis, sizes_of[0], sizes_of[-1]) for axis, sizes_of in enumerate(self._values)]
        share = {axis: Fraction(high - sizes[axis], high - low) for axis, low, high in spans if high > low}
        pairs = [pair for pair in combinations(share, 2) if degree > 1 or 0 in pair]
        further = [places for places in self._products if share.keys() >= set(places)]
        weights: dict[Sizes, Fraction] = {self._point({}): Fraction(1)}

        def add(lowered: Mapping[int, int], weight: Fraction) -> None:
            point = self._point(lowered)
            weights[point] = weights.get(point, Fraction(0)) + weight

        for places in dict.fromkeys([*((axis,) for axis in share), *pairs, *further]):
            term = prod((share[axis] for axis in places), start=Fraction(1))
            for count in range(len(places) + 1):
                for least in combinations(places, count):
                    add(dict.fromkeys(least, 0), term * (-1) ** (len(places) - count))
        for axis, t in share.items() if degree > 1 else ():
            if len(self._values[axis]) > 2:
                low, high, middle = self._values[axis][0], self._values[axis][-1], len(self._values[axis]) // 2
                m = Fraction(high - self._values[axis][middle], high - low)
                curved = t * (t - 1) / (m * (m - 1))
                add({axis: middle}, curved)
                add({axis: 0}, -curved * m)
                add({}, curved * (m - 1))
        return weights

    def _between(self) -> Sizes:
        return tuple(sizes[(len(sizes) - 1) // 2] for sizes in self._values)

    def _point(self, lowered: Mapping[int, int]) -> Sizes:
        """The largest sizes, but for the ``lowered`` axes those with the numbers given."""
        return tuple(sizes[lowered.get(axis, -1)] for axis, sizes in enumerate(self._values))


def _weighted(weights: Sequence[Fraction], numbers_PN: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    parts = lcm(*(weight.denominator for weight in weights))
    terms_P = np.array([int(weight * parts) for weight in weights])
    if float(np.abs(terms_P) @ numbers_PN.max(axis=1)) >= np.iinfo(np.int64).max:
        terms_P = terms_P.astype(object)  # Python's own numbers have no end
    return (terms_P @ numbers_PN // parts).astype(np.int64)


def _form(op: Op) -> tuple[object, ...]:
    ranks = tuple(len(shape) for shape in op.input_shapes)
    return (op.name, op.kind, op.inputs, op.function, op.kernel, op.stride, ranks, len(op.output_shape))


def _numbers(ops: Sequence[Op]) -> Iterator[int]:
    """All numbers of operators that depend on sizes, in a row."""
    for op in ops:
        for shape in (*op.input_shapes, op.output_shape):
            yield from shape
        yield from (op.macs, op.params)


def _with_numbers(ops: Sequence[Op], numbers: Iterator[int]) -> Iterator[Op]:
    """Operators with other numbers, in the order of `_numbers`."""
    for op in ops:
        *inputs, output = (tuple(islice(numbers, len(shape))) for shape in (*op.input_shapes, op.output_shape))
        yield replace(op, input_shapes=tuple(inputs), output_shape=output, macs=next(numbers), params=next(numbers))
