"""A network inside a timm model, as the timm model itself at other sizes. This file needs torch and timm only.

It travels beside exported weights and rebuilds the network from ``config.json``::

    import json, safetensors.torch
    from timm_subnet import build_subnet

    config = json.load(open("config.json"))["network"]
    model = build_subnet(config, safetensors.torch.load_file("model.safetensors"))

What comes back is an object of timm's own class, for example a ``VisionTransformer``, with everything that has, from
``forward_features`` to ``reset_classifier``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

OLDEST_TIMM = "1.0.23"
"""The oldest release of timm whose models take the sizes that this file gives them."""


def build_subnet(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """The network in evaluation mode.

    Args:
        config: ``model``, a name of timm; ``arguments`` of ``timm.create_model``; ``keep``, of lists of blocks by path
            the numbers of those that the network has; ``attributes``, of modules by path (in the network) the sizes
            that differ from the whole model's; ``constants``, of computed tensors by path their length; ``timm``, the
            oldest release of timm that builds this network.
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


def _numbers(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)[:3]]
