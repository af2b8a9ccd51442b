"""Folders of pictures and masks: what belongs together, what is refused, and which pixel is which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supernets.data.image_files import find_images
from supernets.data.mask_folder import MaskedData, holds_masks, refuse_masks
from supernets.data.sources import load_data
from supernets.errors import DataError
from supernets.segmentation import confusion, fit_patch_probe, intersections_over_unions, patch_shares


def write(
    top: Path, count: int = 30, folders: tuple[str, str] = ("images", "masks"), values: tuple[int, int] = (0, 1)
) -> Path:
    """Pictures with a light square where the mask has the second value."""
    generator = np.random.default_rng(0)
    for folder in folders:
        (top / folder).mkdir(parents=True)
    for number in range(count):
        row, column = generator.integers(0, 32, 2)
        mask = np.full((64, 64), values[0], dtype=np.uint8)
        mask[row : row + 32, column : column + 32] = values[1]
        picture = (generator.integers(0, 80, (64, 64)) + 150 * (mask == values[1])).astype(np.uint8)
        Image.fromarray(picture).save(top / folders[0] / f"{number:02}.jpg", quality=95)
        Image.fromarray(mask).save(top / folders[1] / f"{number:02}.png")
    return top


def test_masks_lie_on_the_pixels_of_their_pictures(tmp_path: Path) -> None:
    """Both are resized and cropped alike: light pixels are those of the class."""
    data = load_data(str(write(tmp_path)), 32, workers=0)
    assert isinstance(data, MaskedData)
    assert (data.class_names, sum(data.splits.values())) == (("class 0", "class 1"), 30)
    x_BCHW, _ = next(data.batches("search", 4, 4))
    masks_NHW = data.masks("search", 4)
    assert masks_NHW.shape == (4, 32, 32)
    is_light_BHW = x_BCHW[:, 0] > x_BCHW[:, 0].amax(dim=(1, 2), keepdim=True) / 4
    assert float((is_light_BHW == (masks_NHW == 1)).float().mean()) > 0.95
    with pytest.raises(DataError, match="masks say the class of each pixel, expected classes"):
        refuse_masks(data)
    assert find_images(str(tmp_path)).labels.shape == (30, 2)


def test_classes_have_names_and_numbers_may_have_gaps(tmp_path: Path) -> None:
    top = write(tmp_path / "a", folders=("JPEGImages", "SegmentationClass"), values=(0, 7))
    assert holds_masks(top)
    assert load_data(str(top), 16, workers=0).class_names == ("class 0", "class 7")
    (top / "classes.txt").write_text("\n".join(f"name {number}" for number in range(8)))
    assert load_data(str(top), 16, workers=0).class_names == ("name 0", "name 7")
    (top / "classes.txt").write_text("one\ntwo")
    with pytest.raises(DataError, match=r"`classes.txt` names 2 classes, masks have number 7"):
        load_data(str(top), 16, workers=0)


def spoil(top: Path, how: str) -> None:
    mask = top / "masks/03.png"
    if how == "missing":
        mask.unlink()
    elif how == "colours":
        Image.new("RGB", (64, 64)).save(mask)
    elif how == "size":
        Image.new("L", (32, 64)).save(mask)
    elif how == "large":
        Image.fromarray(np.full((64, 64), 300, dtype=np.uint16)).save(mask)
    elif how == "text":
        mask.write_text("no image")


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("missing", "`03` and 0 others have no mask, expected a file of that name in `masks`"),
        ("colours", r"03.png`: found an image of mode RGB in a `.png` file, expected PNG with a class"),
        ("size", r"03.png`: found \(32, 64\) pixels, its picture has \(64, 64\)"),
        ("large", r"03.png`: found numbers up to 300"),
        ("text", r"03.png`: cannot be read"),
    ],
)
def test_masks_that_say_nothing_sure_are_refused(how: str, problem: str, tmp_path: Path) -> None:
    spoil(write(tmp_path), how)
    with pytest.raises(DataError, match=problem):
        load_data(str(tmp_path), 16, workers=0)


def test_masks_of_black_and_white_are_refused_since_255_is_no_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="masks hold number 0 and 255, which is no class, expected two classes or more"):
        load_data(str(write(tmp_path, 6, values=(0, 255))), 16, workers=0)


# -- the probe -------------------------------------------------------------------------------------------------------


def test_shares_and_unions_by_hand() -> None:
    mask_BHW = torch.tensor([[[0, 0, 1, 1], [0, 1, 1, 255], [255, 255, 0, 0], [255, 255, 0, 1]]])
    shares_MK, is_known_M = patch_shares(mask_BHW, 2, 2)
    assert is_known_M.tolist() == [True, True, False, True]
    assert shares_MK[is_known_M].tolist() == [[0.75, 0.25], [0.0, 1.0], [0.75, 0.25]]
    found_BHW = torch.tensor([[[0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]])
    counts_KK = confusion(found_BHW, mask_BHW, 3)
    assert counts_KK.tolist() == [[6, 0, 0], [2, 3, 0], [0, 0, 0]]
    assert intersections_over_unions(counts_KK) == [6 / 8, 3 / 5, None]


def test_a_probe_tells_classes_that_features_tell() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse_BSS = torch.randint(3, (8, 4, 4), generator=generator)
    map_BCSS = torch.randn(8, 6, 4, 4, generator=generator) * 0.1
    map_BCSS[:, :3] += torch.nn.functional.one_hot(coarse_BSS, 3).permute(0, 3, 1, 2)
    mask_BHW = coarse_BSS.repeat_interleave(2, 1).repeat_interleave(2, 2)
    probe = fit_patch_probe([(map_BCSS[:4], mask_BHW[:4]), (map_BCSS[4:], mask_BHW[4:])], 3)
    whole = fit_patch_probe([(map_BCSS, mask_BHW)], 3)
    assert torch.allclose(probe.weight_KC, whole.weight_KC)
    assert torch.equal(probe.classes(map_BCSS, 4), coarse_BSS)
