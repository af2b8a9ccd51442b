"""Fixed networks of timm whose outputs a supernet learns.

Source: Tang et al., "ElasticViT", ICCV 2023, arXiv 2303.09730: two teachers, whose outputs are sharpened and averaged.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernets.data.augmentation import Colours
from supernets.errors import CheckpointError, TrainingError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Teacher:
    """A network and what its images look like: their side, and the factor and term that turn ours into them."""

    network: nn.Module
    side: tuple[int, int]
    factor_C11: Tensor
    term_C11: Tensor


class Teachers:
    """Soft targets from one or more fixed networks.

    Args:
        teachers: The networks.
        temperature: What their logits are divided by; under 1 sharpens.
        precision: Precision of their products, float32 or bfloat16.
    """

    def __init__(self, teachers: Sequence[_Teacher], temperature: float, precision: torch.dtype) -> None:
        self._teachers = tuple(teachers)
        self._temperature = temperature
        self._precision = precision

    def __len__(self) -> int:
        return len(self._teachers)

    @torch.no_grad()
    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """The mean of the teachers' sharpened probabilities, ``[B, K]``, float32, without gradients.

        Args:
            images_BCHW: Normalised as the student's images are; every teacher gets them at its own side and with its
                own normalisation.
        """
        device = images_BCHW.device.type
        probabilities = []
        for teacher in self._teachers:
            seen_BCHW = _resized(images_BCHW * teacher.factor_C11 + teacher.term_C11, teacher.side)
            with torch.autocast(device, self._precision, enabled=self._precision != torch.float32):
                logits_BK = teacher.network(seen_BCHW.contiguous(memory_format=torch.channels_last))
            probabilities.append((logits_BK.float() / self._temperature).softmax(dim=-1))
        return torch.stack(probabilities).mean(dim=0)


def load_teachers(
    names: Sequence[str],
    classes: int | Sequence[str],
    temperature: float = 0.2,
    device: torch.device | str = "cpu",
    weights: Sequence[Path | str] | None = None,
    *,
    mean: Colours,
    std: Colours,
    precision: torch.dtype = torch.float32,
) -> Teachers:
    """Teachers by name, ready to be asked.

    Args:
        names: Names of timm networks, such as ``resnext101_32x8d.fb_swsl_ig1b_ft_in1k``, or ``hf-hub:owner/network``.
        classes: Names of the data's classes in their order, or their number. Names are compared with those beside a
            file of weights.
        temperature: What logits are divided by.
        device: Device on which they run.
        weights: A file or folder for each, as `supernets.timm_models.own_weights.read_into` reads them; without any,
            timm's own weights are fetched.
        mean: Means of the colours by which the student's images are normalised.
        std: Standard deviation of the colours by which the student's images are normalised.
        precision: ``torch.float32`` or ``torch.bfloat16``.

    Raises:
        TrainingError: A network is not known, its weights cannot be had, or it tells other classes.
    """
    if not temperature > 0:
        raise TrainingError(f"teachers: found temperature {temperature:g}, expected more than 0")
    check_teachers(names, weights)
    files = [Path(file) for file in weights] if weights else [None] * len(names)
    class_names = None if isinstance(classes, int) else tuple(classes)
    count = classes if isinstance(classes, int) else len(classes)
    found = []
    for name, file in zip(names, files, strict=True):
        network = _pretrained(name) if file is None else _from_file(name, count, class_names, file)
        told = getattr(network, "num_classes", count)
        if told != count:
            raise TrainingError(
                f"teacher `{name}` tells {told} classes, the data has {count}",
                hint="take a teacher that was trained on the same classes, or give its weights in a file",
            )
        found.append(_prepared(network, torch.device(device), mean, std))
    return Teachers(found, temperature, precision)


def check_teachers(names: Sequence[str], weights: Sequence[Path | str] | None = None) -> None:
    """Make sure of what can be known of teachers without loading them: their names, and that their files are there.

    Raises:
        TrainingError: timm has no such network, or no weights for it, or there is no such file.
    """
    from timm import is_model_pretrained

    if weights and len(weights) != len(names):
        raise TrainingError(f"teachers: found {len(weights)} files of weights, expected one for each of {len(names)}")
    for number, name in enumerate(names):
        file = weights[number] if weights else None
        if file is not None or ":" not in name:
            _check_name(name)
        if file is None and ":" not in name and not is_model_pretrained(name):
            raise TrainingError(f"teacher `{name}`: timm has no weights for it", hint="give its weights in a file")
        if file is not None and not Path(file).exists():
            raise TrainingError(f"teacher `{name}`: there is no file `{file}`")


def _prepared(network: nn.Module, device: torch.device, mean: Colours, std: Colours) -> _Teacher:
    from timm.data.config import resolve_data_config

    config = resolve_data_config({}, model=network)  # type: ignore[no-untyped-call]
    own_mean, own_std = torch.tensor(config["mean"]), torch.tensor(config["std"])
    ready: nn.Module = network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    factor, term = torch.tensor(std) / own_std, (torch.tensor(mean) - own_mean) / own_std
    height, width = config["input_size"][-2:]
    return _Teacher(ready, (height, width), factor[:, None, None].to(device), term[:, None, None].to(device))


def _resized(images_BCHW: Tensor, side: tuple[int, int]) -> Tensor:
    if images_BCHW.shape[-2:] == side:
        return images_BCHW
    return F.interpolate(images_BCHW, side, mode="bicubic", align_corners=False, antialias=True)


def _pretrained(name: str) -> nn.Module:
    from timm import create_model

    hint = "check the network connection, or give its weights in a file"
    try:
        network: nn.Module = create_model(name, pretrained=True)
    except Exception as error:  # timm, the hub and its client each have their own kinds of errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f"teacher `{name}`: its weights cannot be had: {reason}", hint=hint) from error
    return network


def _from_file(name: str, classes: int, class_names: Sequence[str] | None, file: Path) -> nn.Module:
    from timm import create_model

    from supernets.timm_models.own_weights import read_into

    network: nn.Module = create_model(name, pretrained=False, num_classes=classes)
    try:
        tells_classes, notes = read_into(network, file, class_names)
    except CheckpointError as error:
        raise TrainingError(
            f"teacher `{name}`: `{file}` does not hold its weights for {classes} classes: {error}", hint=error.hint
        ) from error
    if not tells_classes:
        raise TrainingError(
            f"teacher `{name}`: `{file}` does not hold its weights for {classes} classes: {'; '.join(notes)}"
            f"{'' if notes else 'it has no classifier for so many'}",
            hint="take a teacher that was trained on the same classes",
        )
    for note in notes:
        logger.warning("teacher `%s`: %s", name, note)
    return network


def _check_name(name: str) -> None:
    from timm import is_model, list_models

    if not is_model(name):
        close = difflib.get_close_matches(name, [*list_models(), *list_models(pretrained=True)], n=1)
        raise TrainingError(
            f"teacher `{name}`: timm has no network of that name",
            hint=f"did you mean `{close[0]}`?" if close else "see `timm.list_models()`",
        )
