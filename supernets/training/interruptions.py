"""What a training that may be stopped at any moment asks of its process: fixed arithmetic and a patient Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

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


@contextmanager
def deferred_interrupt(*others: signal.Signals) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one interrupts at once.

    Args:
        others: Signals that set it too, the first time each; later ones do what they did before.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals belong to the main thread
        return
    numbers = (signal.SIGINT, *others)
    before: dict[int, Any] = {number: signal.getsignal(number) or _USUAL[number] for number in numbers}

    def note(number: int, _frame: FrameType | None) -> None:
        event.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_USUAL: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""Handlers to put back where Python does not know which there were."""
