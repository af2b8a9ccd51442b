"""The whole of a pretrained model fine-tuned before anything is searched inside it, where a budget allows.

Layers near the images move least: Clark et al., "ELECTRA", ICLR 2020, arXiv 2003.10555; for vision transformers Bao et
al., "BEiT", ICLR 2022, arXiv 2106.08254.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from typing import TYPE_CHECKING

from nas.evaluation.evaluators import SupernetEvaluator
from nas.events import Progress, StageStarted
from nas.networks.precision import fast_precision, width_of
from nas.training.request import SINGLE_POLICY
from search_spaces import SearchSpace, SingleSpace
from search_spaces.files import cache_dir

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet
    from supernets.training.settings import Precision

PRETRAINED_RATE, RATED_WIDTH = 5e-4, 128
"""Peak learning rate for trained weights, an eighth of that for random ones, and the width that it is for."""
LAYER_DECAY, RATE_SHARE = 0.75, 0.4
"""Factor of the rate from each layer to the one before it, and what the last layer has of the rate above."""
FEWEST_PASSES = 10.0
"""Passes over the training images below which fine-tuning is not begun; one made a DINOv2-S worse by five points."""
STEP_COST = 3.5
"""Time of a training step, in passes forward over the same images."""


def pretrained_rate(space: SearchSpace) -> float:
    """Peak learning rate for the trained weights of a model: less where it is wider, as AdamW moves all weights alike.

    Inversely as the width, after Yang et al., "Tensor Programs V", 2022, arXiv 2203.03466.
    """
    return PRETRAINED_RATE * min(1.0, RATED_WIDTH / (width_of(space) or RATED_WIDTH))


def fine_tune(
    supernet: Supernet,
    images: ImageData,
    seed: int,
    seconds: float,
    before: float,
    progress: Progress,
    precision: Precision | None = None,
) -> float | None:
    """Train the whole network of a supernet for a while, and keep what came out where it is better.

    A training that is killed goes on from its checkpoint in the cache when the same is asked for again.

    Args:
        supernet: The weights, changed in place where that makes them better.
        images: Images to train on, and to judge on.
        seed: Seed of the training.
        seconds: Time for it.
        before: Accuracy of the network as it is, on the search part.
        progress: Told of the training.
        precision: Precision of its products; None for that of `fast_precision`.

    Returns:
        The accuracy of the fine-tuned network on the search part, in [0, 1]; None where the time is too short.

    Raises:
        TrainingError: The loss is not finite.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    from supernets.checkpoint import CHECKPOINT_NAME
    from supernets.supernet import Supernet
    from supernets.training.events import Callbacks
    from supernets.training.settings import TrainingSettings
    from supernets.training.trainer import train_supernet

    settings = TrainingSettings(
        budget_seconds=seconds,
        seed=seed,
        policy=SINGLE_POLICY,
        learning_rate=RATE_SHARE * pretrained_rate(supernet.space),
        layer_decay=LAYER_DECAY,
        precision=precision or fast_precision(supernet.space, supernet.device),
    )
    folder = cache_dir() / "adapted" / _digest(supernet, images, settings.to_dict())
    is_begun = (folder / CHECKPOINT_NAME).is_file()
    if not is_begun and _passes(supernet, images, seconds, settings.batch_size) < FEWEST_PASSES:
        return None
    largest = supernet.space.largest
    network = Supernet(SingleSpace(supernet.space, largest)).to(supernet.device)
    network.network.load_state_dict(supernet.extract(largest).state_dict())
    progress(StageStarted("fine-tune the model", seconds))
    train_supernet(network, images, settings, folder, resume=is_begun, callbacks=Callbacks(progress, progress))
    network.eval()
    accuracy = SupernetEvaluator(network, images, seed).evaluate(largest, seed).objective
    if accuracy > before:
        supernet.network.load_state_dict(network.network.state_dict())
    shutil.rmtree(folder, ignore_errors=True)
    return accuracy


def _passes(supernet: Supernet, images: ImageData, seconds: float, batch_size: int) -> float:
    """Passes over the training images that the time is enough for, judged by one batch forward."""
    import torch

    x_BCHW, _ = next(iter(images.batches("train", batch_size)))
    with torch.inference_mode():
        supernet.network(x_BCHW[:1].to(supernet.device))
        started = time.monotonic()
        supernet.network(x_BCHW.to(supernet.device)).sum().item()
    per_image = STEP_COST * (time.monotonic() - started) / len(x_BCHW)
    return seconds / max(per_image, 1e-9) / images.splits["train"]


def _digest(supernet: Supernet, images: ImageData, settings: object) -> str:
    digest = hashlib.sha256(repr((supernet.space.name, images.describe(), settings)).encode())
    for name, tensor in supernet.network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
