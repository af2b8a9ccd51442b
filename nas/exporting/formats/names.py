"""Our export formats by name. Importing this is cheap: the command line lists the names."""

from __future__ import annotations

ONNX = "onnx"
"""The fp32 ONNX file, which every export has, and which the other files are compared with."""
OURS = {
    "timm": "nas.exporting.formats.checkpoint:TIMM",
    "checkpoint": "nas.exporting.formats.checkpoint:CHECKPOINT",
    ONNX: "nas.exporting.formats.onnx_file:ONNX_FILE",
    "onnx-fp16": "nas.exporting.formats.reduced:HALF",
    "onnx-int8": "nas.exporting.formats.quantised:INTEGER",
    "onnx-int8-dynamic": "nas.exporting.formats.quantised:DYNAMIC",
    "onnx-mixed": "nas.exporting.formats.quantised:MIXED",
    "onnx-w4": "nas.exporting.formats.quantised:FOUR_BITS",
    "onnx-w2": "nas.exporting.formats.quantised:TWO_BITS",
    "features": "nas.exporting.formats.features:FEATURES",
    "openvino": "nas.exporting.formats.openvino:OPENVINO",
    "openvino-int8": "nas.exporting.formats.openvino:OPENVINO_INT8",
    "coreml": "nas.exporting.formats.coreml:COREML",
    "litert": "nas.exporting.formats.programs:LITERT",
    "litert-int8": "nas.exporting.formats.programs:LITERT_INT8",
    "executorch": "nas.exporting.formats.programs:EXECUTORCH",
}
"""Where each format stands, as an entry point names it, so that its module is imported when it is used."""
