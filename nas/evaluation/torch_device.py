"""Where networks run in PyTorch."""

from __future__ import annotations


def choose_device(device: str | None) -> str:
    """``device``, or the first GPU if there is one, else the CPU."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")
