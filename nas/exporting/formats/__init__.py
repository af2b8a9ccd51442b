"""What an exported network can be written as, beside its checkpoint and its ONNX file."""

from nas.exporting.formats.names import (
    CHECKPOINT,
    FORMATS,
    HALF,
    INTEGER,
    ONNX,
    TIMM,
    is_program,
    parse_formats,
)

__all__ = ["CHECKPOINT", "FORMATS", "HALF", "INTEGER", "ONNX", "TIMM", "is_program", "parse_formats"]
