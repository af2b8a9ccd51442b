"""Networks to check a table with: such as it has not seen, and a few that it was made from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from latency_tables.predictor import LatencyPredictor
from latency_tables.table import LatencyTable
from latency_tables.table_validation import ValidationRow
from nas.latency.predict import Prediction, predict_graph
from nas.latency.request import BuildRequest
from nas.latency.samples import is_group, latency_samples

SPARE = 2
"""A space's smallest and largest network are in every sample, so these are drawn beyond those asked for."""
MOST_AGAIN = 4
"""Networks of each group that are measured again although the table was made from them."""


@dataclass(frozen=True)
class DrawnNetwork:
    """Network ``number`` of a sample of ``count``, with its latency in the table where that was made from it."""

    group: str
    name: str
    number: int
    count: int
    seed: int
    prediction: Prediction
    then_ms: float | None = None


def fresh_networks(
    group: str, networks: int, seed: int, predictor: LatencyPredictor
) -> tuple[list[DrawnNetwork], list[str]]:
    """Networks of a group that the table was not made from, with their predictions, and the names of others drawn.

    Raises:
        UnknownNameError: There is no such group.
    """
    count = networks + SPARE
    fresh: list[DrawnNetwork] = []
    seen: list[str] = []
    for number, sample in enumerate(latency_samples(group, count, seed)):
        name = f"{sample.name} (seed {seed})"
        if is_own(group, sample.graph.macs, predictor.table):
            seen.append(name)
        elif len(fresh) < networks:
            shape = (3, sample.image_side, sample.image_side)
            prediction = predict_graph(predictor, name, shape, sample.graph, group)
            fresh.append(DrawnNetwork(group, name, number, count, seed, prediction))
    return fresh, seen


def largest_group(table: LatencyTable) -> list[str]:
    """The group that most of the table's networks are of."""
    return [name for name, _ in Counter(_group_of(row) for row in table.validation.rows).most_common(1)]


def _group_of(row: ValidationRow) -> str:
    return row.network.partition("/")[0]


def own_networks(group: str, predictor: LatencyPredictor) -> list[DrawnNetwork]:
    """A few of a group's networks that the table was made from, small to large; those that its usual seed draws."""
    rows = [row for row in predictor.table.validation.rows if _group_of(row) == group]
    if not rows or not is_group(group):
        return []
    count, seed = len(rows), BuildRequest.seed
    drawn = {sample.name: (number, sample) for number, sample in enumerate(latency_samples(group, count, seed))}
    places = sorted({round(place) for place in np.linspace(0, count - 1, MOST_AGAIN)})
    ordered = sorted(rows, key=lambda row: row.macs)
    own = []
    for row in (ordered[place] for place in places):
        number, sample = drawn.get(row.network, (0, None))
        if sample is not None and sample.graph.macs == row.macs:
            shape = (3, sample.image_side, sample.image_side)
            prediction = predict_graph(predictor, row.network, shape, sample.graph, group)
            own.append(DrawnNetwork(group, row.network, number, count, seed, prediction, row.measured_ms))
    return own


def is_own(group: str, macs: int, table: LatencyTable) -> bool:
    """Whether the table was fitted to this network: two of one group have the same MACs only where they are equal."""
    return any(_group_of(row) == group and row.macs == macs for row in table.validation.rows)
