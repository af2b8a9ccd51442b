"""``features``: an ONNX file that gives maps of features beside the logits, for detectors and segmenters.

Of each stride from 4 to 32 pixels that the network has, the last map is given: behind the last norm in a plain vision
transformer, at the end of each stage in a pyramid.

Legend of tensor suffixes: B batch, C channels, H and W rows and columns, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latency_tables.runtimes.onnx_file import OUTPUT_NAME
from nas.errors import NasError
from nas.exporting.formats.base import ExportedNetwork
from nas.exporting.formats.onnx_file import OnnxFile
from nas.networks.onnx import OnnxNetwork, export_onnx
from supernets.feature_maps import FeatureMaps


class FeatureFile(OnnxFile):
    """``features``: outputs ``stride4``, ``stride8`` and so on, whichever there are, beside the logits."""

    name = "features"
    file = "model.features.onnx"
    any_batch = False

    def write(self, network: ExportedNetwork, path: Path) -> Mapping[str, Any]:
        """Write the file, and compare its maps with those in PyTorch.

        Returns:
            ``maps``: of each its name, stride, channels, side and largest difference, as a share of its range.

        Raises:
            NasError: The network has no maps, cannot be exported, or the maps differ.
        """
        images_BCHW = network.images_BCHW
        module = FeatureMaps(network.module, images_BCHW[:1]).eval()
        names = [f"stride{stride}" for stride in module.maps]
        export_onnx(module, images_BCHW.shape[-1], path, outputs=(OUTPUT_NAME, *names))
        with torch.no_grad():
            _, *expected = module(images_BCHW)
        found = OnnxNetwork(path).outputs(images_BCHW, names)
        maps = []
        for name, stride, expected_BCHW, found_BCHW in zip(names, module.maps, expected, found, strict=True):
            span = float(expected_BCHW.max() - expected_BCHW.min())
            difference = float(np.abs(found_BCHW - expected_BCHW.numpy()).max()) / max(span, 1e-12)
            if not difference <= (self.tolerance or 0.0):
                raise NasError(
                    f"format `{self.name}`: the map at stride {stride} differs by {difference:.2g} of its range from"
                    f" the network's, expected at most {self.tolerance:g}; nothing was written",
                    hint="leave the format out",
                )
            channels, side = expected_BCHW.shape[1:3]
            maps.append({"name": name, "stride": stride, "channels": channels, "side": side, "difference": difference})
        return {"maps": maps}


FEATURES = FeatureFile()
