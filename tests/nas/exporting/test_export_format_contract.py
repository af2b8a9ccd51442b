"""Every registered export format against the contract."""

from __future__ import annotations

import copy

import pytest

from nas.exporting.formats.base import ExportFormat
from nas.exporting.formats.registry import format_names, get_format
from nas.testing import ExportFormatContract
from search_spaces import SearchSpace, get_space

OWN_ENVIRONMENT = ("litert", "litert-int8", "executorch")


def registered(name: str) -> type[ExportFormatContract]:
    class Registered(ExportFormatContract):
        def make_format(self) -> ExportFormat:
            return copy.copy(get_format(name))

        def make_space(self) -> SearchSpace:
            return get_space("timm:vit_tiny_patch16_224?img_size=32") if name == "timm" else super().make_space()

    return pytest.mark.slow(Registered) if name in OWN_ENVIRONMENT else Registered


globals().update({f"Test {name}": registered(name) for name in format_names()})
