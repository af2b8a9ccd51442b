"""The networks behind the figures of the shipped tables: their features, stored once for all devices.

`benchmarks/calibrate_tables.py` writes the file. Features are launches, MACs, elements read and elements written,
summed by kernel class; a precision makes bytes of elements.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from latency_tables.errors import TableError
from latency_tables.table_validation import Features
from search_spaces.json_file import parse_json

PATH = Path(__file__).parent / "published_networks.json"


def features_of(network: str, bytes_per_element: float) -> dict[str, Features]:
    """The features of a network of the file in bytes.

    Raises:
        TableError: The file has no such network.
    """
    elements = _networks().get(network)
    if elements is None:
        raise TableError(f"network `{network}`: found nothing in `{PATH.name}`, expected its features")
    return in_bytes(elements, bytes_per_element)


def in_bytes(elements: Mapping[str, Features], bytes_per_element: float) -> dict[str, Features]:
    """Features that count elements, in bytes."""
    return {
        op: (launches, macs, read * bytes_per_element, written * bytes_per_element)
        for op, (launches, macs, read, written) in elements.items()
    }


@functools.cache
def _networks() -> Mapping[str, Mapping[str, Features]]:
    networks: Mapping[str, Mapping[str, Features]] = parse_json(PATH.read_text(encoding="utf-8"))
    return networks
