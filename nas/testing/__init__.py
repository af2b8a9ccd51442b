"""Contracts that plug-ins are tested against, for pytest: subclass one, say what is tested, and run it.

    from nas.testing import ControllerContract

    class TestMine(ControllerContract):
        def make_controller(self, problem):
            return MyController(problem)

There is one for each kind of plug-in; whatever is registered here is run against them too.
"""

import pytest

_MODULES = ("controllers", "data", "families", "formats", "quantities", "runtimes", "scores", "spaces")
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))

from nas.testing.controllers import ControllerContract, Drive, drive, toy_problem, toy_quality
from nas.testing.data import DataSourceContract
from nas.testing.families import NetworkFamilyContract
from nas.testing.formats import ExportFormatContract
from nas.testing.quantities import QuantityContract
from nas.testing.runtimes import RuntimeContract
from nas.testing.scores import ScoreContract, ToyNetwork, toy_subject
from nas.testing.spaces import SearchSpaceContract

__all__ = [
    "ControllerContract",
    "DataSourceContract",
    "Drive",
    "ExportFormatContract",
    "NetworkFamilyContract",
    "QuantityContract",
    "RuntimeContract",
    "ScoreContract",
    "SearchSpaceContract",
    "ToyNetwork",
    "drive",
    "toy_problem",
    "toy_quality",
    "toy_subject",
]
