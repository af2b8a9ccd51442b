"""Where networks run in PyTorch."""

from __future__ import annotations

import re

from nas.errors import UsageError


def choose_device(device: str | None) -> str:
    """``device``, or the first GPU if there is one, else the CPU.

    Raises:
        UsageError: There is no such device here.
    """
    found = devices_here()
    if device is None:
        return "cuda" if "cuda:0" in found else "cpu"
    name = device.strip().lower()
    if {name, f"{name}:0", name.removesuffix(":0")} & set(found):
        return name
    is_number = re.fullmatch(r"gpu:?(\d*)", name)
    raise UsageError(
        f"device `{device}`: no such device here, found {', '.join(found)}",
        hint=f"PyTorch calls GPUs cuda, cuda:0, cuda:1{' (not gpu)' if is_number else ''}; without a device the first"
        " GPU is taken if there is one, else the CPU",
    )


def devices_here() -> list[str]:
    """The devices of this machine by PyTorch's names, the CPU first."""
    import torch

    others = [f"cuda:{number}" for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    others += [f"xpu:{number}" for number in range(torch.xpu.device_count() if torch.xpu.is_available() else 0)]
    return ["cpu", *others, *(["mps"] if torch.backends.mps.is_available() else [])]
