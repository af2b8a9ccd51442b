"""A small transformer with random weights, to be quantised."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from nas.quantisation.watching import weighted_layers


def random_vit(depth: int = 2) -> nn.Module:
    """A ViT for images of 32 pixels and 7 classes; no two of its tensors are equal, since files would merge them."""
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=depth, num_classes=7
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return network.eval()


def random_images(count: int) -> Tensor:
    """Images ``(count, 3, 32, 32)``."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def inner_layers(network: nn.Module) -> list[str]:
    """Names of all weighted layers but the one that reads the image."""
    return [layer.name for layer in weighted_layers(network, random_images(1)) if not layer.reads_image]
