"""Export formats by name: ours, those of other packages (entry points `nas.export_formats`), and registered ones.

Importing this is cheap: the command line lists the names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.exporting.formats.base import ExportFormat, FileFormat

GROUP = "nas.export_formats"
ONNX = "onnx"
"""The fp32 ONNX file, which every export has, and which the other files are compared with."""
OURS = {
    "timm": "nas.exporting.formats.checkpoint:TIMM",
    "checkpoint": "nas.exporting.formats.checkpoint:CHECKPOINT",
    ONNX: "nas.exporting.formats.onnx_file:ONNX_FILE",
    "onnx-fp16": "nas.exporting.formats.reduced:HALF",
    "onnx-int8": "nas.exporting.formats.reduced:INTEGER",
    "litert": "nas.exporting.formats.programs:LITERT",
    "executorch": "nas.exporting.formats.programs:EXECUTORCH",
}
"""Where each format stands, as an entry point names it, so that its module is imported when it is used."""

_registered: dict[str, ExportFormat] = {}


def register_export_format(form: ExportFormat) -> None:
    """Register a format for this process.

    Raises:
        ValueError: Its name is taken.
    """
    if form.name in format_names():
        raise ValueError(f"export format `{form.name}` is registered already")
    _registered[form.name] = form


def format_names() -> list[str]:
    """The names of all formats: ours first, in the order in which they are written, then the others."""
    return [*_points(), *_registered]


def get_format(name: str) -> ExportFormat:
    """The format called ``name``.

    Raises:
        UnknownNameError: There is none.
    """
    from search_spaces.errors import UnknownNameError

    if name in _registered:
        return _registered[name]
    if name not in _points():
        raise UnknownNameError("format", name, format_names())
    return _load(_points()[name])


def get_file_format(name: str) -> FileFormat:
    """The format called ``name``, which has a file of its own.

    Raises:
        UnknownNameError: There is no such format.
        TypeError: It has no file of its own.
    """
    from nas.exporting.formats.base import FileFormat

    form = get_format(name)
    if not isinstance(form, FileFormat):
        raise TypeError(f"format `{name}` has no file of its own")
    return form


def parse_formats(text: str | Sequence[str]) -> tuple[str, ...]:
    """``timm,onnx-int8`` or a list of such names as the formats that are asked for, once each, in a fixed order.

    Raises:
        UnknownNameError: There is no such format.
    """
    names = [name.strip() for name in (text.split(",") if isinstance(text, str) else text)]
    for name in names:
        get_format(name)
    return tuple(name for name in format_names() if name in names)


@cache
def _points() -> dict[str, EntryPoint]:
    ours = {name: EntryPoint(name, where, GROUP) for name, where in OURS.items()}
    return {**ours, **{point.name: point for point in entry_points(group=GROUP) if point.name not in ours}}


@cache
def _load(point: EntryPoint) -> ExportFormat:
    form: ExportFormat = point.load()
    return form
