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
from torch import Tensor, nn

from latency_tables.runtimes.onnx_file import OUTPUT_NAME
from nas.errors import NasError
from nas.exporting.formats.base import ExportedNetwork
from nas.exporting.formats.onnx_file import OnnxFile
from nas.networks.onnx import OnnxNetwork, export_onnx
from supernets.early_exits import PatchMap
from supernets.networks.timm_subnet import MergingBlocks

STRIDES = range(4, 33)


class FeatureMaps(nn.Module):
    """A network whose maps are given beside its logits.

    Args:
        network: In evaluation mode.
        image_BCHW: An image at its side, to see where it has maps.

    Attributes:
        maps: By stride, the name of the part behind which the map flows, and where the map is in that.

    Raises:
        NasError: It has none, or merges tokens.
    """

    def __init__(self, network: nn.Module, image_BCHW: Tensor) -> None:
        super().__init__()
        if any(isinstance(module, MergingBlocks) for module in network.modules()):
            raise NasError(
                "format `features`: the network merges tokens, so that its patches are on no grid any more",
                hint="leave the format out, or pick a network that merges none",
            )
        self.network = network
        side, found = image_BCHW.shape[-1], {}
        with torch.no_grad():
            flows, _ = self._run(image_BCHW.repeat(2, 1, 1, 1), _places(network))
        for name, x in flows.items():
            patch_map = PatchMap.of(x.shape[1:], side) if len(x) == 2 else None  # windows have other batches
            if patch_map is not None and side % patch_map.side == 0 and side // patch_map.side in STRIDES:
                found[side // patch_map.side] = (name, patch_map)
        if not found:
            raise NasError(
                "format `features`: the network has no maps at strides of 4 to 32 pixels", hint="leave the format out"
            )
        self.maps = dict(sorted(found.items()))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Logits ``(B, K)``, and maps ``(B, C, H, W)``, the finest first."""
        flows, logits_BK = self._run(x_BCHW, [name for name, _ in self.maps.values()])
        return logits_BK, *(patch_map.patches(flows[name]) for name, patch_map in self.maps.values())

    def _run(self, x_BCHW: Tensor, names: list[str]) -> tuple[dict[str, Tensor], Tensor]:
        """What flows behind parts, in the order in which they end, and the logits."""
        flows: dict[str, Tensor] = {}
        handles = []
        for name in names:

            def keep(_: nn.Module, inputs: object, output: object, name: str = name) -> None:
                first = output[0] if isinstance(output, tuple) and output else output
                if isinstance(first, Tensor):
                    flows.pop(name, None)
                    flows[name] = first

            handles.append(self.network.get_submodule(name).register_forward_hook(keep))
        try:
            logits_BK: Tensor = self.network(x_BCHW)
        finally:
            for handle in handles:
                handle.remove()
        return flows, logits_BK


def _places(network: nn.Module) -> list[str]:
    """Names of the parts that stand in a row: those of the network itself, and members of rows and of mere lists."""
    rows = {
        name
        for name, module in network.named_modules()
        if not name or isinstance(module, nn.Sequential) or type(module).forward is nn.Module.forward
    }
    return [name for name, _ in network.named_modules() if name and name.rpartition(".")[0] in rows]


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
