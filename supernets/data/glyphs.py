"""The data source ``glyphs``: distorted characters, rendered when they are loaded, so no network is needed.

Legend of tensor suffixes: B images of a chunk, H and W rows and columns, G the two coordinates of a grid.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.data.image_data import FRACTIONS, Division, LoadOptions, NamedSource, digest_of, divide
from supernets.data.memory_images import AffineRanges, MemoryData, affine_grid

VERSION = 1
"""Version of the rendering; to be raised whenever the images change."""
CHARACTERS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZabdefghnqrt"
"""Digits, capitals but I and O, and the small letters that are no smaller copies of capitals."""
PER_CLASS = 308
"""Which leaves 200 of each for training."""
SIDE = 32

_MASTER_SIDE, _FONT_SIZE = 56, 40
_STYLES = 5
_CHUNK = 1_540
# At most: rotation, logarithms of zoom and stretch, columns per row, half sides moved, half sides bent.
_DEGREES, _ZOOM, _STRETCH, _SHEAR, _SHIFT, _BEND = 15.0, 0.15, 0.12, 0.2, 0.08, 0.12
_SMALLER = 0.95  # than drawn, before it is zoomed
# Other characters, how many half sides from the middle, and half the widths of lines in half sides.
_CLUTTER, _CLUTTER_DISTANCE, _LINE_WIDTH = 2, (1.2, 1.6), (0.0, 0.04)
# Of the range from black to white: lighter by, background's variation at most, and the noise's standard deviation.
_CONTRAST, _SHADE, _NOISE = (0.4, 0.9), 0.1, (0.02, 0.06)


class GlyphSource(NamedSource):
    """13,860 images of 45 characters, 32 x 32 pixels, of which 9,000 are for training.

    Characters are drawn in Aileron Regular, the font that is embedded in Pillow (CC0 1.0, dotcolon.net), in five
    styles (thin, regular, bold, heavy, outlined). Each image is rotated, sheared, zoomed, shifted and bent, stands
    among parts of other characters and behind lines, lighter than its shaded background by varying contrast, with
    noise. All amounts come from one fixed seed: the images are the same everywhere up to the rounding of the processor.

    Networks of `elastic-mini` differ on them by more than the noise of judging, one point on the 2,070 images of the
    search part: trained alone for six epochs (batches of 32, AdamW, peak rate 0.004, cosine), the smallest reached
    61.1 % and the largest 75.7 % (one seed each).
    """

    name = "glyphs"

    def load(self, text: str, options: LoadOptions) -> MemoryData:
        """The glyphs."""
        class_names = tuple(CHARACTERS)
        labels = np.repeat(np.arange(len(CHARACTERS), dtype=np.int64), PER_CLASS)
        names = [f"{VERSION}/{character}/{number}" for character in CHARACTERS for number in range(PER_CLASS)]
        checksums = np.repeat([zlib.crc32(master.tobytes()) for master in _masters()], PER_CLASS).tolist()
        parts = divide(names, labels, class_names, options.seed, FRACTIONS, text)
        division = Division(parts, digest_of(parts, names, checksums))
        images, ranges = render_glyphs(), AffineRanges()
        return MemoryData(text, class_names, division, images, torch.from_numpy(labels), options, ranges)


@lru_cache(maxsize=1)
def render_glyphs() -> Tensor:
    """All images ``[N, 1, 32, 32]``, uint8, character by character; kept for the process, not to be changed."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([20260, VERSION])))
    masters = torch.from_numpy(_masters()).float() / 255
    labels = np.repeat(np.arange(len(CHARACTERS)), PER_CLASS)
    chunks = [labels[first : first + _CHUNK] for first in range(0, len(labels), _CHUNK)]
    return torch.cat([_render(masters, chunk, generator) for chunk in chunks])


@lru_cache(maxsize=1)
def _masters() -> npt.NDArray[np.uint8]:
    """Every character in every style, ``[characters, styles, H, W]``, white on black."""
    return np.stack([np.stack(_drawn(character)) for character in CHARACTERS])


