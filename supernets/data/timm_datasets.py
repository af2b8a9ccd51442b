"""Datasets that timm.data finds by name: those of torchvision and of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from search_spaces.files import cache_dir
from supernets.data.decoding import decode, to_rgb
from supernets.data.image_data import FRACTIONS, Division, IntArray, LoadOptions, digest_of, divide
from supernets.data.stored_images import StoredData, mirrored
from supernets.errors import DataError

_PREFIXES = ("torch", "hfds")


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
        name = f"image {index} of {self.source}"
        if not hasattr(item, "convert"):
            return decode(item, name)
        try:
            return to_rgb(item)[0]
        except Exception as error:  # Pillow raises a kind of its own for almost every format
            raise DataError(f"image `{name}`: cannot be read: {error}") from error


class TimmSource:
    """Datasets that timm.data finds by name, downloaded into the cache folder where they are not there yet.

    A dataset's own held-out split is the test part; the search part is taken from its training split. A
    `supernets.data.image_data.DataSource`.
    """

    expected = "a dataset of timm such as `torch/cifar10`"

    def understands(self, text: str) -> bool:
        """Whether the text begins like a name of torchvision's datasets or of the Hugging Face hub's."""
        prefix, separator, _ = text.partition("/")
        return bool(separator) and prefix in _PREFIXES

    def load(self, text: str, options: LoadOptions) -> StoredData:
        """The images of the dataset.

        Raises:
            DataError: timm does not know it, or it cannot be had.
        """
        held_out = ("validation",) if text.startswith("torch/") else ("test", "validation")
        datasets = [_open_timm_dataset(text, "train"), _open_timm_dataset(text, *held_out)]
        labels = np.concatenate([_targets(dataset) for dataset in datasets])
        class_names = _timm_class_names(datasets[0], labels)
        trained = len(datasets[0])
        names = [f"train/{i}" if i < trained else f"test/{i - trained}" for i in range(len(labels))]
        parts = divide(
            names[:trained], labels[:trained], class_names, options.seed, {"search": FRACTIONS["search"]}, text
        )
        parts["test"] = np.arange(trained, len(labels), dtype=np.int64)
        options, remarks = mirrored(options, text, class_names)
        division = Division(parts, digest_of(parts, names, labels.tolist()))
        return StoredData(text, class_names, division, TimmStore(text, tuple(datasets), labels), options, remarks)


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
    root = cache_dir() / "datasets"
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
