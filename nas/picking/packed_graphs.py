"""Op graphs of many networks in one small file of numbers.

Networks of a family repeat operators and blocks, so every distinct operator and every distinct run of operators is kept
once. A run ends where nothing but its last result flows on and no runtime fuses across: see `_is_seam`. Unpacked, runs
are the blocks of the op graphs, and equal runs are one object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.graph import SOURCE, Op, OpGraph, Shape

Arrays = Mapping[str, npt.NDArray[Any]]


class GraphPacker:
    """Collects op graphs; `arrays` holds them all."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}
        self._shapes: dict[Shape, int] = {}
        self._operators: dict[tuple[Any, ...], int] = {}
        self._runs: dict[tuple[int, ...], int] = {}
        self._graphs: dict[tuple[Any, ...], int] = {}

    def add(self, graph: OpGraph) -> int:
        """The number of a graph of one block, as `latency_tables.trace.trace` gives it; that of an equal one before."""
        ((_, ops),) = graph.blocks
        position = {op.name: number for number, op in enumerate(ops)}
        numbers = [self._operator(op, number, position) for number, op in enumerate(ops)]
        ends = [*_seams(ops, position), len(ops)]
        starts = [0, *ends[:-1]]
        runs = [tuple(numbers[start:end]) for start, end in zip(starts, ends, strict=True) if end > start]
        found = tuple(self._runs.setdefault(run, len(self._runs)) for run in runs)
        return self._graphs.setdefault((graph.source_shape, found), len(self._graphs))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All graphs as arrays, for `numpy.savez_compressed`."""
        kinds, functions, windows, strides, macs, params, outputs, shapes, offsets = (
            list(column) for column in zip(*self._operators, strict=True)
        )
        return {
            "texts": np.array(list(self._texts)),
            **_ragged("shape", list(self._shapes)),
            "kind": np.array(kinds, dtype=np.int16),
            "function": np.array(functions, dtype=np.int16),
            "window": np.array(windows, dtype=np.int16),
            "stride": np.array(strides, dtype=np.int16),
            "macs": np.array(macs, dtype=np.int64),
            "params": np.array(params, dtype=np.int64),
            "output": np.array(outputs, dtype=np.int32),
            **_ragged("input", shapes),
            **_ragged("offset", offsets),
            **_ragged("run", list(self._runs)),
            **_ragged("graph", [runs for _, runs in self._graphs]),
            "source": np.array([source for source, _ in self._graphs], dtype=np.int32),
        }

    def _operator(self, op: Op, number: int, position: Mapping[str, int]) -> int:
        offsets = tuple(0 if name == SOURCE else number - position[name] for name in op.inputs)
        key = (
            self._texts.setdefault(op.kind, len(self._texts)),
            self._texts.setdefault(op.function, len(self._texts)),
            op.kernel,
            op.stride,
            op.macs,
            op.params,
            self._shape(op.output_shape),
            tuple(map(self._shape, op.input_shapes)),
            offsets,
        )
        return self._operators.setdefault(key, len(self._operators))

    def _shape(self, shape: Shape) -> int:
        return self._shapes.setdefault(tuple(shape), len(self._shapes))


def unpack(path: Path) -> list[OpGraph]:
    """The op graphs of a file of arrays, by number; runs are their blocks."""
    with np.load(path, allow_pickle=False) as arrays:
        packed = {name: arrays[name] for name in arrays.files}
    texts: list[str] = packed["texts"].tolist()
    shapes = _rows(packed, "shape")
    columns = (packed[name].tolist() for name in ("kind", "function", "window", "stride", "macs", "params", "output"))
    operators = list(zip(*columns, _rows(packed, "input"), _rows(packed, "offset"), strict=True))
    runs: list[tuple[Op, ...]] = []
    for run in _rows(packed, "run"):
        ops = []
        for number, operator in enumerate(run):
            kind, function, window, stride, macs, params, output, inputs, offsets = operators[operator]
            ops.append(
                Op(
                    f"{number}",
                    texts[kind],
                    tuple(f"{number - offset}" if 0 < offset <= number else SOURCE for offset in offsets),
                    tuple(shapes[shape] for shape in inputs),
                    shapes[output],
                    texts[function],
                    window,
                    stride,
                    macs,
                    params,
                )
            )
        runs.append(tuple(ops))
    return [
        OpGraph([(f"{place}", runs[run]) for place, run in enumerate(found)], tuple(source))
        for found, source in zip(_rows(packed, "graph"), packed["source"].tolist(), strict=True)
    ]


def _seams(ops: Sequence[Op], position: Mapping[str, int]) -> list[int]:
    """The numbers of the operators that a run begins with, but for the first."""
    readers: list[list[int]] = [[] for _ in ops]
    reach = -1
    for number, op in enumerate(ops):
        for name in op.inputs:
            if name == SOURCE:
                reach = number
            else:
                readers[position[name]].append(number)
    seams = []
    for number, op in enumerate(ops):
        if reach <= number and _is_seam(op, [ops[reader] for reader in readers[number]]):
            seams.append(number + 1)
        reach = max([reach, *readers[number]])
    return seams


def _is_seam(op: Op, readers: Sequence[Op]) -> bool:
    """Whether fusion on either side of ``op`` cannot depend on the other side.

    Nothing absorbs what has two readers, and runtimes look through moves and constant factors alone, see
    `latency_tables.kernels.fuse`. Where tensors stay in integers from kernel to kernel, networks are fused as a whole.
    """
    is_looked_through = op.kind == "reshape" or (op.kind == "multiply" and len(op.inputs) == 1)
    return len(readers) > 1 and not is_looked_through and all(reader.kind != "reshape" for reader in readers)


def _ragged(name: str, rows: Iterable[Sequence[int]]) -> dict[str, npt.NDArray[Any]]:
    """Rows of different lengths: all numbers, and where each row ends."""
    kept = [list(row) for row in rows]
    ends = np.cumsum([len(row) for row in kept], dtype=np.int32)
    return {name: np.array([number for row in kept for number in row], dtype=np.int32), f"{name}_ends": ends}


def _rows(packed: Arrays, name: str) -> list[tuple[int, ...]]:
    numbers, ends = packed[name].tolist(), packed[f"{name}_ends"].tolist()
    return [tuple(numbers[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
