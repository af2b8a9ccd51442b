"""Controllers by name: ours, and those that other packages register as entry points `nas.controllers`."""

from __future__ import annotations

from nas.controllers.base import ControllerFactory
from search_spaces.plugins import Registry

CONTROLLERS: Registry[ControllerFactory] = Registry(
    "controller",
    "nas.controllers",
    {
        "evolution": "nas.controllers.evolution:EvolutionController",
        "evolution-resnas": "nas.controllers.evolution:resnas_evolution",
        "exchange": "nas.controllers.exchange:ExchangeController",
        "gp": "nas.controllers.gp:GPController",
        "local": "nas.controllers.local:LocalSearchController",
        "nsga2": "nas.controllers.nsga2:NSGA2Controller",
        "nsga3": "nas.controllers.nsga3:NSGA3Controller",
        "predictor": "nas.controllers.predictor:PredictorController",
        "random": "nas.controllers.random:RandomController",
        "reinforce": "nas.controllers.reinforce:ReinforceController",
        "reinforce-value": "nas.controllers.reinforce:value_reinforce",
        "tpe": "nas.controllers.tpe:TPEController",
    },
)
register_controller = CONTROLLERS.register
get_controller = CONTROLLERS.get


def controller_names() -> list[str]:
    """The names of all registered controllers."""
    return sorted(CONTROLLERS.names())
