"""Whether reading images hides behind training: images per second of the loader, of a step, and of both together.

The step is that of a supernet's training: forward and backward of the networks that a sampling policy chooses, and a
move of the optimiser. It is timed on one batch that stays where it is, then the loader without a step, then a training
loop that takes its batches from the loader. Where reading hides, the loop is about as fast as the slower of the two
alone, and the step is the slower one. Without a folder of images, photograph-like ones (500 x 375 pixels, about 110 KB)
are made in a temporary folder. `--files` also times how long it takes to find that many (empty) files.

    python benchmarks/data_loading.py [--data FOLDER] [--space elastic] [--policy conflict-aware] [--batch 128]
        [--workers N] [--augmentation elasticvit] [--precision bf16] [--seconds 30] [--files 100000]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from search_spaces import Architecture, get_space
from supernets import Supernet
from supernets.data.image_data import Batch, ImageData
from supernets.data.image_loader import default_workers
from supernets.data.sources import load_data
from supernets.sampling import get_policy

CLASSES, PHOTOGRAPHS, NAMES_EACH = 10, 400, 25
"""Every photograph has several names, so that an epoch is no shorter than a few dozen batches."""
CHOSEN_STEPS = 32
"""Steps whose networks are drawn beforehand and trained in turn."""


@dataclass
class Training:
    """A supernet and what its next steps train."""

    supernet: Supernet
    chosen: list[list[Architecture]]
    precision: torch.dtype

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.supernet.parameters(), lr=1e-4)
        self.step_number = 0

    def step(self, batch: Batch) -> None:
        """Train the next networks on these images."""
        device = self.supernet.device
        images_BCHW = batch[0].to(device, memory_format=torch.channels_last, non_blocking=True)
        labels_B = batch[1].to(device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        for architecture in self.chosen[self.step_number % len(self.chosen)]:
            with self.supernet.borrow(architecture) as subnet:
                with torch.autocast(device.type, self.precision, enabled=self.precision != torch.float32):
                    loss = F.cross_entropy(subnet(images_BCHW), labels_B)
                loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step_number += 1
        if device.type == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    """Run the benchmark and print a table."""
    arguments = _arguments()
    with ExitStack() as stack:
        folder = arguments.data
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_photographs(folder)
        if arguments.files:
            time_index(arguments.files)
        space = get_space(arguments.space)
        workers = default_workers() if arguments.workers is None else arguments.workers
        data = load_data(str(folder), space.image_side, workers=workers, augmentation=arguments.augmentation)
        training = new_training(arguments, data)
        print(
            f"{len(os.sched_getaffinity(0))} cores, {workers} worker processes, {torch.get_num_threads()} threads,"
            f" {training.supernet.device}, {arguments.precision}; {arguments.space} at {space.image_side} pixels,"
            f" policy {arguments.policy}, batch {arguments.batch}, augmentation {arguments.augmentation}"
        )
        batches = endless(data, arguments.batch)
        first = next(batches)
        timing = (arguments.batch, arguments.seconds)
        alone = rate(lambda: next(batches), *timing)
        step = rate(lambda: training.step(first), *timing)
        together = rate(lambda: training.step(next(batches)), *timing)
    slower = min(alone, step)
    print(f"loader alone                    {alone:10.1f} images/s")
    print(f"step alone, on a cached batch   {step:10.1f} images/s")
    print(
        f"together                        {together:10.1f} images/s   {together / slower:.2f} of the slower one alone"
    )
    print("reading hides behind training" if together >= 0.95 * step else "training waits for images")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a folder of images")
    parser.add_argument("--space", default="elastic")
    parser.add_argument("--policy", default="sandwich")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, help="processes that read; one per free core unless given")
    parser.add_argument("--augmentation", default="elasticvit")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of the three timings")
    parser.add_argument("--files", type=int, default=0, help="also find this many files")
    return parser.parse_args()


def new_training(arguments: argparse.Namespace, data: ImageData) -> Training:
    """A new supernet, and the networks of its next steps."""
    space = get_space(arguments.space, classes=data.classes)
    sampler = get_policy(arguments.policy).begin(space, seed=0)
    chosen = [[each.architecture for each in sampler.assign(step, 0.0)] for step in range(CHOSEN_STEPS)]
    precision = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    return Training(Supernet(space).to(arguments.device).train(), chosen, precision)


def endless(data: ImageData, batch_size: int) -> Iterator[Batch]:
    """Training batches of one epoch after another."""
    epoch = 0
    while True:
        yield from data.train_batches(batch_size, 0, epoch)
        epoch += 1


def rate(one: Callable[[], object], batch_size: int, seconds: float) -> float:
    """Images per second of calls that take a batch each, after a quarter of the time to warm up."""
    end, calls = time.perf_counter() + seconds / 4, 0
    while time.perf_counter() < end:
        one()
    began = time.perf_counter()
    while not calls or time.perf_counter() - began < seconds:
        one()
        calls += 1
    return calls * batch_size / (time.perf_counter() - began)


def write_photographs(folder: Path) -> None:
    """Smooth colours with grain, as JPEG files about as large as those of ImageNet."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        path = folder / f"class{number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        shades = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.float32)
        grained = shades + generator.normal(0, 9, shades.shape)
        Image.fromarray(grained.clip(0, 255).astype(np.uint8)).save(path, quality=92)
        for copy in range(1, NAMES_EACH):
            path.with_stem(f"{number}_{copy}").hardlink_to(path)


def time_index(count: int) -> None:
    """Print how long it takes to find this many files, and to find them again."""
    from supernets.data.image_index import SETTLED_SECONDS, image_extensions, index_images

    image_extensions()  # timm's import is not what is timed
    per_class = 1000
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as name:
        os.environ["NAS_CACHE_DIR"] = cache
        for number in range(count):
            path = Path(name) / f"class{number // per_class:05}" / f"{number:08}.JPEG"
            if number % per_class == 0:
                path.parent.mkdir()
            path.touch()
        time.sleep(SETTLED_SECONDS + 1)
        for what in ("finding", "finding again"):
            began = time.perf_counter()
            found = len(index_images(Path(name)).names)
            print(f"{what} {found:,} files: {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
