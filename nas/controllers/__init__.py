"""Controllers propose networks and learn from results; registered by name, also from other packages."""

from nas.controllers.base import (
    Controller,
    ControllerFactory,
    Outcome,
    Outcomes,
    SearchProblem,
    SettlingController,
)
from nas.controllers.registry import controller_names, get_controller, register_controller

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
