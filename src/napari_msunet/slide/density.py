"""Stain on bright-field slides: optical density against the slide's own glass, and a threshold for it."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_msunet.slide.ink import ink_colours

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

FAINTEST, STRONGEST = 0.03, 0.07
"""The threshold lies between these stain densities: below is what glass can have, above only tissue has."""
STRIP = 256
_BRIGHT, _GREY, _ENOUGH = 0.8, 0.05, 0.005
_DARKEST = 1 / 255
_OFFSET = 0.01  # about the noise of glass: the logarithm does not tell its shades apart
_LOW, _HIGH = np.log(_OFFSET), np.log(_OFFSET + 4)


def optical_density(pixels: npt.NDArray[Any], white: npt.NDArray[np.float64]) -> list[Floats]:
    """Decadic optical density of each channel, `(h, w)` each, at least 0.

    Parameters
    ----------
    pixels : (h, w, c)
    white : (c,)
        The colour of empty glass.
    """
    planes = []
    for channel, full in enumerate(white):
        share = pixels[..., channel].astype(np.float32) / np.float32(full)
        planes.append(np.maximum(-np.log10(np.maximum(share, np.float32(_DARKEST))), np.float32(0)))
    return planes


def stain_density(density: list[Floats]) -> Floats:
    """How much stain there is: the colour's part of the optical density, and half of the grey part.

    The colour's part, largest less smallest channel, is a logarithm of the saturation (`1 - S = min / max`): it
    cancels shadows, dust and uneven light, which are grey. The mean density adds what is dark but hardly coloured:
    dense nuclei, folds, weak stains.
    """
    result: Floats = reduce(np.add, density) / np.float32(2 * len(density))
    result += reduce(np.maximum, density) - reduce(np.minimum, density)
    return result


def glass_colour(picture: npt.NDArray[Any], background: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The colour `(c,)` of empty glass: the median of what is bright and grey, the background's where little is.

    Pixels of exactly the background's colour were not scanned, and say nothing of the glass.
    """
    nominal = np.maximum(background.astype(np.float64), 1e-6)
    found = []
    for y in range(0, len(picture), STRIP):
        part = picture[y : y + STRIP]
        shares = [part[..., c].astype(np.float32) / np.float32(full) for c, full in enumerate(nominal)]
        least, most = reduce(np.minimum, shares), reduce(np.maximum, shares)
        scanned = reduce(np.logical_or, (part[..., c] != value for c, value in enumerate(background)))
        found.append(part[(least > _BRIGHT) & (most - least < _GREY) & scanned])
    glass = np.concatenate(found)
    if len(glass) < _ENOUGH * picture.shape[0] * picture.shape[1]:
        return nominal
    return np.array([np.median(glass[:, c]) for c in range(len(nominal))], np.float64)


def stained(
    picture: npt.NDArray[Any], white: npt.NDArray[np.float64], pen: bool
) -> tuple[Bools, npt.NDArray[np.uint8]]:
    """Where there is stain, and with `pen` of which colours of ink it may be.

    Otsu's threshold, on the logarithm of the stain density, may only lie where both glass and faint tissue can be.
    Without the bounds it would halve a slide that is all tissue, and cut pale stroma from a strongly stained one.

    Returns
    -------
    stain : (h, w) bool
    colours : (h, w) uint8
        See `ink_colours`; zeros without `pen`.
    """
    from skimage.filters import threshold_otsu

    shape = picture.shape[:2]
    codes, colours = np.empty(shape, np.uint8), np.zeros(shape, np.uint8)
    scanned = np.empty(shape, np.bool_)
    for y in range(0, shape[0], STRIP):
        part = picture[y : y + STRIP]
        density = optical_density(part, white)
        codes[y : y + STRIP] = _codes(stain_density(density))
        scanned[y : y + STRIP] = reduce(np.logical_or, (part[..., c] != 0 for c in range(len(white))))
        if pen and len(density) == 3:
            colours[y : y + STRIP] = ink_colours(*density)
    counts = np.bincount(codes.ravel(), minlength=256)
    found = 255
    if np.count_nonzero(counts) > 1:
        found = int(threshold_otsu(hist=(counts, np.arange(256))))  # type: ignore[no-untyped-call]
    low, high = _codes(np.array([FAINTEST, STRONGEST], np.float32)).tolist()
    # black to the last bit was never scanned
    return (codes > min(max(found, low), high)) & scanned, colours


def _codes(stain: Floats) -> npt.NDArray[np.uint8]:
    """Stain density on a logarithmic scale of 256 steps."""
    steps = (np.log(stain + np.float32(_OFFSET)) - np.float32(_LOW)) * np.float32(255 / (_HIGH - _LOW))
    codes: npt.NDArray[np.uint8] = np.clip(steps, 0, 255).astype(np.uint8)
    return codes
