"""PyTorch's own exported program as an export format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.exporting.formats.base import ExportedNetwork, FileFormat


class TorchProgram(FileFormat):
    name = "torch-program"
    file = "model.pt2"
    tolerance = 1e-5
    scale = 1.0

    def write(self, network: ExportedNetwork, path: Path) -> Mapping[str, Any]:
        torch.export.save(torch.export.export(network.module, (network.images_BCHW[:1],)), str(path))
        return {"images_seen": len(network.images_BCHW)}

    def run(self, path: Path, images_BCHW: Tensor) -> Tensor:
        module = torch.export.load(str(path)).module()
        with torch.no_grad():
            return self.scale * torch.cat([module(image_CHW[None]) for image_CHW in images_BCHW])


PROGRAM = TorchProgram()
