"""Teachers: soft targets of timm networks at their own size and normalisation, from files that are read safely."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from supernets.errors import TrainingError
from supernets.training.teachers import load_teachers

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
CLASSES = 7
NAMES = ("resnet10t", "test_vit")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(0)
    states = [timm.create_model(name, num_classes=CLASSES).state_dict() for name in NAMES]
    save_file(states[0], folder / "first.safetensors")
    torch.save({"state_dict": states[1]}, folder / "second.pth")
    return [folder / "first.safetensors", folder / "second.pth"]


@pytest.fixture
def shades() -> torch.Tensor:
    """Images in [0, 1] at another side than any teacher's."""
    return torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def normalised(shades: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    return (shades - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def network(name: str, file: Path) -> torch.nn.Module:
    made = timm.create_model(name, num_classes=CLASSES, checkpoint_path=str(file)).eval()
    return made


def test_targets_are_the_mean_of_sharpened_outputs(files: list[Path], shades: torch.Tensor) -> None:
    teachers = load_teachers(NAMES, CLASSES, 0.2, weights=files, mean=MEAN, std=STD)
    expected = []
    for name, file in zip(NAMES, files, strict=True):
        made = network(name, file)
        config = made.pretrained_cfg
        images = normalised(shades, config["mean"], config["std"])
        side = config["input_size"][-2:]
        images = F.interpolate(images, side, mode="bicubic", align_corners=False, antialias=True)
        with torch.no_grad():
            expected.append((made(images) / 0.2).softmax(dim=-1))
    assert expected[0].shape[-1] == CLASSES
    assert len({made.pretrained_cfg["input_size"] for made in map(network, NAMES, files)}) == 2
    found = teachers(normalised(shades, MEAN, STD))
    assert len(teachers) == 2
    assert not found.requires_grad
    assert torch.allclose(found, torch.stack(expected).mean(dim=0), atol=1e-4)
    assert torch.allclose(found.sum(dim=-1), torch.ones(3), atol=1e-5)


def test_sharpening_makes_outputs_surer(files: list[Path], shades: torch.Tensor) -> None:
    images = normalised(shades, MEAN, STD)
    entropies = []
    for temperature in (0.2, 1.0):
        targets = load_teachers(NAMES[:1], CLASSES, temperature, weights=files[:1], mean=MEAN, std=STD)(images)
        entropies.append(float(torch.special.entr(targets).sum(dim=-1).mean()))
    assert entropies[0] < entropies[1]


def test_a_teacher_in_bfloat16_says_nearly_the_same(files: list[Path], shades: torch.Tensor) -> None:
    images = normalised(shades, MEAN, STD)
    full, half = (
        load_teachers(NAMES, CLASSES, 1.0, weights=files, mean=MEAN, std=STD, precision=precision)(images)
        for precision in (torch.float32, torch.bfloat16)
    )
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    assert torch.allclose(full, half, atol=0.02)


def test_targets_can_be_learnt_from(files: list[Path], shades: torch.Tensor) -> None:
    teachers = load_teachers(NAMES[:1], CLASSES, weights=files[:1], mean=MEAN, std=STD)
    logits = torch.zeros(3, CLASSES, requires_grad=True)
    F.cross_entropy(logits, teachers(normalised(shades, MEAN, STD))).backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().sum()) > 0


def test_a_teacher_of_other_classes(files: list[Path]) -> None:
    with pytest.raises(TrainingError, match=r"teacher `resnet10t`: `.*` does not hold its weights for 5 classes"):
        load_teachers(NAMES[:1], 5, weights=files[:1], mean=MEAN, std=STD)


def test_timms_own_weights_of_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda name, pretrained: create(name))
    with pytest.raises(TrainingError, match="teacher `resnet10t` tells 1000 classes, the data has 45"):
        load_teachers(["resnet10t"], 45, mean=MEAN, std=STD)


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, pretrained: bool) -> None:
        raise OSError("no route to the hub")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(TrainingError, match="teacher `resnet10t`: its weights cannot be had: no route") as caught:
        load_teachers(["resnet10t"], 1000, mean=MEAN, std=STD)
    assert "in a file" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("resnet10", "teacher `resnet10`: timm has no network of that name", "did you mean"),
        ("vit_tiny_patch16_384.nonsense", "teacher `vit_tiny_patch16_384.nonsense`: timm has no", ""),
        ("vit_giant_patch14_224", "teacher `vit_giant_patch14_224`: timm has no weights for it", "in a file"),
    ],
)
def test_teachers_that_do_not_exist(name: str, message: str, hint: str) -> None:
    with pytest.raises(TrainingError) as caught:
        load_teachers([name], 1000, mean=MEAN, std=STD)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="there is no file"):
        load_teachers(NAMES[:1], CLASSES, weights=[tmp_path / "none.pth"], mean=MEAN, std=STD)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(TrainingError, match=r"`.*text.pth` does not hold its weights"):
        load_teachers(NAMES[:1], CLASSES, weights=[tmp_path / "text.pth"], mean=MEAN, std=STD)
    with pytest.raises(TrainingError, match="found 1 files of weights, expected one for each of 2"):
        load_teachers(NAMES, CLASSES, weights=[tmp_path / "text.pth"], mean=MEAN, std=STD)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a file of weights was unpickled",))


def test_a_file_is_not_unpickled(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": _Trap()}}, tmp_path / "trap.pth")
    with pytest.raises(TrainingError, match="does not hold its weights"):
        load_teachers(NAMES[:1], CLASSES, weights=[tmp_path / "trap.pth"], mean=MEAN, std=STD)
