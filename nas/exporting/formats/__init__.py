"""What an exported network can be written as, beside its checkpoint and its ONNX file."""

from nas.exporting.formats.registry import format_names, get_format, parse_formats, register_export_format

__all__ = ["format_names", "get_format", "parse_formats", "register_export_format"]
