"""Which published figures are of one network, and which networks are siblings: a check on families rests on it.

A network is known by what it computes and a design by the class that builds it, never by how a name is spelt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from latency_tables.calibrate import Sample
from latency_tables.errors import CalibrationError

AGREEMENT = 0.1
"""Two figures of one network may differ by this share of the smaller one."""


@dataclass(frozen=True)
class Descent:
    """Where the network of a figure comes from.

    Attributes:
        stated: Family that the file of figures says; empty where it says none.
        published: Family in the catalogue of published networks; empty for networks outside it.
        design: As `latency_tables.figures.design_of` gives it.
    """

    stated: str
    published: str
    design: str

    def is_sibling(self, other: Descent) -> bool:
        """Whether both are of one design: as stated, else as published, else by the class that builds them."""
        for one, two in ((self.stated, other.stated), (self.published, other.published)):
            if one and two:
                return one.casefold() == two.casefold()
        return self.design == other.design


def one_per_network(samples: Sequence[Sample]) -> tuple[list[Sample], list[str]]:
    """The samples with the mean of the figures of networks that are there several times, and a sentence for each other.

    Raises:
        CalibrationError: Figures of one network disagree.
    """
    groups: dict[object, list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.macs, tuple(sample.features.items())), []).append(sample)
    merged, sentences = [], []
    for first, *others in groups.values():
        found_ms = [first.measured_ms, *(other.measured_ms for other in others)]
        shown = " and ".join(f"{value:g}" for value in found_ms)
        if max(found_ms) > (1 + AGREEMENT) * min(found_ms):
            names = " and ".join(f"`{sample.model}`" for sample in (first, *others))
            raise CalibrationError(
                f"{names} are one network: found {shown} ms, expected figures within {AGREEMENT:.0%} of each other",
                "keep the figure that is right; figures taken in two ways belong into two files",
            )
        merged.append(replace(first, measured_ms=sum(found_ms) / len(found_ms)))
        sentences += [
            f"{other.model}: is the network `{first.model}`, which counts once, with the mean of {shown} ms"
            for other in others
        ]
    return merged, sentences


def with_families(samples: Sequence[Sample], descents: Mapping[str, Descent]) -> list[Sample]:
    """The samples with siblings in one family, so that a family that is left out leaves no sibling behind.

    Args:
        samples: Figures.
        descents: Where the network of each comes from, by name of the sample.
    """
    families: list[list[Sample]] = []
    for sample in samples:
        near = [
            family
            for family in families
            if any(descents[sample.model].is_sibling(descents[other.model]) for other in family)
        ]
        families = [family for family in families if family not in near]
        families.append([*(other for family in near for other in family), sample])
    names = {
        sample.model: _name([descents[other.model] for other in family]) for family in families for sample in family
    }
    return [replace(sample, family=names[sample.model]) for sample in samples]


def _name(family: Sequence[Descent]) -> str:
    stated = [member.stated for member in family if member.stated]
    published = {member.published for member in family}
    return stated[0] if stated else published.pop() if len(published) == 1 and "" not in published else family[0].design
