"""Controllers propose networks and learn from results; registered by name, also from other packages."""

from nas.controllers.base import (
    Controller,
    ControllerFactory,
    Outcome,
    Outcomes,
    SettlingController,
)
from nas.controllers.registry import controller_names, get_controller, register_controller
from nas.objectives.problem import SearchProblem

__all__ = [
    "Controller",
    "ControllerFactory",
    "Outcome",
    "Outcomes",
    "SearchProblem",
    "SettlingController",
    "controller_names",
    "get_controller",
    "register_controller",
]
