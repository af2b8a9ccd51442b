"""Plug-ins from outside against the contracts that their authors are offered."""

from __future__ import annotations

import copy

from latency_tables.runtimes import Runtime
from nas.controllers import Controller, SearchProblem
from nas.exporting.formats.base import ExportFormat
from nas.objectives.quantities import Quantity
from nas.scores.base import Score
from nas.testing import (
    ControllerContract,
    DataSourceContract,
    ExportFormatContract,
    NetworkFamilyContract,
    QuantityContract,
    RuntimeContract,
    ScoreContract,
    SearchSpaceContract,
)
from search_spaces import SearchSpace
from supernets.data.image_data import DataSource
from tests.support.plugins.cautious_controller import Cautious
from tests.support.plugins.energy_quantity import ENERGY
from tests.support.plugins.gradient_score import LARGEST_GRADIENT
from tests.support.plugins.paper_runtime import Paper
from tests.support.plugins.program_format import PROGRAM
from tests.support.plugins.projection_operator import MoreMixingSpace
from tests.support.plugins.stripes_data import SOURCE

SPACE = MoreMixingSpace()


class TestQuantity(QuantityContract):
    def make_quantity(self) -> Quantity:
        return ENERGY


class TestRuntime(RuntimeContract):
    def make_runtime(self) -> Runtime:
        return Paper()


class TestExportFormat(ExportFormatContract):
    def make_format(self) -> ExportFormat:
        return copy.copy(PROGRAM)


class TestDataSource(DataSourceContract):
    text = "stripes:4"

    def make_source(self) -> DataSource:
        return SOURCE


class TestScore(ScoreContract):
    def make_score(self) -> Score:
        return LARGEST_GRADIENT


class TestController(ControllerContract):
    settles = True

    def make_controller(self, problem: SearchProblem) -> Controller:
        return Cautious(problem)


class TestSpace(SearchSpaceContract):
    def make_space(self) -> SearchSpace:
        return SPACE


class TestFamily(NetworkFamilyContract):
    def make_space(self) -> SearchSpace:
        return SPACE
