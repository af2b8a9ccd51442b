"""Neural architecture search for vision transformers under measured device latency.

Everything here is loaded when it is first used, so importing the package brings in neither torch nor optuna. No module
may have the name of a function that is offered here, since importing it would put the module in the function's place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.errors import InfeasibleError, NasError, RunError, UsageError
    from nas.exporting.export import load
    from nas.finishing.finish import finish
    from nas.finishing.result import FinishResult
    from nas.growth.grow import scale
    from nas.growth.input_scales import ScaledInputs, scale_inputs
    from nas.importing.published import ImportResult, import_supernet
    from nas.picking.pick import pick
    from nas.result import SearchResult, load_result
    from nas.runs.front import FrontMember
    from nas.searching.preview import Preview, preview
    from nas.searching.search import search
    from nas.splitting.split import SplitResult, split
    from nas.training.adapt import AdaptResult, adapt
    from nas.training.session import TrainResult
    from nas.training.train import train

_HOMES = {
    "AdaptResult": "nas.training.adapt",
    "FinishResult": "nas.finishing.result",
    "FrontMember": "nas.runs.front",
    "ImportResult": "nas.importing.published",
    "InfeasibleError": "nas.errors",
    "NasError": "nas.errors",
    "Preview": "nas.searching.preview",
    "RunError": "nas.errors",
    "ScaledInputs": "nas.growth.input_scales",
    "SearchResult": "nas.result",
    "SplitResult": "nas.splitting.split",
    "TrainResult": "nas.training.session",
    "UsageError": "nas.errors",
    "adapt": "nas.training.adapt",
    "finish": "nas.finishing.finish",
    "import_supernet": "nas.importing.published",
    "load": "nas.exporting.export",
    "load_result": "nas.result",
    "pick": "nas.picking.pick",
    "preview": "nas.searching.preview",
    "scale": "nas.growth.grow",
    "scale_inputs": "nas.growth.input_scales",
    "search": "nas.searching.search",
    "split": "nas.splitting.split",
    "train": "nas.training.train",
}

__all__ = [
    "AdaptResult",
    "FinishResult",
    "FrontMember",
    "ImportResult",
    "InfeasibleError",
    "NasError",
    "Preview",
    "RunError",
    "ScaledInputs",
    "SearchResult",
    "SplitResult",
    "TrainResult",
    "UsageError",
    "adapt",
    "finish",
    "import_supernet",
    "load",
    "load_result",
    "pick",
    "preview",
    "scale",
    "scale_inputs",
    "search",
    "split",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module `nas` has no attribute `{name}`")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
