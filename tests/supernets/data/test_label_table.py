"""Tables of labels beside images: what is understood, what is refused, and how images are divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supernets.data.image_files import find_images
from supernets.data.label_table import find_label_table
from supernets.data.sources import load_data
from supernets.errors import DataError

NAMES = [f"{number:02}.png" for number in range(40)]


def write(top: Path, names: list[str], table: str = "", text: str = "") -> Path:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(top / name)
    if table:
        (top / table).write_text(text, encoding="utf-8")
    return top


def flags(names: list[str], header: str = "file,cat,dog") -> str:
    """A cat on every second image, a dog on every third."""
    lines = [f"{name},{1 - number % 2},{int(number % 3 == 0)}" for number, name in enumerate(names)]
    return "\n".join([header, *lines])


def listed(names: list[str], header: str = "Image Index,Finding Labels") -> str:
    said = ["cat|dog", "No Finding", "cat", "dog", "cat", "No Finding"]
    return "\n".join([header, *(f"{name},{said[number % 6]}" for number, name in enumerate(names))])


def of_lines(names: list[str]) -> str:
    said = ['["cat", "dog"]', "[]", '["cat"]', '["dog"]', '["cat"]', "[]"]
    return "\n".join(f'{{"file_name": "{name}", "labels": {said[number % 6]}}}' for number, name in enumerate(names))


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("labels.csv", flags(NAMES)),
        ("labels.tsv", flags(NAMES).replace(",", "\t")),
        ("train.csv", flags([name.removesuffix(".png") for name in NAMES], "image_id,cat,dog")),
        ("Data_Entry_2017.csv", listed(NAMES)),
        ("metadata.jsonl", of_lines(NAMES)),
    ],
)
def test_a_table_says_the_labels_of_images_in_any_of_its_notations(table: str, text: str, tmp_path: Path) -> None:
    found = find_label_table(write(tmp_path, NAMES, table, text))
    assert found is not None
    assert (found.class_names, found.names) == (("cat", "dog"), tuple(NAMES))
    assert found.labels_NK[:6].tolist() == [[1, 1], [0, 0], [1, 0], [0, 1], [1, 0], [0, 0]]
    assert found.labels.shape == (40, 2)


def test_images_are_loaded_with_all_their_labels_and_every_label_is_in_every_part(tmp_path: Path) -> None:
    write(tmp_path / "images", NAMES)
    (tmp_path / "labels.csv").write_text(flags([f"images/{name}" for name in NAMES]))
    for folder in (tmp_path, tmp_path / "images"):
        data = load_data(str(folder), 8, workers=0)
        assert data.has_several_labels
        assert sum(data.splits.values()) == 40
        assert all(data.class_counts(part).min() >= 1 for part in ("train", "search", "test"))
        assert data.class_counts("train").tolist() != [data.splits["train"]] * 2
        x_BCHW, labels_BK = next(data.batches("test", 4))
        rows = data.labels[data.division.parts["test"][:4]]
        assert (len(x_BCHW), labels_BK.tolist()) == (4, rows.tolist())


def test_labels_that_exclude_each_other_are_classes(tmp_path: Path) -> None:
    text = "\n".join(["file,cat,dog", *(f"{name},{number % 2},{1 - number % 2}" for number, name in enumerate(NAMES))])
    data = load_data(str(write(tmp_path, NAMES, "labels.csv", text)), 8, workers=0)
    assert not data.has_several_labels
    assert data.labels[:4].tolist() == [1, 0, 1, 0]


def test_images_of_one_patient_stay_together_and_parts_that_are_told_are_kept(tmp_path: Path) -> None:
    rows = listed(NAMES, "Image Index,Finding Labels,Patient ID").split("\n")
    text = "\n".join([rows[0], *(f"{row},{number // 2}" for number, row in enumerate(rows[1:]))])
    found = find_images(str(write(tmp_path / "a", NAMES, "labels.csv", text)))
    part_of = {index: part for part, indices in found.divided(0).items() for index in indices.tolist()}
    assert all(part_of[index] == part_of[index + 1] for index in range(0, 40, 2))
    assert any("`Patient ID`" in remark for remark in found.remarks)
    rows = flags(NAMES, "file,cat,dog,split").split("\n")
    told = [rows[0], *(f"{row},{'test' if number < 12 else 'train'}" for number, row in enumerate(rows[1:]))]
    parts = find_images(str(write(tmp_path / "b", NAMES, "labels.csv", "\n".join(told)))).divided(0)
    assert parts["test"].tolist() == list(range(12))
    assert len(parts["search"]) + len(parts["train"]) == 28


BOTH = "\n".join(
    f"{one},{two.split(',', 1)[1]}"
    for one, two in zip(listed(NAMES).split("\n"), flags(NAMES).split("\n"), strict=True)
)
PARTED = flags(NAMES, "file,cat,dog,split").replace("\n", ",train\n").replace("split,train", "split") + ",train"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (flags(NAMES).replace("03.png,0,1", "03.png,-1,1"), "line 5: column `cat`: found `-1`, expected 0 or 1"),
        (flags(NAMES).replace("03.png,0,1", "03.png,,1"), "line 5: column `cat`: found ``, expected 0 or 1"),
        (flags(NAMES[1:]), "says nothing of 1 images: `00.png`"),
        (flags(NAMES) + "\n03.png,1,1", r"lines 5 and 42 are both of `03.png`"),
        (BOTH, "the columns `Finding Labels` and `cat` and `dog` all say labels"),
        (listed(NAMES).replace("|", ","), "line 2: found 3 fields, expected 2"),
        (PARTED.replace("train", "late"), "line 2: found part `late`, expected train, val or test"),
        ("file,labels\n" + "\n".join(f'{name},"cat, dog"' for name in NAMES), "labels with `|` between them"),
        (flags(NAMES).replace(",1,", ",0,"), "class `cat` is a label of 0 of 40 images"),
    ],
)
def test_what_could_mean_several_things_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        find_images(str(write(tmp_path, NAMES, "labels.csv", text))).divided(0)


def test_folders_of_classes_stay_classes_beside_a_table_that_says_something_else(tmp_path: Path) -> None:
    names = [f"{('cat', 'dog')[number % 2]}/{number:02}.png" for number in range(40)]
    found = find_images(str(write(tmp_path, names, "attributes.csv", flags(names, "file,dark,blurry"))))
    assert (found.class_names, found.table) == (("cat", "dog"), None)
    several = write(tmp_path / "x", [f"images_{number % 3}/{name}" for number, name in enumerate(NAMES)])
    (several / "Data_Entry.csv").write_text(listed(NAMES))
    assert find_images(str(several)).labels.shape == (40, 2)


def test_names_that_several_images_have_are_refused_without_a_path(tmp_path: Path) -> None:
    write(tmp_path, [f"{folder}/{name}" for name in NAMES for folder in "ab"], "labels.csv", listed(NAMES))
    with pytest.raises(DataError, match=r"line 2: `00.png` may be `a/00.png`, `b/00.png`"):
        find_images(str(tmp_path))


def test_the_rarest_labels_are_spread_over_all_parts(tmp_path: Path) -> None:
    names = [f"{number:03}.png" for number in range(200)]
    rows = [f"{name},{int(number % 40 == 0)},{int(number % 2)}" for number, name in enumerate(names)]
    found = find_images(str(write(tmp_path, names, "labels.csv", "\n".join(["file,rare,common", *rows]))))
    counts = [int(found.labels[indices, 0].sum()) for indices in found.divided(0).values()]
    assert sorted(counts) == [1, 1, 3]
    assert np.concatenate(list(found.divided(0).values())).size == 200
