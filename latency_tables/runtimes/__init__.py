"""Runtimes that networks are measured with: what each one's files are, how they are written, and what runs them."""

from latency_tables.runtimes.base import Runtime, RuntimeMissingError
from latency_tables.runtimes.registry import (
    find_fusion,
    find_runtime,
    get_runtime,
    name_in_precision,
    name_with_provider,
    register_runtime,
    runtime_names,
)

__all__ = [
    "Runtime",
    "RuntimeMissingError",
    "find_fusion",
    "find_runtime",
    "get_runtime",
    "name_in_precision",
    "name_with_provider",
    "register_runtime",
    "runtime_names",
]
