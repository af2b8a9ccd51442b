"""Adapting a pretrained model to pictures of another kind, without labels, before anything is searched inside it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from nas.errors import NasError, UsageError
from nas.events import StageProgress, StageStarted, ignore
from nas.records.files import replacing_folder, write_json
from nas.runs.settings import Given, verb
from nas.runs.torch_device import choose_device
from nas.training.settings import AdaptSettings

FEWEST_PICTURES = 1000
WEIGHTS, CONFIG, RECORD = "model.safetensors", "config.json", "adapt.json"
RATE = 2e-4


@dataclass(frozen=True)
class AdaptResult:
    """A model that has learned from pictures of another kind.

    Attributes:
        folder: Where its weights lie, as ``weights`` of a search takes them.
        record: What ``adapt.json`` holds.
    """

    folder: Path
    record: Mapping[str, Any]


@verb(AdaptSettings)
def adapt(given: Given) -> AdaptResult:
    """Let a pretrained model learn from pictures of another kind, without labels, before it is searched.

    Returns:
        Where the weights are, and what was trained.

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
    from supernets.training.self_distillation import Adaptation, trained_parameters
    from supernets.training.self_distillation import adapt as train

    settings = AdaptSettings(**given)
    progress, data = settings.progress or ignore, Path(settings.data)
    pictures = find_pictures(data)
    if len(pictures) < FEWEST_PICTURES:
        raise UsageError(
            f"data `{data}`: {len(pictures)} pictures, expected {FEWEST_PICTURES:,} or more to learn from"
            " without labels",
            hint="with few pictures that have classes, `nas search --model` fine-tunes the model",
        )
    folder = Path(settings.output)
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
    losses = train(model, batches, how, lambda done: progress(StageProgress("adapt", done, steps)))
    tenth = max(1, len(losses) // 10)
    record = {
        "schema": 1,
        "model": reference.text,
        "weights": settings.weights,
        "data": str(data),
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
    return AdaptResult(folder, record)
