"""Matrix products on one thread: their last bits change with the number of threads, and a resumed search must not."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController

_BRING_THEIR_OWN = ("scipy.linalg", "torch")
"""Modules that load another library for matrix products when they are imported."""


def on_one_thread() -> AbstractContextManager[object]:
    """Limits the libraries that are loaded; looking for them takes milliseconds, so it is done once."""
    loaded = tuple(name for name in _BRING_THEIR_OWN if name in sys.modules)
    limit: AbstractContextManager[object] = _controller(loaded).limit(limits=1, user_api="blas")
    return limit


@cache
def _controller(loaded: tuple[str, ...]) -> ThreadpoolController:
    return ThreadpoolController()
