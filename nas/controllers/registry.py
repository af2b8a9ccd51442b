"""Controllers by name: ours, and those that other packages register as entry points `nas.controllers`."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from nas.controllers.base import ControllerFactory
from search_spaces import UnknownNameError

GROUP = "nas.controllers"


_OURS = {
    "evolution": "nas.controllers.evolution:EvolutionController",
    "evolution-resnas": "nas.controllers.evolution:resnas_evolution",
    "gp": "nas.controllers.gp:GPController",
    "local": "nas.controllers.local:LocalSearchController",
    "nsga2": "nas.controllers.nsga2:NSGA2Controller",
    "nsga3": "nas.controllers.nsga3:NSGA3Controller",
    "predictor": "nas.controllers.predictor:PredictorController",
    "random": "nas.controllers.random:RandomController",
    "reinforce": "nas.controllers.reinforce:ReinforceController",
    "reinforce-value": "nas.controllers.reinforce:value_reinforce",
    "tpe": "nas.controllers.tpe:TPEController",
}
"""Where each controller stands, as an entry point names it, so that its module is imported when it is used."""

_registered: dict[str, ControllerFactory] = {}


def register_controller(name: str, factory: ControllerFactory) -> None:
    """Register a controller under ``name``.

    Raises:
        ValueError: The name is taken.
    """
    if name in controller_names():
        raise ValueError(f"controller `{name}` is registered already")
    _registered[name] = factory


def controller_names() -> list[str]:
    """The names of all registered controllers."""
    return sorted({*_points(), *_registered})


def get_controller(name: str) -> ControllerFactory:
    """The factory of the controller called ``name``.

    Raises:
        UnknownNameError: Nothing is registered under the name.
    """
    if name in _registered:
        return _registered[name]
    points = _points()
    if name not in points:
        raise UnknownNameError("controller", name, controller_names())
    factory: ControllerFactory = points[name].load()
    return factory


@cache
def _points() -> dict[str, EntryPoint]:
    ours = {name: EntryPoint(name, where, GROUP) for name, where in _OURS.items()}
    return {**{point.name: point for point in entry_points(group=GROUP)}, **ours}
