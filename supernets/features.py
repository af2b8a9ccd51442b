"""What a model of timm sees in images: the inputs of its classifier, computed once per image and kept.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, N images, D features, K classes.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, takewhile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces import SearchSpace, get_space
from search_spaces.files import DAMAGED_ARCHIVE, cache_dir, replacing
from search_spaces.timm_models import TimmSpace
from supernets.data.image_data import Batch, ImageData, Part
from supernets.errors import DataError, SupernetError
from supernets.fidelity import LEAST_IMAGES, components_for, principal_components
from supernets.probing import FittedClassifier
from supernets.supernet import Supernet
from supernets.timm_models.own_weights import classifier_layers
from supernets.training.precision import MixedPrecision
from supernets.training.settings import Precision

BATCH = 64
MOST_KEPT = 60_000
"""Images whose features one file keeps; beyond them only those of the last call."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """Features of images and their classes.

    Attributes:
        values_ND: What flows into the classifier; into all of them, side by side, where there are two.
        labels_N: Classes.
    """

    values_ND: Tensor
    labels_N: Tensor


class FeatureReader:
    """Features of the whole network of a timm supernet, from a cache that knows weights and images by their content.

    Args:
        supernet: Supernet of a timm space. Its weights are not to change between calls.
        precision: What products are computed in.

    Raises:
        SupernetError: Its classifier is not a dense layer.
    """

    def __init__(self, supernet: Supernet, precision: Precision = "fp32") -> None:
        self._supernet = supernet
        self._mixed = MixedPrecision(precision, supernet.device)
        self._layers = classifiers_of(supernet)
        kind = "" if precision == "fp32" else f"-{precision}"
        self._path = cache_dir() / "features" / f"{_digest(supernet)}{kind}.npz"

    def read(self, images: ImageData, part: Part, most: int | None = None, seconds: float | None = None) -> Features:
        """Features of a part of the images, without augmentation.

        Args:
            images: At the side of the supernet's images.
            part: Part of the images.
            most: Images to take, evenly over the part; None for all.
            seconds: Time that may be spent on images that are not known, judged by the first batch; fewer are taken
                where it is short. None for no bound.
        """
        known = self._load()
        if seconds is not None:
            most = self._within(images, part, most, seconds, known)
        return self._features(images.batches(part, BATCH, most), known)

    def read_views(self, images: ImageData, views: int, seed: int, seconds: float | None = None) -> Features:
        """Features of the training part as training sees it, once per view, while there is time.

        Args:
            images: At the side of the supernet's images.
            views: Passes over the training part.
            seed: Seed of the augmentation.
            seconds: Time after which no further batch is begun; None for no bound.
        """
        ends = math.inf if seconds is None else time.monotonic() + seconds
        size = min(BATCH, images.splits["train"])
        passes = chain.from_iterable(images.train_batches(size, seed, epoch) for epoch in range(views))
        return self._features(takewhile(lambda _: time.monotonic() < ends, passes), self._load())

    def _features(self, batches: Iterable[Batch], known: dict[bytes, Tensor]) -> Features:
        rows, labels = [], []
        found: dict[bytes, Tensor] = {}
        for x_BCHW, labels_B in batches:
            keys = _keys(x_BCHW)
            missing = [place for place, key in enumerate(keys) if key not in known and key not in found]
            if missing:
                computed_BD = self._compute(x_BCHW[missing])
                found |= {keys[place]: row_D for place, row_D in zip(missing, computed_BD, strict=True)}
            rows += [found[key] if key in found else known[key] for key in keys]
            labels.append(labels_B)
        if found:
            self._save({**known, **found} if len(known) + len(found) <= MOST_KEPT else found)
        if not rows:
            width = sum(layer.in_features for layer in self._layers)
            return Features(torch.empty(0, width), torch.empty(0, dtype=torch.int64))
        return Features(torch.stack(rows), torch.cat(labels))

    def _within(
        self, images: ImageData, part: Part, most: int | None, seconds: float, known: dict[bytes, Tensor]
    ) -> int | None:
        x_BCHW, _ = next(iter(images.batches(part, BATCH, most)))
        if all(key in known for key in _keys(x_BCHW)):
            return most
        self._compute(x_BCHW[:1])  # what happens once only
        started = time.monotonic()
        self._compute(x_BCHW)
        affordable = int(seconds * len(x_BCHW) / max(time.monotonic() - started, 1e-6))
        total = images.splits[part] if most is None else most
        return max(affordable, min(total, 10 * images.classes)) if affordable < total else most

    @torch.no_grad()
    def _compute(self, x_BCHW: Tensor) -> Tensor:
        supernet = self._supernet
        side = supernet.space.input_shape(dict(supernet.space.largest.settings))[-1]
        x_BCHW = supernet.family.prepare(x_BCHW.to(supernet.device), side)
        with self._mixed.forward():
            features_BD, _ = run_watched(supernet.network, supernet.space, x_BCHW)
        return features_BD.float().cpu()

    def _load(self) -> dict[bytes, Tensor]:
        return remembered(self._path, sum(layer.in_features for layer in self._layers))

    def _save(self, features: dict[bytes, Tensor]) -> None:
        keys = np.frombuffer(b"".join(features), dtype=np.uint8).reshape(len(features), -1)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path, ".npz") as temporary:
                np.savez(temporary, keys=keys, values=torch.stack(list(features.values())).numpy())
        except OSError as error:
            logger.warning("`%s` cannot be written, so features are not kept: %s", self._path, error)


def classifiers_of(supernet: Supernet) -> list[nn.Linear]:
    """The layers of the whole network that tell classes; where there are two their mean counts.

    Raises:
        SupernetError: Such a layer is not dense.
    """
    return classifiers_in(supernet.network, supernet.space)


def classifiers_in(network: nn.Module, space: SearchSpace, head: str = "head.") -> list[nn.Linear]:
    """The same layers of a network of the space.

    Args:
        network: The network.
        space: Its space.
        head: What names of layers of the last part begin with; empty where that is given in place of the network.

    Raises:
        SupernetError: As `classifiers_of`.
    """
    names = _classifier_names(space)
    layers = [dict(network.named_modules()).get(f"{head}{name}") for name in names]
    dense = [layer for layer in layers if isinstance(layer, nn.Linear) and layer.bias is not None]
    if len(dense) < len(names):
        raise SupernetError(f"`{space.base.name}` has no dense classifier with a bias, so none can be fitted")
    return dense


def _classifier_names(space: SearchSpace) -> tuple[str, ...]:
    """Names in the head of the layers that tell classes."""
    base = space.base
    return classifier_layers(base.outline.reference.name) if isinstance(base, TimmSpace) else ("classifier",)


def run_watched(network: nn.Module, space: SearchSpace, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``(B, D)`` of images, as `Features` says, and the network's outputs ``(B, K)``."""
    with watched(classifiers_in(network, space)) as seen:
        outputs_BK = network(x_BCHW)
    return torch.cat([inputs_BD.flatten(1) for inputs_BD in seen], dim=1), outputs_BK


