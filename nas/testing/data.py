"""What every data source has to do: fixed parts, and batches that depend on nothing but numbers."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod

import numpy as np
import pytest
import torch

from supernets.data.image_data import PARTS, DataSource, ImageData, LoadOptions
from supernets.errors import DataError

SIDE = 16


class DataSourceContract(ABC):
    """What every data source has to do. Subclass it, give `make_source` and `text`, and let pytest find the subclass.

    Attributes:
        text: What names some images of the source; a few hundred small ones keep the tests fast.
    """

    text: str

    @abstractmethod
    def make_source(self) -> DataSource:
        """The source."""

    def test_texts_of_its_own_are_understood_and_others_are_not(self) -> None:
        """Without an error, whatever is typed."""
        source = self.make_source()
        assert source.understands(self.text)
        assert not any(source.understands(text) for text in ("no such images", "/no/such/folder"))
        assert source.expected

    def test_parts_are_disjoint_and_the_same_each_time(self) -> None:
        """None is empty, and each has every class."""
        images, again = self._load(), self._load()
        parts = images.division.parts
        assert sorted(parts) == sorted(PARTS)
        for part in PARTS:
            assert np.array_equal(parts[part], again.division.parts[part])
            assert len(np.unique(parts[part])) == len(parts[part]) == images.splits[part] > 0
        assert len(np.unique(np.concatenate(list(parts.values())))) == sum(images.splits.values())

    def test_same_seed_same_training_batches(self) -> None:
        """Another seed or epoch gives others, and nobody else's random numbers are touched."""
        states = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
        runs = [self._load().train_batches(8, seed, epoch) for seed, epoch in ((0, 0), (0, 0), (1, 0), (0, 1))]
        (first, labels), (again, same_labels), (seeded, _), (later, _) = (next(iter(run)) for run in runs)
        assert torch.equal(first, again)
        assert torch.equal(labels, same_labels)
        assert not torch.equal(first, seeded)
        assert not torch.equal(first, later)
        assert states == (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())

    def test_shards_and_later_starts_give_the_same_images(self) -> None:
        """So that several processes, or a resumed run, see what one run sees."""
        images = self._load()
        first, second, *_ = images.train_batches(8, 0, 0)
        late = next(iter(images.train_batches(8, 0, 0, start=1)))
        assert torch.equal(late[0], second[0])
        halves = [next(iter(images.train_batches(8, 0, 0, shard=(rank, 2)))) for rank in range(2)]
        for rank, (half_BCHW, half_B) in enumerate(halves):
            assert torch.equal(half_BCHW, first[0][rank::2])
            assert torch.equal(half_B, first[1][rank::2])

    def test_batches_hold_every_image_once_with_labels_in_range(self) -> None:
        """Normalised images of three colours at the side that was asked for, in fixed order."""
        images = self._load()
        batches = list(images.batches("test", 7))
        labels = torch.cat([labels_B for _, labels_B in batches])
        assert len(labels) == images.splits["test"]
        assert labels.dtype == torch.int64
        assert sorted(set(labels.tolist())) == list(range(images.classes))
        for images_BCHW, labels_B in batches:
            assert images_BCHW.shape == (len(labels_B), 3, SIDE, SIDE)
            assert images_BCHW.dtype == torch.float32
            assert images_BCHW.isfinite().all()
        assert all(torch.equal(one[0], two[0]) for one, two in zip(batches, images.batches("test", 7), strict=True))

    def test_description_is_recognised_after_json_and_a_changed_one_is_not(self) -> None:
        """A run folder keeps it, and compares."""
        images = self._load()
        described = json.loads(json.dumps(images.describe()))
        assert described["source"] == self.text
        images.check(described)
        with pytest.raises(DataError, match="the files changed"):
            images.check({**described, "digest": "0"})
        with pytest.raises(DataError, match="classes changed"):
            images.check({**described, "classes": images.classes + 1})

    def _load(self) -> ImageData:
        return self.make_source().load(self.text, LoadOptions(SIDE, workers=0))
