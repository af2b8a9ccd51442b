"""The formats by name. Importing this is cheap: the command line lists them."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.errors import UnknownNameError

CHECKPOINT, TIMM, ONNX = "checkpoint", "timm", "onnx"
HALF, INTEGER = "onnx-fp16", "onnx-int8"
ALWAYS = (CHECKPOINT, ONNX)
"""Every export has them: one is what everything else is compared with, the other is run to prove it."""
PROGRAMS = ("litert", "executorch")
"""Formats of runtimes that convert and run in an environment of their own."""
FORMATS = (TIMM, *ALWAYS, HALF, INTEGER, *PROGRAMS)


def parse_formats(text: str | Sequence[str]) -> tuple[str, ...]:
    """``timm,onnx-int8`` or a list of such names as the formats that are asked for, once each, in a fixed order.

    Raises:
        UnknownNameError: There is no such format.
    """
    names = [name.strip() for name in (text.split(",") if isinstance(text, str) else text)]
    for name in names:
        if name not in FORMATS:
            raise UnknownNameError("format", name, FORMATS)
    return tuple(name for name in FORMATS if name in names)


def is_program(name: str) -> bool:
    """Whether a format is a runtime's own, written and verified in that runtime's environment."""
    return name in PROGRAMS
