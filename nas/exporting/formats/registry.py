"""Export formats by name: ours, those of other packages (entry points `nas.export_formats`), and registered ones."""

from __future__ import annotations

from collections.abc import Sequence

from nas.exporting.formats.base import ExportFormat, FileFormat
from nas.exporting.formats.names import OURS
from search_spaces.plugins import Registry

FORMATS: Registry[ExportFormat] = Registry("export format", "nas.export_formats", OURS)
format_names = FORMATS.names
get_format = FORMATS.get


def register_export_format(form: ExportFormat) -> None:
    """Register a format for this process.

    Raises:
        ValueError: Its name is taken.
    """
    FORMATS.register(form.name, form)


def get_file_format(name: str) -> FileFormat:
    """The format called ``name``, which has a file of its own.

    Raises:
        UnknownNameError: There is no such format.
        TypeError: It has no file of its own.
    """
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
