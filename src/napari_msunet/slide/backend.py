"""The interface of the readers: information about the image, and its pixels in fixed chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_msunet.config.base import Kind, ValueRange

Pixels = npt.NDArray[Any]

CHUNK_SIDE = 512
CHUNK_BYTES = 4 << 20
RGB = ("red", "green", "blue")
WHITE = np.full(3, 255, np.uint8)
"""The background of transparent colours."""


@dataclass(frozen=True)
class Level:
    """One level of a pyramid: its shape, its downsample `(y, x)` and the size of the chunks in which it is read."""

    shape: tuple[int, int]
    downsample: tuple[float, float]
    chunk: tuple[int, int]

    @property
    def chunks(self) -> tuple[int, int]:
        """Number of chunk rows and columns."""
        return -(-self.shape[0] // self.chunk[0]), -(-self.shape[1] // self.chunk[1])


@dataclass(frozen=True)
class SlideInfo:
    """What is known about a slide without reading its pixels.

    `background`, `kind` and `value_range` come from the file, and are None where it does not have them; see
    `slide.numbers`. In a pyramid of ours they may be a guess that was made for its source.
    """

    levels: tuple[Level, ...]
    dtype: np.dtype[Any]
    channels: tuple[str, ...]
    mpp: tuple[float, float] | None
    """The size in the file, unchecked; `pixel_size.believed` decides whether it is used."""
    background: Pixels | None
    properties: dict[str, str] = field(default_factory=dict)
    kind: Kind | None = None
    value_range: ValueRange | None = None
    kind_from: Literal["file", "guess", "person"] = "file"
    range_from: Literal["file", "guess", "person"] = "file"
    mpp_given: bool = False
    """Whether a person gave the size when the file was made, which is known for a pyramid of ours."""
    notes: tuple[str, ...] = ()
    """Sentences about changes of the pixels: turned, colours converted, the first of several planes."""


class Backend(ABC):
    """One open file. Pixels come in fixed chunks, so that a pixel's value cannot depend on the window that is read."""

    info: SlideInfo
    samples: Samples | None = None
    """How the file codes its pixels; None where they are plain numbers or colours."""
    turned: int = 1
    """The orientation tag by which the image is turned; 1 means not at all."""
    planes: int = 1
    """The number of planes of this size in the file (time, depth, pages), of which the first is read."""

    def read_stored(self, level: int, cy: int, cx: int) -> Pixels:
        """The numbers of one chunk as in the file, but turned like the image; masks are made of them."""
        return self.read_chunk(level, cy, cx)

    @abstractmethod
    def read_chunk(self, level: int, cy: int, cx: int) -> Pixels:
        """The pixels `(h, w, c)` of one chunk, cropped at the level's edges, in the slide's dtype."""

    def close(self) -> None:
        """Close the file."""
        return

    def chunk_box(self, level: int, cy: int, cx: int) -> tuple[int, int, int, int]:
        """First row, first column, height and width of a chunk in pixels of its level."""
        this = self.info.levels[level]
        y, x = cy * this.chunk[0], cx * this.chunk[1]
        return y, x, min(this.chunk[0], this.shape[0] - y), min(this.chunk[1], this.shape[1] - x)


