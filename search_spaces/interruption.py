"""A patient Ctrl-C, for everything that must end what it has begun before it stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


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
