"""Images in folders and in the datasets that timm.data knows, decoded and augmented by worker processes.

Source of the augmentation: Tang et al., "ElasticViT", ICCV 2023, arXiv 2303.09730 (random resized crop, mirroring,
RandAugment with one operation of magnitude 1, random erasing with probability 0.01), as timm implements it.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from supernets.data import (
    FEWEST_PER_CLASS,
    SEARCH_FRACTION,
    TEST_FRACTION,
    Batch,
    Division,
    ImageData,
    IntArray,
    Part,
    check_classes,
    digest_of,
    divide,
)
from supernets.errors import DataError

CACHE_BYTES = 256 * 2**20
"""A part whose decoded images take no more memory than this is decoded once."""
HEADER_CHECKS = 20_000
"""Up to this many files are opened when a folder is loaded, so that a damaged one is found before training."""
SMALL_SIDE = 128
_HELD_OUT = {"val": "search", "validation": "search", "test": "test"}
_WITHOUT_MIRRORING = ("torch/mnist", "torch/kmnist", "torch/qmnist", "hfds/ylecun/mnist")

Transform = Callable[[Any], Tensor]


class ImageStore(Protocol):
    """Images that can be opened one by one; picklable, so that worker processes can hold it."""

    @property
    def labels(self) -> IntArray:
        """The class index of each image."""
        ...

    def open(self, index: int) -> Any:
        """The decoded image, a PIL image in RGB.

        Raises:
            DataError: It cannot be read.
        """
        ...


@dataclass(frozen=True)
class FileStore:
    """Image files under a folder."""

    root: Path
    names: tuple[str, ...]
    labels: IntArray

    def open(self, index: int) -> Any:
        """The image of the file with this index."""
        return _decode(self.root / self.names[index], str(self.root / self.names[index]))


@dataclass(frozen=True)
class TimmStore:
    """Datasets of timm.data, one after another."""

    source: str
    datasets: tuple[Any, ...]
    labels: IntArray

    def open(self, index: int) -> Any:
        """The image with this index, counted through all datasets."""
        position = index
        for dataset in self.datasets:
            if position < len(dataset):
                break
            position -= len(dataset)
        # timm's own dataset takes the next image when one cannot be read; its reader tells.
        item = dataset.reader[position][0] if hasattr(dataset, "reader") else dataset[position][0]
        return item.convert("RGB") if hasattr(item, "convert") else _decode(item, f"image {index} of {self.source}")


class StoredData(ImageData):
    """Images that are decoded when they are needed."""

    def __init__(
        self,
        source: str,
        image_side: int,
        class_names: tuple[str, ...],
        division: Division,
        store: ImageStore,
        workers: int | None,
    ) -> None:
        from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        super().__init__(source, image_side, class_names, division, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        self._store = store
        self._workers = min(8, max(1, _free_cores() - 1)) if workers is None else workers
        self._cache: dict[bytes, Tensor] = {}

    def _augmented(self, batches: Sequence[IntArray], seed: int, epoch: int) -> Iterator[Batch]:
        samples = _Samples(self._store, self._train_transform(), (seed, epoch))
        yield from self._load(samples, batches)

    def _plain(self, batches: Sequence[IntArray]) -> Iterator[Batch]:
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]
        for shades, labels in self._decoded(batches):
            yield (shades.float() / 255 - mean) / std, labels

    def _decoded(self, batches: Sequence[IntArray]) -> Iterator[Batch]:
        """Undistorted images as bytes, from memory where they fit."""
        samples = _Samples(self._store, self._plain_transform(), None)
        if sum(map(len, batches)) * 3 * self.image_side**2 > CACHE_BYTES:
            yield from self._load(samples, batches)
            return
        key = np.concatenate([np.empty(0, dtype=np.int64), *batches]).tobytes()
        if key not in self._cache:
            self._cache[key] = torch.cat([shades for shades, _ in self._load(samples, batches)])
        first = 0
        for indices in batches:
            shades = self._cache[key][first : first + len(indices)]
            first += len(indices)
            yield shades, torch.from_numpy(self._store.labels[indices])

    def _load(self, samples: _Samples, batches: Sequence[IntArray]) -> Iterator[Batch]:
        loader = DataLoader(
            samples,
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=self._workers if len(batches) > 1 else 0,
            collate_fn=_collate,
            worker_init_fn=_ignore_interrupts,
            generator=torch.Generator().manual_seed(0),
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch

    def _train_transform(self) -> Transform:
        from timm.data.transforms_factory import create_transform

        small = self.image_side < SMALL_SIDE
        return create_transform(  # type: ignore[no-any-return]
            self.image_side,
            is_training=True,
            # A crop of a twelfth of a small image shows nothing that could be recognised.
            scale=(0.35, 1.0) if small else (0.08, 1.0),
            hflip=0.0 if self.source.lower() in _WITHOUT_MIRRORING else 0.5,
            auto_augment="rand-n1-m1-mstd0.5-inc1",
            interpolation="bicubic",
            re_prob=0.01,
            mean=self.mean,
            std=self.std,
        )

    def _plain_transform(self) -> Transform:
        from timm.data.transforms_factory import create_transform

        return create_transform(  # type: ignore[no-any-return]
            self.image_side, is_training=False, interpolation="bicubic", crop_pct=224 / 256, normalize=False
        )


def load_folder(source: str, image_side: int, seed: int, workers: int | None = None) -> StoredData:
    """Images of a folder: a sub-folder per class, or such folders under ``train``, ``val`` and ``test``.

    Where there is no ``val``, or no ``test``, the missing one of `search` and `test` is taken from ``train``, except
    that a lone ``val`` is the test part, as published results use it.

    Raises:
        DataError: The folder holds nothing to train on, or a file that cannot be read.
    """
    root = Path(source)
    if not root.is_dir():
        raise DataError(f"data `{source}`: found a file, expected a folder with a sub-folder of images per class")
    given = [name for name in ("train", *_HELD_OUT) if (root / name).is_dir()]
    if "train" not in given:
        class_names, names = _scan(root, source)
        labels = np.array([class_names.index(name.split("/")[0]) for name in names], dtype=np.int64)
        fractions: dict[Part, float] = {"search": SEARCH_FRACTION, "test": TEST_FRACTION}
        parts = divide(names, labels, class_names, seed, fractions, source)
    else:
        class_names, names, labels, parts = _scan_parts(root, given, source, seed)
    store = FileStore(root, tuple(names), labels)
    sizes = [(root / name).stat().st_size for name in names]
    _check_headers(store)
    return StoredData(source, image_side, class_names, Division(parts, digest_of(parts, names, sizes)), store, workers)


def load_timm_dataset(source: str, image_side: int, seed: int, workers: int | None = None) -> StoredData:
    """A dataset that timm.data finds by name, downloaded into the cache folder where it is not there yet.

    Its own held-out split is the test part; the search part is taken from its training split.

    Raises:
        DataError: timm does not know it, or it cannot be had.
    """
    held_out = ("validation",) if source.startswith("torch/") else ("test", "validation")
    datasets = [_open_timm_dataset(source, "train"), _open_timm_dataset(source, *held_out)]
    labels = np.concatenate([_targets(dataset) for dataset in datasets])
    class_names = _timm_class_names(datasets[0], labels)
    trained = len(datasets[0])
    names = [f"train/{i}" if i < trained else f"test/{i - trained}" for i in range(len(labels))]
    parts = divide(names[:trained], labels[:trained], class_names, seed, {"search": SEARCH_FRACTION}, source)
    parts["test"] = np.arange(trained, len(labels), dtype=np.int64)
    digest = digest_of(parts, names, labels.tolist())
    store = TimmStore(source, tuple(datasets), labels)
    return StoredData(source, image_side, class_names, Division(parts, digest), store, workers)


def _scan(root: Path, source: str, inside: str = "") -> tuple[tuple[str, ...], list[str]]:
    """The class names under ``root/inside`` and the names of its image files, relative to ``root``, sorted."""
    from timm.data.readers.img_extensions import IMG_EXTENSIONS

    extensions = {*IMG_EXTENSIONS, ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif"}
    expected = "a sub-folder of images per class"
    top = root / inside
    folders = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {folder.name: sorted(path for path in folder.rglob("*") if path.is_file()) for folder in folders}
    images = {name: [path for path in paths if path.suffix.lower() in extensions] for name, paths in files.items()}
    if not any(images.values()):
        loose = [path for path in top.iterdir() if path.is_file()]
        others = [path for paths in files.values() for path in paths] or loose
        if not others:
            raise DataError(f"data `{top}`: the folder is empty, expected {expected}")
        if any(path.suffix.lower() in extensions for path in loose):
            raise DataError(f"data `{top}`: found images beside each other, expected {expected}")
        kinds = ", ".join(sorted({path.suffix or path.name for path in others})[:5])
        raise DataError(
            f"data `{top}`: found no readable image among {len(others)} files ({kinds}), expected {expected}",
            hint=f"image files end in one of: {' '.join(sorted(extensions))}",
        )
    names = [path.relative_to(root).as_posix() for paths in images.values() for path in paths]
    return tuple(images), names


def _scan_parts(
    root: Path, given: Sequence[str], source: str, seed: int
) -> tuple[tuple[str, ...], list[str], IntArray, dict[Part, IntArray]]:
    """Images of a folder that is divided already, wholly or in part."""
    class_names, names = _scan(root, source, "train")
    trained = len(names)
    held_out: dict[Part, IntArray] = {}
    has_test = "test" in given
    for folder in given[1:]:
        part: Part = "search" if _HELD_OUT[folder] == "search" and has_test else "test"
        found, more = _scan(root, source, folder)
        unknown = sorted(set(found) - set(class_names))
        if unknown:
            raise DataError(f"data `{root / folder}`: class `{unknown[0]}` is not among those of `{root / 'train'}`")
        held_out[part] = np.arange(len(names), len(names) + len(more), dtype=np.int64)
        names = names + more
    labels = np.array([class_names.index(name.split("/")[1]) for name in names], dtype=np.int64)
    missing: dict[Part, float] = {"search": SEARCH_FRACTION, "test": TEST_FRACTION}
    taken = {part: fraction for part, fraction in missing.items() if part not in held_out}
    check_classes(labels[:trained], class_names, source, FEWEST_PER_CLASS if taken else 1)
    parts = divide(names[:trained], labels[:trained], class_names, seed, taken, source) if taken else {}
    parts.setdefault("train", np.arange(trained, dtype=np.int64))
    return class_names, names, labels, {**parts, **held_out}


def _check_headers(store: FileStore) -> None:
    from PIL import Image

    if len(store.names) > HEADER_CHECKS:
        return
    for name in store.names:
        try:
            with Image.open(store.root / name):
                pass
        except Exception as error:  # Pillow raises a kind of its own for almost every format
            raise _unreadable(str(store.root / name), error) from error


def _decode(file: Any, name: str) -> Any:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except Exception as error:  # as above
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> DataError:
    return DataError(f"image `{name}`: cannot be read: {error}", hint="replace the file or take it away")


def _targets(dataset: Any) -> IntArray:
    if hasattr(dataset, "targets"):
        return np.asarray(dataset.targets, dtype=np.int64)
    if hasattr(dataset, "reader") and hasattr(dataset.reader, "dataset"):
        return np.asarray(dataset.reader.dataset[dataset.reader.label_key], dtype=np.int64)
    return np.array([dataset[index][1] for index in range(len(dataset))], dtype=np.int64)


def _open_timm_dataset(source: str, *splits: str) -> Any:
    """The first of these splits that there is."""
    from timm.data.dataset_factory import create_dataset

    if source.startswith("hfds/") and find_spec("datasets") is None:
        raise DataError(
            f"data `{source}`: needs the package `datasets`, which is not installed", hint="pip install datasets"
        )
    root = _dataset_folder()
    for split in splits:
        try:
            root.mkdir(parents=True, exist_ok=True)
            return create_dataset(source, root=str(root), split=split, download=True)
        except (Exception, SystemExit) as error:  # every library behind timm has its own kinds of errors
            last = error
    raise DataError(
        f"data `{source}`: timm cannot load its `{splits[0]}` split: {str(last) or type(last).__name__}",
        hint=f"check the name and the network connection; datasets are kept in {root}",
    ) from last


def _timm_class_names(dataset: Any, labels: IntArray) -> tuple[str, ...]:
    indices: Mapping[str, int] = getattr(getattr(dataset, "reader", dataset), "class_to_idx", None) or {}
    names = {index: str(name) for name, index in indices.items()}
    return tuple(names.get(index, str(index)) for index in range(int(labels.max()) + 1))


def _dataset_folder() -> Path:
    own = os.environ.get("NAS_CACHE_DIR")
    general = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return (Path(own) if own else Path(general) / "nas") / "datasets"


def _free_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Samples(Dataset[Any]):
    store: ImageStore
    transform: Transform
    numbers: tuple[int, int] | None
    """Seed and epoch where images are augmented."""

    def __getitem__(self, index: int) -> tuple[Tensor, int] | DataError:
        try:
            image = self.store.open(index)
        except DataError as error:
            return error  # raised where it is received: crossing from a worker process would change its text
        label = int(self.store.labels[index])
        if self.numbers is None:
            return self.transform(image), label
        with _seeded(*self.numbers, index):
            return self.transform(image), label


@contextmanager
def _seeded(*numbers: int) -> Iterator[None]:
    """Seed every generator that transforms draw from, and put them back as they were."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.default_generator.manual_seed(int(words[2]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def _collate(samples: list[tuple[Tensor, int] | DataError]) -> Batch | DataError:
    images: list[Tensor] = []
    labels: list[int] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        images.append(sample[0])
        labels.append(sample[1])
    return torch.stack(images), torch.tensor(labels, dtype=torch.int64)


def _ignore_interrupts(_worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the one that trains decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
