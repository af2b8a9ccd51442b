"""A classifier fitted to features, the vote of nearest neighbours, and the cache of features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.data.image_data import ImageData
from supernets.data.sources import load_data
from supernets.errors import DataError
from supernets.features import FeatureReader, classifiers_of, put_classifier
from supernets.probing import fit_classifier, nearest_neighbour_accuracy
from supernets.supernet import Supernet
from supernets.timm_models.loading import load_timm_supernet

VIT = "vit_tiny_patch16_224?depth=1&embed_dim=48&img_size=16&num_heads=3&patch_size=4"
DISTILLED = "deit_tiny_distilled_patch16_224?depth=1&embed_dim=48&img_size=16&num_heads=3&patch_size=4"


def clouds(images: int, classes: int, distance: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres_KD = distance * torch.randn(classes, 8, generator=torch.Generator().manual_seed(9))
    labels_N = torch.arange(images) % classes
    return centres_KD[labels_N] + torch.randn(images, 8, generator=generator), labels_N


def test_separable_clouds_are_told_apart() -> None:
    features_ND, labels_N = clouds(120, 4, 8.0)
    scaled_ND = features_ND * torch.logspace(-3, 3, 8) + 100  # units and offsets make no difference
    fitted = fit_classifier(scaled_ND, labels_N, 4)
    others_ND, others_N = clouds(80, 4, 8.0, seed=1)
    assert fitted.held_out == 1
    assert fitted.accuracy(others_ND * torch.logspace(-3, 3, 8) + 100, others_N) == 1
    assert nearest_neighbour_accuracy(features_ND, labels_N, others_ND, others_N) == 1


def test_noise_is_decayed_more_than_signal() -> None:
    labels_N = torch.arange(200) % 4
    noise = fit_classifier(torch.randn(200, 64, generator=torch.Generator().manual_seed(0)), labels_N, 4)
    clean = fit_classifier(*clouds(200, 4, 8.0), 4)
    assert noise.decay > clean.decay


def test_classes_without_images_are_never_said() -> None:
    features_ND, labels_N = clouds(60, 3, 8.0)
    fitted = fit_classifier(features_ND, labels_N, 5)
    assert fitted.weight_KD.shape == (5, 8)
    assert fitted.accuracy(features_ND, labels_N) == 1


@pytest.mark.parametrize("temperature", [None, 0.07])
def test_neighbours_are_those_of_brute_force(temperature: float | None) -> None:
    bank_ND, bank_N = clouds(50, 5, 0.7)
    features_MD, labels_M = clouds(40, 5, 0.7, seed=1)
    right = 0
    for x_D, label in zip(features_MD, labels_M.tolist(), strict=True):
        nearest = sorted(
            (
                (float(F.cosine_similarity(x_D, own_D, dim=0)), int(own))
                for own_D, own in zip(bank_ND, bank_N, strict=True)
            ),
            reverse=True,
        )[:7]
        votes: dict[int, float] = {}
        for cosine, own in nearest:  # the first of the most is the nearest one's
            votes[own] = votes.get(own, 0) + (
                1 if temperature is None else float(torch.tensor(cosine / temperature).exp())
            )
        right += max(votes, key=lambda own: votes[own]) == label
    found = nearest_neighbour_accuracy(bank_ND, bank_N, features_MD, labels_M, neighbours=7, temperature=temperature)
    assert found == right / 40
    assert 0.3 < found < 1


def test_neighbours_of_a_class_of_one_image_are_refused() -> None:
    features_ND, labels_N = clouds(9, 4, 2.0)
    with pytest.raises(DataError, match="class 3: found one image of it"):
        nearest_neighbour_accuracy(features_ND[:7], labels_N[:7], features_ND, labels_N)
    with pytest.raises(DataError, match="not finite"):
        fit_classifier(features_ND * float("nan"), labels_N, 4)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", 16)


@torch.no_grad()
@pytest.mark.parametrize("name", [VIT, DISTILLED])
def test_a_fitted_classifier_is_the_networks(name: str, digits: ImageData) -> None:
    """Where two tokens are classified, the mean of both is what was fitted."""
    torch.manual_seed(0)
    supernet = load_timm_supernet(name, classes=10)
    features = FeatureReader(supernet).read(digits, "search")
    assert features.values_ND.shape[1] == 48 * len(classifiers_of(supernet))
    fitted = fit_classifier(features.values_ND, features.labels_N, 10)
    put_classifier(supernet, fitted)
    x_BCHW, _ = next(iter(digits.batches("search", 64)))
    assert torch.allclose(
        supernet.network(x_BCHW), features.values_ND[:64] @ fitted.weight_KD.T + fitted.bias_K, atol=1e-3
    )


def test_features_come_from_the_cache_with_the_same_bits(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    supernet = load_timm_supernet(VIT, classes=10)
    first = FeatureReader(supernet).read(digits, "search", most=100)
    assert len(first.labels_N) == 100
    calls = []

    def counted(self: FeatureReader, x_BCHW: Tensor) -> Tensor:
        calls.append(len(x_BCHW))
        return compute(self, x_BCHW)

    compute = FeatureReader._compute
    monkeypatch.setattr(FeatureReader, "_compute", counted)
    again = FeatureReader(supernet).read(digits, "search", most=100, seconds=0.0)
    assert torch.equal(first.values_ND, again.values_ND)
    assert torch.equal(first.labels_N, again.labels_N)
    assert calls == []
    with torch.no_grad():
        next(iter(supernet.network.parameters())).add_(1)
    FeatureReader(supernet).read(digits, "search", most=100)
    assert sum(calls) == 100
    for file in (tmp_path / "features").iterdir():
        file.write_bytes(b"damaged")
    assert torch.equal(FeatureReader(supernet).read(digits, "search", most=100).labels_N, first.labels_N)


def test_little_time_takes_fewer_images(digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    supernet = load_timm_supernet(VIT, classes=10)
    assert len(FeatureReader(supernet).read(digits, "train", seconds=0.0).labels_N) == 100  # ten of each class


@pytest.mark.slow
def test_the_probe_of_a_supervised_model_is_as_good_as_its_classifier(digits: ImageData) -> None:
    supernet = trained(digits)
    reader = FeatureReader(supernet)
    known, judged = reader.read(digits, "train"), reader.read(digits, "search")
    own = right(supernet, digits)
    fitted = fit_classifier(known.values_ND, known.labels_N, 10)
    assert own > 0.9
    assert fitted.accuracy(judged.values_ND, judged.labels_N) >= own - 0.01


def trained(digits: ImageData) -> Supernet:
    torch.manual_seed(0)
    supernet = load_timm_supernet(VIT.replace("depth=1", "depth=2"), classes=10)
    network = supernet.network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for epoch in range(30):
        for x_BCHW, labels_B in digits.train_batches(64, 0, epoch):
            F.cross_entropy(network(x_BCHW), labels_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
    network.eval()
    return supernet


@torch.no_grad()
def right(supernet: Supernet, digits: ImageData) -> float:
    counts = [
        (int((supernet.network(x).argmax(dim=1) == labels).sum()), len(labels))
        for x, labels in digits.batches("search", 128)
    ]
    return sum(correct for correct, _ in counts) / sum(count for _, count in counts)
