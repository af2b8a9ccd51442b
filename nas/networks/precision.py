"""The precision in which trained models are computed while they are looked at and trained.

Networks are judged in single precision: what was cut and made up for is right on a point or two less in bf16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latency_tables.onnx_quantised import processor_flags
from search_spaces import SearchSpace
from search_spaces.timm_models import WIDTH

if TYPE_CHECKING:
    import torch

    from supernets.training.settings import Precision

BF16_WIDTH = 192
"""Width of a model from which products in bf16 are faster on processors that have them.

A training step takes 0.65 of its time in fp32 at a width of 384, and 1.1 at 128.
"""


def fast_precision(space: SearchSpace, device: torch.device) -> Precision:
    """The precision in which a device computes products of trained models soonest: bf16 where it has that, else fp32.

    Args:
        space: The space of the networks inside the model; narrow ones gain nothing.
        device: Where they run.
    """
    import torch

    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = device.type == "cpu" and bool({"avx512_bf16", "amx_bf16", "bf16"} & set(processor_flags()))
    return "bf16" if has_bf16 and width_of(space) >= BF16_WIDTH else "fp32"


def width_of(space: SearchSpace) -> int:
    """Largest width of a timm model's embeddings; 0 for networks that are none of timm's."""
    widths = [choice.values[-1] for choice in space.base.choices if choice.name.rpartition(".")[2] == WIDTH]
    return max(widths, default=0)
