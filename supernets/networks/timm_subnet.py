"""A network inside a timm model, as the timm model itself at other sizes. This file needs torch and timm only.

It travels beside exported weights and rebuilds the network from ``config.json``::

    import json, safetensors.torch
    from timm_subnet import build_subnet

    config = json.load(open("config.json"))["network"]
    model = build_subnet(config, safetensors.torch.load_file("model.safetensors"))

What comes back is an object of timm's own class, for example a ``VisionTransformer``, with everything that has, from
``forward_features`` to ``reset_classifier``.

Legend of tensor suffixes: B batch, N tokens, M patches, S every second patch, T the others, K kept and R merged ones of
the former, C channels, E channels and the size of the token behind them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

OLDEST_TIMM = "1.0.23"
"""The oldest release of timm whose models take the sizes that this file gives them."""


def build_subnet(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """The network in evaluation mode.

    Args:
        config: ``model``, a name of timm; ``arguments`` of ``timm.create_model``; ``keep``, of lists of blocks by path
            the numbers of those that the network has; ``attributes``, of modules by path (in the network) the sizes
            that differ from the whole model's; ``constants``, of computed tensors by path their length; ``timm``, the
            oldest release of timm that builds this network; ``merging`` where tokens are merged: arguments of
            `MergingBlocks`.
        weights: All tensors of the network by name, in its own sizes.

    Raises:
        ImportError: timm is too old.
        ValueError: Weights and network do not fit.
    """
    needed = str(config.get("timm", OLDEST_TIMM))
    if _numbers(timm.__version__) < _numbers(needed):
        raise ImportError(
            f"this network of `{config['model']}` needs timm {needed} or later, found {timm.__version__}:"
            f" pip install 'timm>={needed}'"
        )
    model: nn.Module = timm.create_model(config["model"], **config["arguments"])
    for path, numbers in config["keep"].items():
        blocks = model.get_submodule(path)
        kept = [blocks.get_submodule(str(number)) for number in numbers]
        owner, _, leaf = path.rpartition(".")
        setattr(
            model.get_submodule(owner),
            leaf,
            nn.Sequential(*kept) if isinstance(blocks, nn.Sequential) else nn.ModuleList(kept),
        )
    if "merging" in config:
        model.blocks = MergingBlocks(model.get_submodule("blocks"), **config["merging"])
    for path, attributes in config["attributes"].items():
        module = model.get_submodule(path)
        for name, value in attributes.items():
            setattr(module, name, tuple(value) if isinstance(value, list) else value)
    for name in model.state_dict():
        if name not in weights:
            raise ValueError(f"weights of `{config['model']}`: `{name}` is missing")
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(weights[name])
        else:
            module._buffers[leaf] = weights[name]
    for path, size in config["constants"].items():
        owner, _, leaf = path.rpartition(".")
        module = model.get_submodule(owner)
        setattr(module, leaf, getattr(module, leaf)[:size].clone())
    unknown = sorted(set(weights) - set(model.state_dict()))
    if unknown:
        raise ValueError(f"weights of `{config['model']}`: the network has no `{unknown[0]}`")
    return model.eval()


class MergingBlocks(nn.Sequential):
    """Blocks of a vision transformer, in front of some of which the most similar patches are merged.

    Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv 2210.09461. A token that stands for
    several patches counts as many times in attention. Deviations: tokens are merged in front of some blocks, not within
    each, and compared by themselves, not by their keys.

    Args:
        blocks: The blocks.
        before: Numbers of the blocks in front of which tokens are merged; one may be named twice, and behind the last
            block comes the head.
        merged: Patches that are merged into another each time.
        prefix: Tokens in front of the patches, which stay as they are.
    """

    def __init__(self, blocks: nn.Module, before: Sequence[int], merged: int, prefix: int) -> None:
        super().__init__(*blocks.children())
        self.before, self.merged, self.prefix = tuple(before), merged, prefix

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Tokens ``(B, N, C)`` to fewer tokens."""
        size_BN1 = bias_B11N = None
        blocks = list(self.children())
        for number in range(len(blocks) + 1):
            for _ in range(self.before.count(number)):
                x_BNE = with_sizes(x_BNC) if size_BN1 is None else torch.cat([x_BNC, size_BN1], dim=-1)
                x_BNE = merge_tokens(x_BNE, self.merged, self.prefix)
                size_BN1 = x_BNE[..., -1:]
                x_BNC, bias_B11N = without_sizes(x_BNE)
            if number < len(blocks):
                x_BNC = blocks[number](x_BNC) if bias_B11N is None else blocks[number](x_BNC, attn_mask=bias_B11N)
        return x_BNC


def with_sizes(x_BNC: Tensor) -> Tensor:
    """Tokens that stand for one patch each, with a channel that says so."""
    return F.pad(x_BNC, (0, 1), value=1.0)


def without_sizes(x_BNE: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens, and what is added to the logits of attention to them."""
    return x_BNE[..., :-1], x_BNE[..., -1].log()[:, None, None]


def merge_tokens(x_BNE: Tensor, merged: int, prefix: int) -> Tensor:
    """Merge ``merged`` of every second patch, those that are most like one of the others, into that one.

    What comes out are means weighted by sizes, behind the first ``prefix`` tokens.
    """
    if not x_BNE.is_meta and torch.is_autocast_enabled(x_BNE.device.type):
        with torch.autocast(x_BNE.device.type, enabled=False):  # which patches are most alike is a matter of digits
            return merge_tokens(x_BNE.float(), merged, prefix)
    patches_BMC, size_BM1 = x_BNE[:, prefix:, :-1], x_BNE[:, prefix:, -1:]
    unit_BMC = F.normalize(patches_BMC, dim=-1)
    best_BS, target_BS = (unit_BMC[:, ::2] @ unit_BMC[:, 1::2].transpose(1, 2)).max(dim=-1)
    order_BS = best_BS.argsort(dim=-1, descending=True)
    merged_BR, kept_BK = order_BS[:, :merged], order_BS[:, merged:].sort(dim=-1).values
    sum_BME = torch.cat([patches_BMC * size_BM1, size_BM1], dim=-1)
    source_BSE, sum_BTE = sum_BME[:, ::2], sum_BME[:, 1::2]
    targets_T = torch.arange(sum_BTE.shape[1], device=x_BNE.device)
    onto_BTR = (target_BS.gather(1, merged_BR)[:, None] == targets_T[:, None]).to(x_BNE.dtype)
    sum_BTE = sum_BTE + onto_BTR @ _taken(source_BSE, merged_BR)
    sum_BME = torch.cat([_taken(source_BSE, kept_BK), sum_BTE], dim=1)
    size_BM1 = sum_BME[..., -1:]
    mean_BME = torch.cat([sum_BME[..., :-1] / size_BM1, size_BM1], dim=-1)
    return torch.cat([x_BNE[:, :prefix], mean_BME], dim=1)


def _taken(x_BSE: Tensor, places_BK: Tensor) -> Tensor:
    """The tokens at some places of each image."""
    return x_BSE.gather(1, places_BK[..., None].expand(-1, -1, x_BSE.shape[-1]))


def _numbers(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)[:3]]
