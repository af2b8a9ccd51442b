"""The family of networks inside timm models: chains of timm's own modules at the sizes of an architecture."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import SearchSpace
from search_spaces.timm_models import TimmBlock, TimmReference, TimmSpace
from supernets.family import NetworkFamily, register_family
from supernets.networks import timm_subnet
from supernets.timm_models.chain import Chain, adapter_of, chain_of, create, split
from supernets.timm_models.tables import HEAD_WIDTH


class TimmNetwork(nn.Module):
    """One network inside a timm model, as a chain of parts.

    Args:
        config: ``input_side``, ``classes`` and ``blocks``: the parts, with ``name`` and the fields of `TimmBlock`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.input_side = int(config["input_side"])
        blocks = config["blocks"]
        self.block_names = [str(block["name"]) for block in blocks]
        model, classes = str(blocks[0]["model"]), int(config["classes"])
        chain = chain_of(model, self.input_side, classes)
        on_meta = torch.empty(0).is_meta
        modules = {} if on_meta else _fresh_modules(model, self.input_side, classes)
        for block in blocks:
            table = chain.parts[block["name"]].table
            module = copy.deepcopy(table.module) if on_meta else modules[block["name"]]
            self._place(block["name"], table.resize(module, dict(block["sizes"])))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` of any side to logits ``(B, classes)``."""
        x = resize_images(x_BCHW, self.input_side)
        for name in self.block_names:
            x = self.get_submodule(name)(x)
        return x

    def _place(self, name: str, module: nn.Module) -> None:
        parent: nn.Module = self
        *containers, leaf = name.split(".")
        for container in containers:
            if container not in parent._modules:
                parent.add_module(container, nn.Module())
            parent = parent.get_submodule(container)
        parent.add_module(leaf, module)


class TimmFamily(NetworkFamily):
    """Modules and axes of the networks inside timm models."""

    source_file = timm_subnet.__file__
    class_name = "build_subnet"  # a function: what it returns is of a class of timm

    def build_block(self, spec: TimmBlock) -> nn.Module:
        """The part on the meta device, with constants on the CPU."""
        table = _chain(spec).parts[spec.part].table
        return table.resize(copy.deepcopy(table.module), dict(spec.sizes))

    def build_network(self, config: Mapping[str, Any]) -> nn.Module:
        """The chain of a whole network, freshly initialised as timm initialises the whole model."""
        return TimmNetwork(config)

    def axes(self, spec: TimmBlock) -> Mapping[str, str]:
        """The axis description of every tensor of a part."""
        return _chain(spec).parts[spec.part].table.axes

    def sizes(self, spec: TimmBlock) -> Mapping[str, int]:
        """The size that a part gives to each named axis."""
        return _chain(spec).parts[spec.part].table.active(dict(spec.sizes))

    def in_order(self, spec: TimmBlock) -> set[str]:
        """The axes whose entries cannot be put into another order without changing the function."""
        return _chain(spec).parts[spec.part].table.in_order

    def layers(self, space: SearchSpace, network: nn.Module) -> Mapping[str, int]:
        """The layers that timm's own optimisers go by, where the model's class knows any; else its parts."""
        from timm.models import group_parameters

        (_, stem), *_ = space.blocks(space.largest)
        assert isinstance(stem, TimmBlock)
        reference = TimmReference.parse(stem.model)
        with torch.device("meta"):
            whole = _create(stem.model, stem.side, stem.classes)
            if not hasattr(whole, "group_matcher"):
                return super().layers(space, network)
            numbers = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
            found = {parameter: numbers[name] for name, parameter in whole.named_parameters()}
            parts = split(adapter_of(whole, reference), whole, reference)
        return {
            f"{part.name}.{name}": found[parameter]
            for part in parts
            for name, parameter in part.table.module.named_parameters()
        }

    def prepare(self, x_BCHW: Tensor, input_side: int) -> Tensor:
        """Images to the side that the network computes on."""
        return resize_images(x_BCHW, input_side)


def narrow_heads_of(spec: TimmBlock) -> tuple[str, ...]:
    """Paths of the attentions of a part whose heads can be narrower."""
    return tuple(_chain(spec).parts[spec.part].table.narrow_heads) if HEAD_WIDTH in dict(spec.sizes) else ()


def resize_images(x_BCHW: Tensor, side: int) -> Tensor:
    """Images of any side to ``side`` pixels, bicubic without anti-aliasing."""
    if x_BCHW.shape[-2:] == (side, side):
        return x_BCHW
    return F.interpolate(x_BCHW, size=(side, side), mode="bicubic", align_corners=False)


def _chain(spec: TimmBlock) -> Chain:
    return chain_of(spec.model, spec.side, spec.classes)


def _create(model: str, side: int, classes: int) -> nn.Module:
    """The whole model as timm makes it, on the default device."""
    return create(TimmReference.parse(model), side if _takes_side(model, side, classes) else None, classes)


def _fresh_modules(model: str, side: int, classes: int) -> dict[str, nn.Module]:
    reference, whole = TimmReference.parse(model), _create(model, side, classes)
    return {part.name: part.table.module for part in split(adapter_of(whole, reference), whole, reference)}


def _takes_side(model: str, side: int, classes: int) -> bool:
    return chain_of(model, None, classes).side != side


register_family(TimmSpace, TimmFamily())
