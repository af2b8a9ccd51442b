"""Adapting a pretrained model to pictures of another kind, without labels, before anything is searched inside it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from nas.errors import NasError, UsageError
from nas.events import Progress, StageProgress, StageStarted, ignore
from nas.records.files import replacing_folder, write_json
from nas.runs.torch_device import choose_device

FEWEST_PICTURES = 1000
WEIGHTS, CONFIG, RECORD = "model.safetensors", "config.json", "adapt.json"
RATE = 2e-4


@dataclass(frozen=True)
class AdaptSettings:
    """What `nas adapt` is asked.

    Attributes:
        model: Name of a model of timm.
        data: Folder with pictures, however they are laid out.
        output: Folder to write the weights to.
        weights: Weights to begin with: ``pretrained`` for timm's, or a file or folder.
        epochs: Passes over the pictures.
        batch_size: Pictures in a step.
        rank: Rank of the change of query and value rows.
        seed: Seed of crops and of what begins at random.
        device: Device of PyTorch's; None takes a GPU where there is one.
    """

    model: str
    data: Path
    output: Path
    weights: str = "pretrained"
    epochs: int = 10
    batch_size: int = 64
    rank: int = 64
    seed: int = 0
    device: str | None = None


def adapt_model(settings: AdaptSettings, progress: Progress = ignore) -> dict[str, Any]:
    """Adapt a model, and write its weights as a folder that ``--weights`` takes.

    Returns:
        What ``adapt.json`` holds.

    Raises:
        UsageError: There are fewer than 1,000 pictures, or numbers are out of range.
        DataError: There is no folder with pictures.
        UnknownNameError, CheckpointError: There is no such model, or its weights cannot be read.
        TrainingError: The model has no class token, or the loss is not finite.
        NasError: The folder cannot be written, or holds something else.
    """
    import torch
    from safetensors.torch import save

    from supernets.data.unlabelled import Crops, find_pictures
    from supernets.timm_models.loading import load_backbone
    from supernets.training.self_distillation import Adaptation, adapt, trained_parameters

    pictures = find_pictures(settings.data)
    if len(pictures) < FEWEST_PICTURES:
        raise UsageError(
            f"data `{settings.data}`: {len(pictures)} pictures, expected {FEWEST_PICTURES:,} or more to learn from"
            " without labels",
            hint="with few pictures that have classes, `nas search --model` fine-tunes the model",
        )
    folder = settings.output
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).exists():
        raise NasError(f"`{folder}` exists and holds no adapted model", hint="choose another `--output`")
    device = choose_device(settings.device)
    model, reference, colours, license_name = load_backbone(settings.model, settings.weights)
    embedding: Any = model.patch_embed
    side, patch = embedding.img_size[0], embedding.patch_size[0]
    size = min(settings.batch_size, len(pictures))
    steps = settings.epochs * (len(pictures) // size)
    crops = Crops(pictures, side, patch, colours, settings.seed)
    workers = min(8, os.cpu_count() or 1) if device.startswith("cuda") else 0
    batches = chain.from_iterable(crops.batches(size, epoch, workers) for epoch in range(settings.epochs))
    params = sum(parameter.numel() for parameter in model.parameters())
    progress(StageStarted("adapt"))
    started = time.monotonic()
    how = Adaptation(settings.rank, RATE, steps, settings.seed, torch.device(device))
    losses = adapt(model, batches, how, lambda done: progress(StageProgress("adapt", done, steps)))
    tenth = max(1, len(losses) // 10)
    record = {
        "schema": 1,
        "model": reference.text,
        "weights": settings.weights,
        "data": str(settings.data),
        "pictures": len(pictures),
        "steps": len(losses),
        "epochs": settings.epochs,
        "rank": settings.rank,
        "params": params,
        "trained": trained_parameters(model, settings.rank),
        "seed": settings.seed,
        "loss_first": sum(losses[:tenth]) / tenth,
        "loss_last": sum(losses[-tenth:]) / tenth,
        "seconds": time.monotonic() - started,
    }
    config = {
        "architecture": reference.name,
        "num_classes": 0,
        "model_args": dict(reference.arguments),
        "pretrained_cfg": {
            "mean": list(colours[0]),
            "std": list(colours[1]),
            "input_size": [3, side, side],
            "license": license_name,
        },
    }
    with replacing_folder(folder) as draft:
        (draft / WEIGHTS).write_bytes(save(model.state_dict(), {"format": "pt"}))
        write_json(draft / CONFIG, config)
        write_json(draft / RECORD, record)
    return record
