"""Controllers by name: ours, and those that other packages register as entry points `nas.controllers`."""

from __future__ import annotations

from importlib.metadata import entry_points

from nas.controllers.base import Controller, ControllerFactory, SearchProblem
from search_spaces import UnknownNameError


def _evolution(problem: SearchProblem) -> Controller:
    from nas.controllers.evolution import EvolutionController

    return EvolutionController(problem)


def _evolution_resnas(problem: SearchProblem) -> Controller:
    from nas.controllers.evolution import RESNAS, EvolutionController

    return EvolutionController(problem, RESNAS)


def _nsga2(problem: SearchProblem) -> Controller:
    from nas.controllers.nsga2 import NSGA2Controller

    return NSGA2Controller(problem)


def _predictor(problem: SearchProblem) -> Controller:
    from nas.controllers.predictor import PredictorController

    return PredictorController(problem)


def _random(problem: SearchProblem) -> Controller:
    from nas.controllers.random import RandomController

    return RandomController(problem)


def _reinforce(problem: SearchProblem) -> Controller:
    from nas.controllers.reinforce import ReinforceController

    return ReinforceController(problem)


def _reinforce_value(problem: SearchProblem) -> Controller:
    from nas.controllers.reinforce import ReinforceController, ReinforceOptions

    return ReinforceController(problem, ReinforceOptions(rewards_value=True, settles_on_best=True))


_factories: dict[str, ControllerFactory] = {
    "evolution": _evolution,
    "evolution-resnas": _evolution_resnas,
    "nsga2": _nsga2,
    "predictor": _predictor,
    "random": _random,
    "reinforce": _reinforce,
    "reinforce-value": _reinforce_value,
}


def register_controller(name: str, factory: ControllerFactory) -> None:
    """Register a controller under ``name``.

    Raises:
        ValueError: The name is taken.
    """
    if name in controller_names():
        raise ValueError(f"controller `{name}` is registered already")
    _factories[name] = factory


def controller_names() -> list[str]:
    """The names of all registered controllers."""
    return sorted({*_factories, *entry_points(group="nas.controllers").names})


def get_controller(name: str) -> ControllerFactory:
    """The factory of the controller called ``name``.

    Raises:
        UnknownNameError: Nothing is registered under the name.
    """
    if name in _factories:
        return _factories[name]
    for point in entry_points(group="nas.controllers"):
        if point.name == name:
            factory: ControllerFactory = point.load()
            return factory
    raise UnknownNameError("controller", name, controller_names())
