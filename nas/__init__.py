"""Neural architecture search for vision transformers under measured device latency.

Everything here is loaded when it is first used, so importing the package brings in neither torch nor optuna. No module
may have the name of a function that is offered here, since importing it would put the module in the function's place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.errors import InfeasibleError, NasError, RunError, UsageError
    from nas.export import load
    from nas.result import FrontMember, SearchResult, load_result
    from nas.run_finish import FinishResult, finish
    from nas.run_search import search
    from nas.run_training import TrainResult, train
    from nas.space_preview import Preview, preview

_HOMES = {
    "FinishResult": "nas.run_finish",
    "FrontMember": "nas.result",
    "InfeasibleError": "nas.errors",
    "NasError": "nas.errors",
    "Preview": "nas.space_preview",
    "RunError": "nas.errors",
    "SearchResult": "nas.result",
    "TrainResult": "nas.run_training",
    "UsageError": "nas.errors",
    "finish": "nas.run_finish",
    "load": "nas.export",
    "load_result": "nas.result",
    "preview": "nas.space_preview",
    "search": "nas.run_search",
    "train": "nas.run_training",
}

__all__ = [
    "FinishResult",
    "FrontMember",
    "InfeasibleError",
    "NasError",
    "Preview",
    "RunError",
    "SearchResult",
    "TrainResult",
    "UsageError",
    "finish",
    "load",
    "load_result",
    "preview",
    "search",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module `nas` has no attribute `{name}`")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
