"""What every quantity has to do: a population's numbers are those of its networks' op graphs."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pytest

from nas.errors import UsageError
from nas.objectives.quantities import Quantity
from search_spaces import SearchSpace, get_space


class QuantityContract(ABC):
    """What every quantity has to do. Subclass it, give `make_quantity`, and let pytest find the subclass."""

    @abstractmethod
    def make_quantity(self) -> Quantity:
        """The quantity."""

    def make_space(self) -> SearchSpace:
        """A space whose networks have the quantity."""
        return get_space("elastic-mini")

    def test_a_population_has_the_numbers_of_its_op_graphs(self) -> None:
        """To the last bit, finite, and more than 0."""
        quantity, space = self.make_quantity(), self.make_space()
        genotypes = space.sample(30, np.random.default_rng(0))
        values_n = quantity.column(space, genotypes)
        assert values_n.shape == (30,)
        assert (values_n > 0).all()
        graphs = [space.lower(architecture) for architecture in space.decode(genotypes)]
        assert values_n.tolist() == [quantity.graph(graph) for graph in graphs]

    def test_a_limit_is_read_in_its_unit_alone(self) -> None:
        """A number that is more than 0."""
        quantity = self.make_quantity()
        assert quantity.parse(f"12.5{quantity.unit}") == 12.5
        for text in (f"-1{quantity.unit}", f"0{quantity.unit}", "1parsec", "much"):
            with pytest.raises(UsageError):
                quantity.parse(text)
        assert quantity.unit in quantity.text(12.5)
        assert quantity.description
