"""ONNX files, which ONNX Runtime runs and measures: the fp32 file of every export, and the base of those made from it.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.exporting.formats.base import ExportedNetwork, FileFormat
from nas.networks.onnx import OnnxNetwork


class OnnxFile(FileFormat):
    """The fp32 ONNX file. Every export writes it first, so there is nothing left to do."""

    name = "onnx"
    file = "model.onnx"
    tolerance: float | None = 1e-3
    runtime = "onnxruntime"
    any_batch = True

    def write(self, network: ExportedNetwork, path: Path) -> Mapping[str, Any]:
        """Nothing further."""
        return {}

    def run(self, path: Path, images_BCHW: Tensor) -> Tensor:
        """Logits ``(B, K)`` in ONNX Runtime."""
        return torch.from_numpy(OnnxNetwork(path)(images_BCHW))

    def run_together(self, path: Path, images_BCHW: Tensor) -> Tensor:
        """Logits ``(B, K)`` in ONNX Runtime, of all images at once."""
        return torch.from_numpy(OnnxNetwork(path).together(images_BCHW))


ONNX_FILE = OnnxFile()
