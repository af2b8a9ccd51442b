"""Search spaces by name: ours, and those that other packages register as entry points `nas.search_spaces`.

A name ``KIND:TEXT`` is of a kind of spaces without end, such as those inside timm models. A kind is an entry point
`nas.search_space_kinds` of an installed package, our own included; it is imported when a space of it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint

from search_spaces.architecture import Architecture
from search_spaces.asvit import ASVIT, ASVIT_GROWN, ASVIT_MINI, AsvitSpace
from search_spaces.autoformer import AutoformerSpace, PrenasSpace
from search_spaces.autoformer_definitions import (
    AUTOFORMER_BASE,
    AUTOFORMER_MINI,
    AUTOFORMER_SMALL,
    AUTOFORMER_TINY,
    PRENAS_BASE,
    PRENAS_SMALL,
    PRENAS_TINY,
)
from search_spaces.elastic import ELASTIC, ELASTIC_MINI, ElasticSpace
from search_spaces.errors import SearchSpaceError
from search_spaces.mixers import MixersSpace
from search_spaces.mixers_definitions import MIXERS_MINI, MIXERS_MINI_ALL, MIXERS_SPACE
from search_spaces.plugins import Registry, installed
from search_spaces.resnas import ResnasSpace
from search_spaces.resnas_definitions import RESNAS, RESNAS_MINI, RESNAS_SMALL, RESNAS_TINY
from search_spaces.space import SearchSpace
from search_spaces.timm_models import OTHER_NAMES, PREFIX, plain_name

SpaceFactory = Callable[[int | None], SearchSpace]
"""Makes a space for a number of classes; None takes the space's own."""

SPACES: Registry[SpaceFactory] = Registry(
    "search space",
    "nas.search_spaces",
    {
        "asvit": lambda classes: AsvitSpace(ASVIT, classes),
        "asvit-grown": lambda classes: AsvitSpace(ASVIT_GROWN, classes),
        "asvit-mini": lambda classes: AsvitSpace(ASVIT_MINI, classes),
        "autoformer-base": lambda classes: AutoformerSpace(AUTOFORMER_BASE, classes),
        "autoformer-mini": lambda classes: AutoformerSpace(AUTOFORMER_MINI, classes),
        "autoformer-small": lambda classes: AutoformerSpace(AUTOFORMER_SMALL, classes),
        "autoformer-tiny": lambda classes: AutoformerSpace(AUTOFORMER_TINY, classes),
        "elastic": lambda classes: ElasticSpace(ELASTIC, classes),
        "elastic-mini": lambda classes: ElasticSpace(ELASTIC_MINI, classes),
        "mixers": lambda classes: MixersSpace(MIXERS_SPACE, classes),
        "mixers-mini": lambda classes: MixersSpace(MIXERS_MINI, classes),
        "prenas-base": lambda classes: PrenasSpace(PRENAS_BASE, classes),
        "prenas-small": lambda classes: PrenasSpace(PRENAS_SMALL, classes),
        "prenas-tiny": lambda classes: PrenasSpace(PRENAS_TINY, classes),
        "mixers-mini-all": lambda classes: MixersSpace(MIXERS_MINI_ALL, classes),
        "resnas": lambda classes: ResnasSpace(RESNAS, classes, others=(RESNAS_TINY, RESNAS_SMALL)),
        "resnas-mini": lambda classes: ResnasSpace(RESNAS_MINI, classes),
        "resnas-small": lambda classes: ResnasSpace(RESNAS_SMALL, classes),
        "resnas-tiny": lambda classes: ResnasSpace(RESNAS_TINY, classes),
    },
)
_spaces: dict[tuple[str, int | None], SearchSpace] = {}


register = SPACES.register


def space_names() -> list[str]:
    """The names of all registered spaces."""
    return sorted(SPACES.names())


def get_space(name: str, classes: int | None = None) -> SearchSpace:
    """The space called ``name``; the same object for the same arguments.

    Raises:
        UnknownNameError: Nothing is registered under the name.
    """
    name = _canonical(name)
    key = (name, classes)
    kind, separator, text = name.partition(":")
    if separator and kind in _kinds():
        if key not in _spaces:
            space = _kinds()[kind].load()(text, classes)
            _spaces[key] = _spaces.setdefault((space.name, classes), space)
        return _spaces[key]
    if key not in _spaces:
        _spaces[key] = SPACES.get(name)(classes)
    return _spaces[key]


def find_architecture(reference: str, classes: int | None = None) -> tuple[SearchSpace, Architecture]:
    """The space and architecture behind ``space/name`` or, where a space has a short form, ``space:text``.

    For example ``elastic/M``, ``elastic-mini/largest`` or ``asvit:8,2,3|4,1,2|4,1,4|4,1,6|32``. The space may name
    networks of a larger one, so the space that is returned can be another one. A space of a kind stands for its largest
    network: ``timm:vit_tiny_patch16_224`` is that model.

    Raises:
        UnknownNameError: There is no such space, or no architecture of that name in it.
        ArchitectureError: The text names no network.
    """
    reference = _canonical(reference)
    if ":" in reference and reference.partition(":")[0] in _kinds():
        space_name, _, name = reference.partition("/")
        space = get_space(space_name, classes)
        return space, space.find(name or "largest")
    space_name, separator, name = re.match(r"([^/:]*)([/:]?)(.*)", reference, re.DOTALL).groups()  # type: ignore[union-attr]
    space = get_space(space_name, classes)
    architecture = space.from_text(name) if separator == ":" else space.find(name)
    return get_space(architecture.space, classes), architecture


def space_kinds() -> list[str]:
    """The kinds of spaces that take a text, for example ``timm``.

    Raises:
        SearchSpaceError: The installation declares none.
    """
    return sorted(_kinds())


def _canonical(name: str) -> str:
    """``timm/NAME`` and ``hf-hub:timm/NAME`` as the space ``timm:NAME``."""
    return f"{PREFIX}:{plain_name(name)}" if name.startswith(OTHER_NAMES) else name


def _kinds() -> dict[str, EntryPoint]:
    kinds = installed("nas.search_space_kinds")
    if not kinds:
        raise SearchSpaceError(
            "no installed package declares a kind of search space, expected `timm` at least",
            "the installation is older than the code; renew it: `pip install -e .`",
        )
    return kinds
