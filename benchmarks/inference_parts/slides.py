"""Slides for the benchmarks: JPEG-tiled pyramidal TIFFs of real H&E, from 4,096 to 100,000 pixels a side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from math import gamma
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

import napari_msunet as ms
from napari_msunet.app.demo import SLIDE

MPP = 0.5
TILE = 256
QUALITY = 85
GLASS = 243
SQUARE = (1920, 768, 1024, 1024)
"""`y, x, height, width`: a part of the shipped slide that is all tissue."""

Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Whether level-0 pixels at these y and x (which broadcast) are tissue."""


@cache
def texture(factor: int) -> np.ndarray:
    """The square and its mirror images, which tile the plane without a seam; area means over `factor` pixels a side."""
    with ms.open_slide(SLIDE) as slide:
        square = slide.read(ms.Region(*SQUARE))[..., :3]
    row = np.concatenate((square, square[:, ::-1]), 1)
    whole = np.concatenate((row, row[::-1]), 0)
    side = whole.shape[0] // factor
    return whole.reshape(side, factor, side, factor, 3).mean((1, 3)).round().astype(np.uint8)


def everywhere(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """All is tissue."""
    return np.ones(np.broadcast_shapes(y.shape, x.shape), bool)


def sections(side: int, share: float, count: int) -> Inside:
    """Tissue that covers `share` of a slide: two round sections of different size, or one like a rounded rectangle."""
    power = 2.0 if count == 2 else 4.0
    unit = 4 * gamma(1 + 1 / power) ** 2 / gamma(1 + 2 / power)  # its area at radius 1
    places = ((0.36, 0.30, 0.62), (0.62, 0.72, 0.38)) if count == 2 else ((0.49, 0.48, 1.0),)  # y, x, part

    def inside(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        found = np.zeros(np.broadcast_shapes(y.shape, x.shape), bool)
        for cy, cx, part in places:
            radius = side * (share * part / unit) ** 0.5
            away = [np.abs((y - cy * side) / 1.2), np.abs((x - cx * side) * 1.2)]
            found |= (away[0] / radius) ** power + (away[1] / radius) ** power < 1
        return found

    return inside


def pixels(factor: int, y: int, x: int, inside: Inside) -> np.ndarray:
    """A tile of a level: tissue where a pixel's centre is inside, glass elsewhere."""
    rows, columns = y + np.arange(TILE), x + np.arange(TILE)
    tissue = texture(factor)
    tile = tissue[np.ix_(rows % len(tissue), columns % len(tissue))]
    mask = inside((rows[:, None] + 0.5) * factor, (columns[None] + 0.5) * factor)
    return np.where(mask[..., None], tile, np.uint8(GLASS))


def tiles(side: int, factor: int, inside: Inside) -> Iterator[bytes]:
    """The JPEG tiles of a level. Those alike are encoded once, so that 100,000 pixels a side take seconds."""
    count = -(-side // factor // TILE)
    corners = np.arange(count * factor + 1.0) * TILE  # of level 0, so that no section is missed in a coarse tile
    at = inside(corners[:, None], corners[None])
    within = [
        part.reshape(count, factor, count, factor) for part in (at[:-1, :-1], at[1:, :-1], at[:-1, 1:], at[1:, 1:])
    ]
    some, all_of_it = (how([how(part, (1, 3)) for part in within], 0) for how in (np.any, np.all))
    period, known = texture(factor).shape[0], {}
    for i in range(count):
        for j in range(count):
            y, x = i * TILE, j * TILE
            if some[i, j] and not all_of_it[i, j]:
                yield encoded(pixels(factor, y, x, inside))
                continue
            key = (y % period, x % period) if some[i, j] else ()
            if key not in known:
                known[key] = encoded(pixels(factor, y, x, everywhere if some[i, j] else _nowhere))
            yield known[key]


def encoded(tile: np.ndarray) -> bytes:
    """As JPEG, with the colours at half resolution, as scanners do it."""
    return imagecodecs.jpeg8_encode(tile, QUALITY, colorspace="rgb", outcolorspace="ycbcr", subsampling="420")


def _nowhere(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return ~everywhere(y, x)


def make_slide(path: Path, side: int, share: float = 1.0, count: int = 2) -> Path:
    """A square slide at 0.5 µm/px, `share` of it tissue in 1 or 2 sections; one that is there already is kept."""
    if path.exists():
        return path
    inside = everywhere if share >= 1 else sections(side, share, count)
    factors = [1]
    while side / factors[-1] > 2048:
        factors.append(factors[-1] * 4)
    aside = path.with_suffix(".part")
    with tifffile.TiffWriter(aside, bigtiff=True) as file:
        for factor in factors:
            small = side // factor
            file.write(
                tiles(side, factor, inside),
                shape=(small, small, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=0 if factor == 1 else 1,
                resolution=(1e4 / MPP / factor, 1e4 / MPP / factor),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    aside.replace(path)
    return path
