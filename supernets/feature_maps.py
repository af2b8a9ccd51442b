"""Maps of features beside the logits of a network, wherever its parts have some.

Legend of tensor suffixes: B batch, C channels, H and W rows and columns, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.early_exits import PatchMap
from supernets.errors import SupernetError
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
        SupernetError: It has none, or merges tokens.
    """

    def __init__(self, network: nn.Module, image_BCHW: Tensor) -> None:
        super().__init__()
        if any(isinstance(module, MergingBlocks) for module in network.modules()):
            raise SupernetError(
                "the network merges tokens, so that its patches are on no grid any more",
                hint="pick a network that merges none",
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
            raise SupernetError(
                "the network has no maps at strides of 4 to 32 pixels",
                hint="take a vision transformer whose blocks keep their patches apart",
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
