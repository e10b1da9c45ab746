"""What the samples of a pixel stand for: grey, colours of several codings, places in a palette, transparency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_msunet.slide.backend import Pixels

Space: TypeAlias = Literal["plain", "gray", "rgb", "palette", "ycbcr", "cmyk", "cielab", "icclab"]
Alpha: TypeAlias = Literal["straight", "premultiplied"]
Floats: TypeAlias = npt.NDArray[np.float64]

BASE = {"gray": 1, "rgb": 3, "palette": 1, "ycbcr": 3, "cmyk": 4, "cielab": 3, "icclab": 3}
"""Samples of a pixel without transparency."""

NAMES = {"ycbcr": "YCbCr", "cmyk": "CMYK", "cielab": "CIELab", "icclab": "ICCLab"}

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in luminance (ITU-R BT.601): what TIFF and JPEG take where the file says nothing."""

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
        "plain": channels that mean nothing but themselves.
    dtype : numpy.dtype
        Of the samples as the decoder gives them.
    count : int
        Samples of a pixel, as the decoder gives them.
    bits : int
        Of one sample.
    white_is_zero : bool
        Grey whose 0 is white.
    palette : (n, 3) uint8, optional
    opacity : (n,) uint8, optional
        Of each colour of the palette.
    alpha : str, optional
        The last sample is the pixel's opacity, and the colours are as they are ("straight") or multiplied by it.
    transparent : tuple of int, optional
        The one colour that is transparent (tRNS of PNG).
    step : int
        What the decoder multiplied the file's own numbers by: 85 for grey PNG of 2 bits.
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
        """Sentences for `info` on what was done to the file's numbers."""
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
        """Pixels as they are meant to be seen.

        Parameters
        ----------
        stored : (h, w, count) array
            As decoded.

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
        """Samples of fewer than 8 bits spread to 8."""
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
        """Colours laid on white."""
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