def chunk_size(native: tuple[int, int], shape: tuple[int, int], pixel_bytes: int) -> tuple[int, int]:
    """The size of a chunk: native chunks joined until a side has about 512 pixels, up to a few MiB."""
    sides = [max(1, min(native[0], shape[0])), max(1, min(native[1], shape[1]))]
    for axis in (1, 0):
        allowed = CHUNK_BYTES // max(1, sides[0] * sides[1] * pixel_bytes)
        times = max(1, min(CHUNK_SIDE // sides[axis], allowed))
        sides[axis] = min(sides[axis] * times, max(shape[axis], 1))
    return sides[0], sides[1]


def level_downsample(full: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float]:
    """Level-0 pixels per pixel of a level: a whole number where the shape fits one, else the ratio of the shapes."""
    estimate = max(full) / max(1, shape[full.index(max(full))])
    for factor in sorted({round(estimate), int(estimate), int(estimate) + 1}, key=lambda f: abs(f - estimate)):
        if factor >= 1 and all(n // factor <= s <= -(-n // factor) for n, s in zip(full, shape, strict=True)):
            return float(factor), float(factor)
    return full[0] / shape[0], full[1] / shape[1]


def default_channels(count: int, colour: bool) -> tuple[str, ...]:
    """Names for channels that have no names in the file."""
    if colour:
        return RGB
    return ("gray",) if count == 1 else tuple(f"channel {i}" for i in range(count))


def on_background(rgba: npt.NDArray[np.uint8], background: Pixels) -> npt.NDArray[np.uint8]:
    """Colours with straight (not premultiplied) alpha, blended with the background; alpha is the last channel."""
    alpha = rgba[..., -1:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :-1])
    share = alpha.astype(np.uint32)
    mixed = rgba[..., :-1] * share + background.astype(np.uint32) * (255 - share)
    return ((mixed + 127) // 255).astype(np.uint8)


# ----------------------------------------------------------------------------------------------------------------------
# The meaning of a pixel's samples: grey, colours in several codings, indices of a palette, transparency.

Space: TypeAlias = Literal["plain", "gray", "rgb", "palette", "ycbcr", "cmyk", "cielab", "icclab"]
Alpha: TypeAlias = Literal["straight", "premultiplied"]
Floats: TypeAlias = npt.NDArray[np.float64]

BASE = {"gray": 1, "rgb": 3, "palette": 1, "ycbcr": 3, "cmyk": 4, "cielab": 3, "icclab": 3}
"""Samples of a pixel without transparency."""

NAMES = {"ycbcr": "YCbCr", "cmyk": "CMYK", "cielab": "CIELab", "icclab": "ICCLab"}

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in luminance (ITU-R BT.601), the default of TIFF and JPEG."""

_D50 = np.array([0.96422, 1.0, 0.82521])
# From XYZ under D50, the white of Lab in files, to linear sRGB: Bradford's adaptation and IEC 61966-2-1 in one matrix
# (http://www.brucelindbloom.com/index.html?Eqn_RGB_XYZ_Matrix.html).
_XYZ_TO_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)


@dataclass(frozen=True)
class Samples:
    """How a file codes its pixels.

    Attributes
    ----------
    space : str
        The colour space; "plain" means independent channels.
    dtype : numpy.dtype
        Type of the samples from the decoder.
    count : int
        Number of samples of a pixel from the decoder.
    bits : int
        Bits of one sample.
    white_is_zero : bool
        Whether 0 is white, in grey images.
    palette : (n, 3) uint8, optional
    opacity : (n,) uint8, optional
        Opacity of each colour of the palette.
    alpha : str, optional
        Where the last sample is the pixel's opacity: whether the colours are multiplied by it, or not ("straight").
    transparent : tuple of int, optional
        The one colour that is transparent (tRNS of PNG).
    step : int
        The factor of the decoder on the numbers in the file, such as 85 for grey PNG of 2 bits.
    luma, reference : tuple of float, optional
        YCbCr: shares of red, green and blue; black and white of each sample.
    """

    space: Space
    dtype: np.dtype[Any]
    count: int
    bits: int
    white_is_zero: bool = False
    palette: npt.NDArray[np.uint8] | None = None
    opacity: npt.NDArray[np.uint8] | None = None
    alpha: Alpha | None = None
    transparent: tuple[int, ...] | None = None
    step: int = 1
    luma: tuple[float, ...] = LUMA
    reference: tuple[float, ...] | None = None

    @property
    def channels(self) -> int:
        """Channels of the image."""
        if self.space == "plain":
            return self.count
        return 1 if self.space == "gray" else 3

    @property
    def colour(self) -> bool:
        """Whether the channels are red, green and blue."""
        return self.space not in ("plain", "gray")

    @property
    def image_dtype(self) -> np.dtype[Any]:
        """Type of the image's values."""
        small = self.space == "palette" or (self.dtype.kind in "bu" and self.bits <= 8)
        return np.dtype(np.uint8) if small else self.dtype.newbyteorder("=")

    @property
    def top(self) -> float:
        """White in the image's values."""
        if self.image_dtype.kind == "f":
            return 1.0
        if self.image_dtype.kind == "i":
            return float(np.iinfo(self.image_dtype).max)
        return 255.0 if self.image_dtype == np.uint8 else float(2**self.bits - 1)

    @property
    def see_through(self) -> bool:
        """Whether pixels can be transparent."""
        return self.alpha is not None or self.transparent is not None or self.opacity is not None

    def notes(self) -> tuple[str, ...]:
        """Sentences for `info` about changes of the file's numbers."""
        said = []
        if self.palette is not None:
            said.append("Its numbers are places in a palette: the palette's colours are read.")
        if self.space in NAMES:
            said.append(
                f"Its colours are {NAMES[self.space]}: they are turned into red, green and blue"
                + (", without a colour profile." if self.space == "cmyk" else ".")
            )
        if self.white_is_zero:
            said.append("Its 0 is white: values are turned around, so that 0 is black.")
        if self.see_through:
            said.append("What is transparent in it is laid on white.")
        return tuple(said)

    def image(self, stored: Pixels) -> Pixels:
        """The pixels of the image from its decoded samples.

        Parameters
        ----------
        stored : (h, w, count) array
            The decoded samples.

        Returns
        -------
        (h, w, channels) array of `image_dtype`
        """
        if stored.dtype == bool:
            stored = stored.astype(np.uint8)
        if self.palette is not None:
            index = stored[..., 0]
            colours: Pixels = self.palette[index]
            return colours if self.opacity is None else self._laid(colours, self.opacity[index][..., None])
        colours, opacity = stored, None
        if self.alpha is not None:
            colours, opacity = stored[..., :-1], stored[..., -1:]
        elif self.transparent is not None:
            clear = (stored == np.asarray(self.transparent, stored.dtype)).all(-1, keepdims=True)
            opacity = np.where(clear, 0, 2**self.bits - 1).astype(stored.dtype)
        colours = self.colours(colours)
        if opacity is None:
            return np.ascontiguousarray(colours.astype(self.image_dtype, copy=False))
        return self._laid(colours, self._scaled(opacity))

    def colours(self, stored: Pixels) -> Pixels:
        """Grey, or red, green and blue, in 0..top, of samples `(h, w, ...)` without transparency."""
        if self.space == "ycbcr":
            return self._whole(from_ycbcr(stored.astype(np.float64), self.luma, self._reference(), self.top))
        if self.space == "cmyk":
            return self._from_cmyk(self._scaled(stored))
        if self.space in ("cielab", "icclab"):
            return self._whole(np.clip(lab_to_srgb(self._lab(stored)), 0, 1) * self.top)
        scaled = self._scaled(stored)
        if not self.white_is_zero:
            return scaled
        turned: Pixels = self.image_dtype.type(255 if self.image_dtype == np.uint8 else 2**self.bits - 1) - scaled
        return turned

    def _scaled(self, stored: Pixels) -> Pixels:
        """Samples of fewer than 8 bits, scaled to 8 bits."""
        if self.bits >= 8 or self.step > 1 or self.dtype.kind not in "bu":
            return stored
        most = 2**self.bits - 1
        spread: Pixels = np.rint(stored * (255 / most)).astype(np.uint8)
        return spread

    def _whole(self, values: Floats) -> Pixels:
        """Values rounded into the image's type."""
        whole: Pixels = np.rint(np.clip(values, 0, self.top)).astype(self.image_dtype)
        return whole

    def _reference(self) -> tuple[float, ...]:
        """Black and white of Y, Cb and Cr."""
        if self.reference is not None:
            return self.reference
        top, middle = float(2**self.bits - 1), float(2 ** (self.bits - 1))
        return (0.0, top, middle, top, middle, top)

    def _from_cmyk(self, stored: Pixels) -> Pixels:
        """Red, green and blue by the usual formula, rounded as Pillow does it."""
        light = self.top - stored[..., 3:].astype(np.float64)
        return self._whole(light - np.rint(stored[..., :3] * light / self.top))

    def _lab(self, stored: Pixels) -> Floats:
        """L 0..100 and a, b (TIFF 6.0, section 23; ICC.1 for ICCLab)."""
        wide = self.bits > 8
        colours: Any = stored[..., 1:]
        unit = 256.0 if wide else 1.0
        lightness: Any = stored[..., :1] * (
            100 / (65280.0 if wide and self.space == "icclab" else float(2**self.bits - 1))
        )
        ab = colours.view(np.int16 if wide else np.int8) / unit if self.space == "cielab" else colours / unit - 128.0
        return np.concatenate([lightness, ab], axis=-1)

    def _laid(self, colours: Pixels, opacity: Pixels) -> Pixels:
        """Colours blended with white."""
        most = 255 if opacity.dtype == np.uint8 else self.top
        if opacity.size == 0 or opacity.min() == most:
            return np.ascontiguousarray(colours.astype(self.image_dtype, copy=False))
        share = opacity / most
        own = colours if self.alpha == "premultiplied" else colours * share
        mixed = own + self.top * (1 - share)
        if self.image_dtype.kind == "f":
            return mixed.astype(self.image_dtype)
        return self._whole(mixed)


def from_ycbcr(stored: Floats, luma: tuple[float, ...], reference: tuple[float, ...], top: float) -> Floats:
    """Red, green and blue, in 0..top, from YCbCr (TIFF 6.0, section 21)."""
    red, green, blue = luma
    black = np.array(reference[::2])
    reach = np.array(reference[1::2]) - black
    middle = np.array([top, top // 2, top // 2])
    y, cb, cr = np.moveaxis((stored - black) * (middle / np.where(reach == 0, 1, reach)), -1, 0)
    r = y + cr * (2 - 2 * red)
    b = y + cb * (2 - 2 * blue)
    g = (y - blue * b - red * r) / green
    return np.stack([r, g, b], axis=-1)


def lab_to_srgb(lab: Floats) -> Floats:
    """sRGB in 0..1 (unclipped) from L, a, b under D50."""
    fy = (lab[..., :1] + 16) / 116
    f = np.concatenate([fy + lab[..., 1:2] / 500, fy, fy - lab[..., 2:] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * _D50
    linear = xyz @ _XYZ_TO_SRGB.T
    curved: Floats = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, curved)


# ----------------------------------------------------------------------------------------------------------------------
# The orientation of an image (TIFF tag 274, EXIF), and turning windows and pixels by it.

TAG = 274


class Turn(NamedTuple):
    """The way from stored pixels to the image: rows and columns are swapped, then flipped."""

    number: int
    swap: bool
    flip_y: bool
    flip_x: bool
    words: str

    @property
    def none(self) -> bool:
        """Whether the image is not turned."""
        return self.number == 1

    def pair(self, stored: tuple[Any, Any]) -> tuple[Any, Any]:
        """A pair for rows and columns of the turned image, such as its shape, from that of the stored one."""
        return (stored[1], stored[0]) if self.swap else stored

    def stored_box(self, box: tuple[int, int, int, int], shape: tuple[int, int]) -> tuple[int, int, int, int]:
        """The stored box of a box `(y, x, height, width)` of the turned image, which has this shape."""
        y, x, height, width = box
        y = shape[0] - y - height if self.flip_y else y
        x = shape[1] - x - width if self.flip_x else x
        return (x, y, width, height) if self.swap else (y, x, height, width)

    def pixels(self, stored: Pixels) -> Pixels:
        """The turned pixels `(h, w, ...)`."""
        turned = np.swapaxes(stored, 0, 1) if self.swap else stored
        turned = turned[::-1] if self.flip_y else turned
        return turned[:, ::-1] if self.flip_x else turned


_TURNS = (
    Turn(1, False, False, False, "as stored"),
    Turn(2, False, False, True, "mirrored left to right"),
    Turn(3, False, True, True, "turned by 180 degrees"),
    Turn(4, False, True, False, "mirrored top to bottom"),
    Turn(5, True, False, False, "mirrored along its diagonal"),
    Turn(6, True, False, True, "turned by 90 degrees clockwise"),
    Turn(7, True, True, True, "mirrored along its other diagonal"),
    Turn(8, True, True, False, "turned by 90 degrees anticlockwise"),
)
AS_STORED = _TURNS[0]


def turn(value: object) -> Turn:
    """The turn of a tag's value; no turn where it is no number from 1 to 8."""
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return AS_STORED
    return _TURNS[number - 1] if 1 <= number <= 8 else AS_STORED


def outlines_note(name: str, number: int) -> str | None:
    """The warning about outlines of an image that is turned by a tag."""
    if number == 1:
        return None
    return (
        f"{name} is {_TURNS[number - 1].words} as its orientation tag ({number}) says; outlines that were drawn in a "
        "program that does not follow the tag, such as QuPath, lie wrongly: save the image without the tag, and draw "
        "or export them on that"
    )


def turn_note(asked: Turn, heeded: bool) -> tuple[str, ...]:
    """The sentence for `info`, where the image has a turn."""
    if asked.none:
        return ()
    if heeded:
        return (f"Its orientation tag is {asked.number}: it is read {asked.words}.",)
    return (
        f"Its orientation tag is {asked.number} ({asked.words}), and is not followed: whole slides are read as they "
        "are stored, as QuPath, ASAP and ImageScope do, so that outlines fit.",
    )