def _drawn(character: str) -> list[npt.NDArray[np.uint8]]:
    from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

    font = ImageFont.load_default(_FONT_SIZE)
    middle = _MASTER_SIDE / 2

    def drawn(stroke: int) -> Image.Image:
        left, top, right, bottom = font.getbbox(character)
        image = Image.new("L", (_MASTER_SIDE, _MASTER_SIDE))
        corner = (middle - (left + right) / 2, middle - (top + bottom) / 2)
        ImageDraw.Draw(image).text(corner, character, fill=255, font=font, stroke_width=stroke)
        return image

    regular, heavy = drawn(0), drawn(3)
    styles = [
        ImageChops.blend(regular.filter(ImageFilter.MinFilter(3)), regular, 0.3),
        regular,
        drawn(1),
        heavy,
        ImageChops.subtract(heavy, drawn(1)),
    ]
    return [np.asarray(style.filter(ImageFilter.GaussianBlur(0.7))) for style in styles]


def _render(masters: Tensor, labels: npt.NDArray[np.int64], generator: np.random.Generator) -> Tensor:
    """Images of these characters, ``[B, 1, 32, 32]``, uint8."""
    count = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(generator.uniform(low, high, (count, *shape)).astype(np.float32))

    def master(character: npt.NDArray[np.int64]) -> Tensor:
        return masters[torch.from_numpy(character), torch.from_numpy(generator.integers(0, _STYLES, count))]

    bend_BHWG = _smooth(uniform(-_BEND, _BEND, 2, 4, 4)).movedim(1, -1)
    shape_B1HW = _placed(master(labels), uniform(-1, 1, 4), uniform(-_SHIFT, _SHIFT, 2), bend_BHWG)
    for _ in range(_CLUTTER):
        angle, distance = uniform(0, 2 * np.pi), uniform(*_CLUTTER_DISTANCE)
        offset_B2 = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=1)
        other = master(generator.integers(0, len(CHARACTERS), count))
        shape_B1HW = torch.maximum(shape_B1HW, _placed(other, uniform(-1, 1, 4), offset_B2, bend_BHWG))
    light_B1HW = _line(uniform(0, np.pi), uniform(-0.7, 0.7), uniform(*_LINE_WIDTH))
    dark_B1HW = _line(uniform(0, np.pi), uniform(-0.7, 0.7), uniform(*_LINE_WIDTH))
    shape_B1HW = torch.maximum(shape_B1HW, light_B1HW) * (1 - dark_B1HW)

    contrast_B111 = uniform(*_CONTRAST, 1, 1, 1)
    background_B1HW = 0.5 - contrast_B111 / 2 + _smooth(uniform(-_SHADE, _SHADE, 1, 3, 3))
    noise_B1HW = torch.from_numpy(generator.standard_normal((count, 1, SIDE, SIDE), dtype=np.float32))
    shades_B1HW = background_B1HW + contrast_B111 * shape_B1HW + uniform(*_NOISE, 1, 1, 1) * noise_B1HW
    return (shades_B1HW.clamp(0, 1) * 255).round().to(torch.uint8)


def _placed(master_BHW: Tensor, draws_BK: Tensor, offset_B2: Tensor, bend_BHWG: Tensor) -> Tensor:
    """Characters distorted by ``draws_BK`` in [-1, 1], ``offset_B2`` half sides off the middle."""
    angle = draws_BK[:, 0] * float(np.deg2rad(_DEGREES))
    zoom, stretch = _SMALLER * torch.exp(_ZOOM * draws_BK[:, 1]), torch.exp(_STRETCH * draws_BK[:, 2])
    # A grid says where a pixel comes from, hence the sign.
    shift_B2 = -offset_B2 * zoom[:, None]
    grid_BHWG = affine_grid(angle, zoom * stretch, zoom / stretch, _SHEAR * draws_BK[:, 3], shift_B2, SIDE) + bend_BHWG
    return F.grid_sample(master_BHW[:, None], grid_BHWG, mode="bilinear", padding_mode="zeros", align_corners=False)


def _line(angle_B: Tensor, distance_B: Tensor, width_B: Tensor) -> Tensor:
    """Straight lines ``[B, 1, H, W]`` in [0, 1], at a distance from the middle, with a soft edge of a pixel."""
    axis = (torch.arange(SIDE, dtype=torch.float32) + 0.5) * (2 / SIDE) - 1
    x_B1W, y_BH1 = axis * angle_B.cos()[:, None, None], axis[:, None] * angle_B.sin()[:, None, None]
    away_BHW = (x_B1W + y_BH1 - distance_B[:, None, None]).abs() - width_B[:, None, None]
    return (0.5 - away_BHW * (SIDE / 2)).clamp(0, 1)[:, None]


def _smooth(coarse_BCHW: Tensor) -> Tensor:
    return F.interpolate(coarse_BCHW, (SIDE, SIDE), mode="bicubic", align_corners=True)