@torch.no_grad()
def classifier_of(supernet: Supernet) -> FittedClassifier:
    """The classifier that the whole network has, of the features that a `FeatureReader` of it gives.

    Raises:
        SupernetError: The network has no dense classifier.
    """
    layers = classifiers_of(supernet)
    weight_KD = torch.cat([layer.weight / len(layers) for layer in layers], dim=1).cpu()
    bias_K = torch.stack([layer.bias for layer in layers]).mean(dim=0).cpu()
    return FittedClassifier(weight_KD, bias_K, decay=math.nan, held_out=math.nan)


@torch.no_grad()
def put_classifier(supernet: Supernet, fitted: FittedClassifier) -> None:
    """Make a fitted classifier that of the whole network.

    Args:
        supernet: Supernet of a timm space, changed in place.
        fitted: Classifier of the features that a `FeatureReader` of the supernet gives.

    Raises:
        SupernetError: The network's logits are not the mean of its classifiers'.
    """
    layers = classifiers_of(supernet)
    parts = torch.split(fitted.weight_KD, [layer.in_features for layer in layers], dim=1)
    for layer, part_KD in zip(layers, parts, strict=True):
        layer.weight.copy_(len(layers) * part_KD)
        layer.bias.copy_(fitted.bias_K)
    side = supernet.space.input_shape(dict(supernet.space.largest.settings))[-1]
    x_BCHW = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)).to(supernet.device)
    features_BD, logits_BK = run_watched(supernet.network, supernet.space, x_BCHW)
    expected_BK = features_BD @ fitted.weight_KD.to(features_BD).T + fitted.bias_K.to(features_BD)
    if not torch.allclose(logits_BK, expected_BK, atol=1e-3 * float(expected_BK.abs().max())):
        raise SupernetError(f"the classifier of `{supernet.space.name}` is not the last layer, so none can be fitted")


