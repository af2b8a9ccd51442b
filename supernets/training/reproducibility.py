"""What a training that may be stopped at any moment asks of its process: arithmetic that does not vary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic


@contextmanager
def reproducible(device: torch.device, threads: int) -> Iterator[None]:
    """Sums in an order that does not vary: fixed threads, deterministic operators; everything put back afterwards."""
    threads_before, was_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill_before = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(was_deterministic)
        deterministic.fill_uninitialized_memory = fill_before  # type: ignore[attr-defined]
