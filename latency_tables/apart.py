"""Measuring one network as its table's networks were measured: in a fresh process, by the same statistic."""

from __future__ import annotations

from pathlib import Path

from latency_tables.errors import ProfileError
from latency_tables.measure import Measurement, Statistic, measure_network


def measure_network_apart(path: Path, statistic: Statistic) -> Measurement:
    """The latency of an ONNX file, measured by a fresh process with the same Python.

    Args:
        path: The file.
        statistic: That of the table that it is compared with.

    Raises:
        ProfileError: The process failed.
    """
    try:
        return measure_network(path, statistic=statistic)
    except ProfileError as error:
        raise ProfileError(f"network `{path}`: measuring it failed: {error}", error.hint) from error
