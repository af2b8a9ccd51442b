"""Operators of blocks of many sizes from a few traced ones, exactly.

Every number of an operator (a side of a shape, its MACs, its parameters) is a polynomial of the block's sizes. For
almost all blocks it is of degree one in each size, and sizes meet in products only with the width: heads with the width
in the attention, hidden units with the width behind it. Such a polynomial is known everywhere once it is known at twice
as many points as there are sizes. That is checked at a point in between; a block whose numbers are of another kind is
traced at every size instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from search_spaces.graph import Op, Shape

Sizes = tuple[int, ...]
Trace = Callable[[Sizes], tuple[Op, ...]]


class SizedOps:
    """The operators of one block as a function of its sizes.

    Args:
        trace: Gives the operators at given sizes; costly.
        values: Candidate values of every size, ascending; the width comes first.
        is_polynomial: Whether the numbers are known to be as described, or not to be; None finds out.
    """

    def __init__(self, trace: Trace, values: Sequence[tuple[int, ...]], is_polynomial: bool | None = None) -> None:
        self._trace = trace
        self._spans = [(sizes[0], sizes[-1]) for sizes in values]
        self._points: dict[frozenset[int], tuple[Op, ...]] | None = None
        if is_polynomial is False:
            return
        points = {reduced: trace(self._sizes(reduced)) for reduced in _reduced_sets(self._spans)}
        if len({tuple(_form(op) for op in ops) for ops in points.values()}) > 1:
            return
        self._points = points
        between = tuple(sizes[len(sizes) // 2] for sizes in values)
        if is_polynomial is None and self(between) != trace(between):
            self._points = None

    @property
    def is_polynomial(self) -> bool:
        """Whether a few points tell all; otherwise every size is traced."""
        return self._points is not None

    def __call__(self, sizes: Sizes) -> tuple[Op, ...]:
        """The operators at ``sizes``, which lie within the ranges."""
        if self._points is None:
            return self._trace(sizes)
        weights = self._weights(sizes)
        terms = [(weights[reduced], ops) for reduced, ops in self._points.items() if weights[reduced]]
        return tuple(_combine([(weight, ops[index]) for weight, ops in terms]) for index in range(len(terms[0][1])))

    def _sizes(self, reduced: frozenset[int]) -> Sizes:
        """All sizes at their largest but for the ``reduced`` ones, which are at their least."""
        return tuple(span[0] if axis in reduced else span[1] for axis, span in enumerate(self._spans))

    def _weights(self, sizes: Sizes) -> dict[frozenset[int], Fraction]:
        """What each point counts for at ``sizes``."""
        shares = [
            Fraction(high - size, high - low) if high > low else Fraction(0)
            for size, (low, high) in zip(sizes, self._spans, strict=True)
        ]
        pairs = {axis: shares[0] * share for axis, share in enumerate(shares) if axis > 0}
        weights = {frozenset((0, axis)): share for axis, share in pairs.items()}
        weights |= {frozenset((axis,)): share - pairs.get(axis, Fraction(0)) for axis, share in enumerate(shares)}
        if shares:
            weights[frozenset((0,))] -= sum(pairs.values())
        weights[frozenset()] = 1 - sum(shares, Fraction(0)) + sum(pairs.values())
        return weights


def _reduced_sets(spans: Sequence[tuple[int, int]]) -> list[frozenset[int]]:
    free = [axis for axis, (low, high) in enumerate(spans) if high > low]
    pairs = [frozenset((0, axis)) for axis in free if axis > 0 and 0 in free]
    return [frozenset(), *(frozenset((axis,)) for axis in free), *pairs]


def _form(op: Op) -> tuple[object, ...]:
    ranks = tuple(len(shape) for shape in op.input_shapes)
    return (op.name, op.kind, op.inputs, op.function, op.kernel, op.stride, ranks, len(op.output_shape))


def _combine(terms: Sequence[tuple[Fraction, Op]]) -> Op:
    if len(terms) == 1:
        return terms[0][1]

    def number(values: Sequence[int]) -> int:
        return int(sum(weight * value for (weight, _), value in zip(terms, values, strict=True)))

    def shape(shapes: Sequence[Shape]) -> Shape:
        return tuple(number(sides) for sides in zip(*shapes, strict=True))

    ops = [op for _, op in terms]
    return replace(
        ops[0],
        input_shapes=tuple(shape(shapes) for shapes in zip(*(op.input_shapes for op in ops), strict=True)),
        output_shape=shape([op.output_shape for op in ops]),
        macs=number([op.macs for op in ops]),
        params=number([op.params for op in ops]),
    )