def told_by_components(supernet: Supernet, images: ImageData, most: int) -> Supernet:
    """The same weights, with the components of features in place of a classifier; see `supernets.fidelity`.

    Args:
        supernet: Supernet of a timm space, left as it is.
        images: Images at its side, whose training part is looked at without its labels.
        most: Images to look at.

    Raises:
        SupernetError: The network has no dense classifier.
        DataError: There are too few images, or their features are not finite.
    """
    features_ND = FeatureReader(supernet).read(images, "train", most).values_ND
    count = components_for(*features_ND.shape)
    if len(features_ND) < LEAST_IMAGES:
        raise DataError(
            f"data `{images.source}`: features of {len(features_ND)} training images, expected {LEAST_IMAGES} or more",
            hint="give more images",
        )
    again = Supernet(get_space(supernet.space.name, count))
    expected = again.state_dict()
    state = supernet.state_dict()
    again.load_state_dict(
        {name: state[name] if state[name].shape == old.shape else old for name, old in expected.items()}
    )
    again = again.to(supernet.device).train(supernet.training)
    put_classifier(again, principal_components(features_ND, count))
    return again


@contextmanager
def watched(layers: list[nn.Linear]) -> Iterator[list[Tensor]]:
    """The inputs of layers while the block lasts, in the order of the layers, each as of its last call."""
    seen: list[Tensor] = [torch.empty(0)] * len(layers)
    handles = []
    for number, layer in enumerate(layers):

        def keep(_: nn.Module, inputs: tuple[Tensor, ...], number: int = number) -> None:
            seen[number] = inputs[0]

        handles.append(layer.register_forward_pre_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keys(x_BCHW: Tensor) -> list[bytes]:
    """What an image is known by."""
    return [hashlib.blake2b(x_CHW.numpy().tobytes(), digest_size=16).digest() for x_CHW in x_BCHW.cpu().contiguous()]


def _digest(supernet: Supernet) -> str:
    """What weights are known by, the classifier's left out."""
    ends = tuple(f"head.{name}.{kind}" for name in _classifier_names(supernet.space) for kind in ("weight", "bias"))
    digest = hashlib.sha256(f"{supernet.space.name}/{supernet.device.type}".encode())
    for name, tensor in supernet.network.state_dict().items():
        if name not in ends:
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def remembered(path: Path, width: int) -> dict[bytes, Tensor]:
    """The features ``(width,)`` that were kept of images, by their keys; none where the file is missing or damaged."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            keys, values_ND = arrays["keys"], arrays["values"]
        if (keys.dtype, values_ND.dtype, keys.ndim, values_ND.shape[1:]) != (np.uint8, np.float32, 2, (width,)):
            raise ValueError(f"found {values_ND.dtype} {values_ND.shape}, expected float32 of width {width}")
        if not np.isfinite(values_ND).all():
            raise ValueError("found numbers that are not finite")
        return {key.tobytes(): row_D for key, row_D in zip(keys, torch.from_numpy(values_ND), strict=True)}
    except DAMAGED_ARCHIVE as error:
        logger.warning("`%s` cannot be read, so features are computed again: %s", path, error)
        return {}
