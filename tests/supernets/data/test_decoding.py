"""Decoding: every kind of image file gives the pixels that a viewer shows, or a reason why it cannot be used."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from supernets.data import decoding
from supernets.data.decoding import CMYK, DEEP, FRAMES, ON_WHITE, REDUCED, TURNED, Refusal, decode, read_picture
from supernets.errors import DataError

ARROW = np.zeros((6, 9, 3), np.uint8)
ARROW[0, :, 0], ARROW[:, 0, 1], ARROW[1, 2, 2] = 200, 150, 250
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
UNDO = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: lambda a: np.rot90(a, -1),
}
"""How the pixels of a file lie whose EXIF number turns them upright."""


def pixels(path: Path) -> np.ndarray[Any, Any]:
    image = decode(path, str(path))
    assert image.mode == "RGB"
    return np.asarray(image)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def write_png(path: Path, size: tuple[int, int], bits: int, colour: int, rows: bytes, *chunks: bytes) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body + chunk(b"IEND", b""))


def write_png_header(path: Path, columns: int, rows: int) -> None:
    write_png(path, (columns, rows), 8, 2, b"")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_as_their_exif_data_say(tmp_path: Path, ending: str, orientation: int) -> None:
    path = tmp_path / f"1.{ending}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(ending, {})
    Image.fromarray(np.ascontiguousarray(UNDO[orientation](ARROW))).save(path, exif=exif, **options)
    found = pixels(path).astype(int)
    assert found.shape == ARROW.shape
    assert np.abs(found - ARROW).max() <= (8 if ending == "jpg" else 0)
    assert (TURNED in read_picture(path).kinds) is (orientation != 1)


def test_exif_data_that_make_no_sense_are_passed_over(tmp_path: Path) -> None:
    for number, exif in enumerate((b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage", b"Exif\0\0")):
        Image.fromarray(ARROW).save(tmp_path / f"{number}.png", exif=exif)
        assert np.array_equal(pixels(tmp_path / f"{number}.png"), ARROW)
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.fromarray(ARROW).save(tmp_path / "odd.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "odd.png"), ARROW)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_what_is_transparent_lies_on_white(tmp_path: Path, mode: str) -> None:
    black = np.zeros((1, 3, 4), np.uint8)
    black[0, :, 3] = (0, 128, 255)
    image = Image.fromarray(black)
    path = tmp_path / ("1.tif" if mode == "PA" else "1.png")
    if mode in ("RGBA", "LA"):
        image.convert(mode).save(path)
    else:
        palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
        palette.putpalette([0, 0, 0] * 3)
        palette.info["transparency"] = bytes([0, 128, 255])
        if mode == "PA":
            converted, kinds = decoding.to_rgb(palette.convert("PA"))
            assert np.asarray(converted)[0, :, 0].tolist() == [255, 127, 0]
            assert kinds == {ON_WHITE}
            return
        palette.save(path, transparency=bytes([0, 128, 255]))
    found = pixels(path)
    assert found[0, :, 0].tolist() == [255, 127, 0]
    assert read_picture(path).kinds == read_picture(path, is_sketch=True).kinds == {ON_WHITE}


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_a_colour_that_stands_for_transparency_is_white(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)).convert(mode, dither=Image.Dither.NONE)
    image.save(tmp_path / "1.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert pixels(tmp_path / "1.png").tolist() == [[[255] * 3, [255] * 3]]


def test_colours_of_sixteen_bits_that_stand_for_transparency(tmp_path: Path) -> None:
    rows = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x8000, 0x4000, 0xFFFF)
    clear = chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    write_png(tmp_path / "colour.png", (2, 1), 16, 2, rows, clear)
    assert pixels(tmp_path / "colour.png").tolist() == [[[255] * 3, [0x80, 0x40, 0xFF]]]
    write_png(tmp_path / "grey.png", (2, 1), 16, 0, b"\0" + struct.pack(">2H", 7, 257), chunk(b"tRNS", b"\0\7"))
    assert pixels(tmp_path / "grey.png").tolist() == [[[255] * 3, [1] * 3]]


def test_opaque_images_with_an_alpha_channel_are_as_they_were(tmp_path: Path) -> None:
    Image.fromarray(ARROW).convert("RGBA").save(tmp_path / "1.png")
    assert np.array_equal(pixels(tmp_path / "1.png"), ARROW)
    assert read_picture(tmp_path / "1.png").kinds == frozenset()


@pytest.mark.parametrize(
    ("name", "shades", "expected"),
    [
        ("1.png", np.array([[0, 257, 32896, 65535]], np.uint16), [0, 1, 128, 255]),
        ("1.tif", np.array([[0, 257, 32896, 65535]], np.uint16), [0, 1, 128, 255]),
        ("big endian.tif", np.array([[0, 257, 32896, 65535]], ">u2"), [0, 1, 128, 255]),
        ("int.tif", np.array([[0, 257, 32896, 65535]], np.int32), [0, 1, 128, 255]),
        ("bytes.tif", np.array([[0, 1, 128, 255]], np.int32), [0, 1, 128, 255]),
        ("signed.tif", np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
        ("huge.tif", np.array([[0, 1_000_000]], np.int32), [0, 255]),
        ("real.tif", np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        ("real bytes.tif", np.array([[0.0, 128.0, 255.0]], np.float32), [0, 128, 255]),
        ("signed real.tif", np.array([[-2.0, 0.0, 2.0]], np.float32), [0, 128, 255]),
        ("holes.tif", np.array([[np.nan, 0.5, np.inf]], np.float32), [0, 128, 255]),
        ("nothing.tif", np.array([[np.nan, np.nan]], np.float32), [0, 0]),
    ],
)
def test_shades_of_more_than_eight_bits_are_scaled(
    tmp_path: Path, name: str, shades: np.ndarray[Any, Any], expected: list[int]
) -> None:
    Image.fromarray(shades).save(tmp_path / name)
    assert pixels(tmp_path / name)[0, :, 0].tolist() == expected
    assert DEEP in read_picture(tmp_path / name, is_sketch=True).kinds


def test_turned_images_of_sixteen_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "1.png", exif=exif)
    assert pixels(tmp_path / "1.png")[:, 0, 0].tolist() == [0, 255]
    assert read_picture(tmp_path / "1.png").kinds == {TURNED, DEEP}


def test_grey_one_bit_and_palettes(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[0, 100, 255]], np.uint8))
    grey.save(tmp_path / "grey.png")
    assert pixels(tmp_path / "grey.png")[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]
    grey.point(lambda shade: 255 * (shade > 50)).convert("1").save(tmp_path / "bit.png")
    assert pixels(tmp_path / "bit.png")[0].tolist() == [[0] * 3, [255] * 3, [255] * 3]
    Image.fromarray(ARROW).quantize(8).save(tmp_path / "palette.gif")
    assert np.array_equal(pixels(tmp_path / "palette.gif"), ARROW)


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, ending: str) -> None:
    """JPEG files hold the inks inverted, as Adobe writes them, others do not."""
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[..., 0] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / f"1.{ending}", **({"quality": 100} if ending == "jpg" else {}))
    assert np.abs(pixels(tmp_path / f"1.{ending}")[4, 4].astype(int) - (0, 255, 255)).max() <= 3
    assert read_picture(tmp_path / f"1.{ending}").kinds == {CMYK}


def test_lab_hsv_and_luma(tmp_path: Path) -> None:
    colours = Image.fromarray(np.full((4, 4, 3), (200, 60, 40), np.uint8))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(colours, *profiles, outputMode="LAB").save(tmp_path / "lab.tif")
    assert np.abs(pixels(tmp_path / "lab.tif")[0, 0].astype(int) - (200, 60, 40)).max() <= 4
    for mode in ("HSV", "YCbCr"):
        converted, kinds = decoding.to_rgb(colours.convert(mode))
        assert np.abs(np.asarray(converted)[0, 0].astype(int) - (200, 60, 40)).max() <= 4
        assert kinds == frozenset()


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_of_several_frames_the_first_is_taken(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if ending == "webp" else {}
    frames[0].save(tmp_path / f"1.{ending}", save_all=True, append_images=frames[1:], **options)
    assert np.abs(pixels(tmp_path / f"1.{ending}")[4, 4].astype(int) - (255, 0, 0)).max() <= 1
    assert read_picture(tmp_path / f"1.{ending}").kinds == {FRAMES}


def test_jpeg_files_of_too_many_pixels_are_decoded_at_a_reduced_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (320, 160), (200, 10, 10)).save(tmp_path / "1.jpg", exif=exif)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 4_000)
    for file in (tmp_path / "1.jpg", io.BytesIO((tmp_path / "1.jpg").read_bytes())):
        picture = read_picture(file)
        assert picture.image.size == (40, 80)
        assert picture.kinds == {TURNED, REDUCED}
        assert np.abs(np.asarray(picture.image)[40, 20].astype(int) - (200, 10, 10)).max() <= 3
    monkeypatch.setattr(decoding, "MOST_JPEG_PIXELS", 50_000)
    with pytest.raises(Refusal, match=r"of too many pixels \(320 x 160\)"):
        read_picture(tmp_path / "1.jpg")


@pytest.mark.parametrize(
    ("size", "kind"),
    [((40_000, 40_000), "of too many pixels"), ((3, 9_000), "too narrow"), ((0, 4), "no image files|without pixels")],
)
def test_sizes_that_cannot_be_used(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    write_png_header(tmp_path / "1.png", *size)
    with pytest.raises(Refusal, match=kind):
        read_picture(tmp_path / "1.png")


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
JUNK = np.random.default_rng(0).integers(0, 256, 300, dtype=np.uint8).tobytes()


@pytest.mark.parametrize(
    ("contents", "kind"),
    [
        (b"", "empty files"),
        (b"<html><body>404</body></html>", "no image files"),
        (JUNK, "no image files"),
        (HEIC, r"HEIC files, which `pip install pillow-heif` lets be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "no image files"),
        (b"\xff\xd8\xff\xe0", "no image files|damaged|truncated"),
    ],
)
def test_contents_that_cannot_be_used(tmp_path: Path, contents: bytes, kind: str) -> None:
    path = tmp_path / "1.jpg"
    path.write_bytes(contents)
    with pytest.raises(Refusal, match=kind):
        read_picture(path)
    with pytest.raises(Refusal, match=kind):
        read_picture(io.BytesIO(contents), is_sketch=True)
    with pytest.raises(DataError, match=r"image `a name`: cannot be read: ") as caught:
        decode(path, "a name")
    assert caught.value.hint


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_files_that_were_cut_short(tmp_path: Path, form: str) -> None:
    contents = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(contents, form)
    (tmp_path / "1.jpg").write_bytes(contents.getvalue()[: len(contents.getvalue()) * 3 // 5])
    for is_sketch in (False, True):
        with pytest.raises(Refusal):
            read_picture(tmp_path / "1.jpg", is_sketch)


def test_the_ending_of_a_name_does_not_matter(tmp_path: Path) -> None:
    for form, ending in (("PNG", "jpg"), ("JPEG", "png"), ("WEBP", "heic"), ("GIF", "tif")):
        Image.fromarray(ARROW).save(tmp_path / f"1.{ending}", form)
        assert pixels(tmp_path / f"1.{ending}").shape == ARROW.shape
        assert read_picture(tmp_path / f"1.{ending}").form == form


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(Refusal):
        read_picture(tmp_path)
