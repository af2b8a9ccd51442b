"""What networks are worth on test images that are disturbed: patches of other images, noise, blur and the like.

Sources: patches: Gu, Tresp and Qin, "Are Vision Transformers Robust to Patch Perturbations?", ECCV 2022, arXiv
2111.10659, natural ones; the others are among those of Hendrycks and Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations", ICLR 2019, arXiv 1903.12261, at one middle strength.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.evaluation.accuracy import judge
from nas.evaluation.evaluators import BATCH_SIZE

if TYPE_CHECKING:
    import torch

    from supernets.data.image_data import ImageData

    Disturb = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]
    """Images ``(B, C, H, W)`` in [0, 1] to disturbed ones."""

PLAIN = "undisturbed"
PATCHES = (1, 2, 4)
FINE_SIDE, FINE, COARSE = 112, 14, 8
"""Patches along a side of images from ``FINE_SIDE`` pixels on, and of smaller ones."""
NOISE, BLUR, CONTRAST, BRIGHTNESS, QUALITY = 0.1, 1 / 64, 0.5, 0.2, 25
"""Standard deviation of noise; that of blur, as a share of the side; factor; term; of JPEG files."""


def disturbances() -> Mapping[str, Disturb]:
    """All disturbances by name, none of them among the first."""
    patches: dict[str, Disturb] = {}
    for count in PATCHES:
        named = f"{count} patch{'' if count == 1 else 'es'} of another image"
        patches[named] = partial(replace_patches, count=count, is_on_grid=True)
        patches[f"{named}, off the grid"] = partial(replace_patches, count=count, is_on_grid=False)
    return {
        PLAIN: lambda x_BCHW, _: x_BCHW,
        **patches,
        "noise": _noise,
        "blur": _blur,
        "contrast": lambda x_BCHW, _: (x_BCHW - 0.5) * CONTRAST + 0.5,
        "brightness": lambda x_BCHW, _: x_BCHW + BRIGHTNESS,
        "JPEG": _jpeg,
    }


def robustness(networks: Mapping[str, Callable[[torch.Tensor], Any]], images: ImageData, seed: int) -> dict[str, Any]:
    """Accuracies on the test part by disturbance and network, in [0, 1]; all networks see the same images.

    Args:
        networks: Normalised images ``(B, C, H, W)`` to logits ``(B, K)``, by name.
        images: Images that they tell apart.
        seed: Seed of what is drawn.
    """
    return {
        name: {
            network: judge(run, _disturbed(images, disturb, seed), images.class_names).accuracy
            for network, run in networks.items()
        }
        for name, disturb in disturbances().items()
    }


def _disturbed(images: ImageData, disturb: Disturb, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    import torch

    generator = np.random.default_rng(seed)
    mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (images.mean, images.std))
    for x_BCHW, labels_B in images.batches("test", BATCH_SIZE):
        shades_BCHW = x_BCHW * std_C11 + mean_C11
        disturbed_BCHW = disturb(shades_BCHW, generator)
        if disturbed_BCHW is shades_BCHW:
            yield x_BCHW, labels_B
        else:
            yield (disturbed_BCHW.clamp(0, 1) - mean_C11) / std_C11, labels_B


def patch_side(side: int) -> int:
    """Side in pixels of the patches that are replaced in images of a side."""
    return max(1, side // (FINE if side >= FINE_SIDE else COARSE))


def replace_patches(x_BCHW: torch.Tensor, generator: np.random.Generator, count: int, is_on_grid: bool) -> torch.Tensor:
    """Put patches of the next image of the batch in the place of an image's own.

    Args:
        x_BCHW: Left as they are.
        generator: Draws the places, all different.
        count: Patches of each image.
        is_on_grid: Whether they lie on the grid of patches, or half a patch off it both ways.
    """
    patch, found_BCHW = patch_side(x_BCHW.shape[-1]), x_BCHW.clone()
    offset = 0 if is_on_grid else patch // 2
    steps = (x_BCHW.shape[-1] - offset) // patch
    for number in range(len(x_BCHW)):
        for place in generator.choice(steps * steps, size=count, replace=False).tolist():
            top, left = (offset + patch * step for step in divmod(place, steps))
            rows, columns = slice(top, top + patch), slice(left, left + patch)
            found_BCHW[number, :, rows, columns] = x_BCHW[(number + 1) % len(x_BCHW), :, rows, columns]
    return found_BCHW


def _noise(x_BCHW: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    import torch

    return x_BCHW + NOISE * torch.from_numpy(generator.standard_normal(tuple(x_BCHW.shape), dtype=np.float32))


def _blur(x_BCHW: torch.Tensor, _: np.random.Generator) -> torch.Tensor:
    from torchvision.transforms.functional import gaussian_blur

    sigma = x_BCHW.shape[-1] * BLUR
    blurred_BCHW: torch.Tensor = gaussian_blur(x_BCHW, [2 * round(2 * sigma) + 1] * 2, [sigma] * 2)
    return blurred_BCHW


def _jpeg(x_BCHW: torch.Tensor, _: np.random.Generator) -> torch.Tensor:
    import torch
    from PIL import Image

    found = []
    for image_CHW in x_BCHW:
        file = io.BytesIO()
        pixels_HWC = (image_CHW.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels_HWC).save(file, "JPEG", quality=QUALITY)
        decoded_HWC = np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) / 255
        found.append(torch.from_numpy(decoded_HWC).permute(2, 0, 1))
    return torch.stack(found)
