"""Finding the tissue of a slide, on a small image of the whole slide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import ceil
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from napari_msunet.errors import MissingMppError, SlideError
from napari_msunet.geometry import SNAP, Grid, Window
from napari_msunet.slide.numbers import is_plain, to_unit, type_range, unit_scale
from napari_msunet.slide.placed import PlacedMask
from napari_msunet.slide.slide import Slide

# ----------------------------------------------------------------------------------------------------------------------
# Pen marks on glass, recognised by colours that no stain has, in areas larger than any cell.

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

INK_AREA = 50_000.0
"""Smallest area of a mark in µm²: pigment, blood and debris are smaller, and a pen line is at least 300 µm wide."""


def ink_colours(red: Floats, green: Floats, blue: Floats) -> npt.NDArray[np.uint8]:
    """The inks that a pixel may have, by its optical density (decadic, glass is 0; Beer-Lambert).

    Thick and thin ink of one pen absorb the colours in the same proportions, so the rules are about these:

    - green: green light passes best, which no histological stain lets it.
    - blue: red light is absorbed more than green, and blue hardly. Haematoxylin absorbs half as much blue as red.
    - red: green and blue light are absorbed alike, and red hardly. Eosin lets blue pass; haemoglobin and DAB absorb
    some red.
    - black: all light is absorbed alike, and strongly. Folds and pigments keep a colour.

    Returns
    -------
    (h, w) uint8
        For the k-th ink (green, blue, red, black): bit 2k where it is certain, bit 2k + 1 where it is possible.
    """
    least, most = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    strong, weak = most > 0.3, most > 0.08
    others = np.minimum(red, blue)
    rules = (
        strong & (green < 0.75 * others),
        weak & (green < 0.9 * others),
        strong & (red > 1.15 * green) & (blue < 0.35 * red),
        weak & (red > 1.05 * green) & (blue < 0.5 * red),
        (most > 0.55) & (red < 0.12 * green) & (np.abs(green - blue) < 0.2 * most),
        weak & (red < 0.3 * green) & (blue > 0.7 * green),
        (least > 0.7) & (most - least < 0.2 * most),
        (least > 0.35) & (most - least < 0.25 * most),
    )
    bits = np.zeros(red.shape, np.uint8)
    for number, rule in enumerate(rules):
        bits |= rule.astype(np.uint8) << number
    return bits


def ink_marks(colours: npt.NDArray[np.uint8], smallest: float) -> Bools:
    """The pixels of ink: certain ones and their possible neighbours (a mark's soft edge), if the mark is large enough.

    Parameters
    ----------
    colours : (h, w) uint8
        A result of `ink_colours`.
    smallest : float
        Fewest certain pixels of a mark.
    """
    from scipy import ndimage

    result = np.zeros(colours.shape, np.bool_)
    square = np.ones((3, 3), np.bool_)
    for number in range(0, 8, 2):
        seeds = (colours >> number) & 1 != 0
        if np.count_nonzero(seeds) < smallest:
            continue
        numbers, count = ndimage.label((colours >> number) & 3 != 0, square)
        sizes = np.bincount(numbers[seeds], minlength=count + 1)
        sizes[0] = 0
        result |= (sizes >= max(1, smallest))[numbers]
    return ndimage.binary_dilation(result, square) if result.any() else result


# ----------------------------------------------------------------------------------------------------------------------
# Stain on bright-field slides: optical density against the slide's own glass, and a threshold for it.

FAINTEST, STRONGEST = 0.03, 0.07
"""The bounds of the threshold, in stain density: glass can have less than the first, only tissue more than the
second."""
STRIP = 256
_BRIGHT, _GREY, _ENOUGH = 0.8, 0.05, 0.005
_DARKEST = 1 / 255
_OFFSET = 0.01  # about the noise of glass, added so that the logarithm does not separate shades of glass
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
    """The amount of stain: the coloured part of the optical density, and half of the grey part.

    The coloured part, largest minus smallest channel, is a logarithm of the saturation (`1 - S = min / max`). It
    cancels shadows, dust and uneven light, which are grey. The mean density adds dark but hardly coloured parts: dense
    nuclei, folds, weak stains.
    """
    result: Floats = reduce(np.add, density) / np.float32(2 * len(density))
    result += reduce(np.maximum, density) - reduce(np.minimum, density)
    return result


def glass_colour(picture: npt.NDArray[Any], background: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The colour `(c,)` of empty glass: the median of bright grey pixels, or the background where there are too few.

    Pixels of exactly the background's colour were not scanned, and are left out.
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


def slide_glass(slide: Slide) -> npt.NDArray[np.float64]:
    """The colour `(c,)` of a slide's empty glass, in its own values, from the image that its tissue is found on."""
    return glass_colour(_overview(slide, coarse_grid(slide), None), slide.background)


def stained(
    picture: npt.NDArray[Any], white: npt.NDArray[np.float64], pen: bool
) -> tuple[Bools, npt.NDArray[np.uint8]]:
    """The stained pixels, and with `pen` the inks that each may have.

    Otsu's threshold, on the logarithm of the stain density, is limited to values that glass and faint tissue can have.
    Without these bounds it would cut a slide that is all tissue in half, and pale stroma from a strongly stained one.

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
    # pixels of exactly 0 were never scanned
    return (codes > min(max(found, low), high)) & scanned, colours


def _codes(stain: Floats) -> npt.NDArray[np.uint8]:
    """Stain density on a logarithmic scale of 256 steps."""
    steps = (np.log(stain + np.float32(_OFFSET)) - np.float32(_LOW)) * np.float32(255 / (_HIGH - _LOW))
    codes: npt.NDArray[np.uint8] = np.clip(steps, 0, 255).astype(np.uint8)
    return codes


# ----------------------------------------------------------------------------------------------------------------------
# The tissue mask of a slide.

MPP = 8.0
"""µm per pixel of a mask, unless the slide is so large that a side would have more than `LONGEST` pixels."""
LONGEST = 3200
UNKNOWN_LONGEST = 2048
UNKNOWN_PIXEL = 8.0
"""Without µm, the longest side has about 2048 pixels, but a pixel of the mask is at least 8 of the slide."""
SMALLEST = 10_000.0
HOLES = 10_000.0
UNKNOWN_AREA = 156
"""10,000 µm² in pixels of 8 µm, for slides whose µm are not known."""

DARK_LIT = 0.05
"""A fluorescence slide of one brightness is all tissue above this share of the largest value, and empty below."""
DARK_APART = 1.5
"""Parts of a fluorescence slide are separated where one is at least this many times as bright as the other."""
SMOOTHING = 24.0
"""Standard deviation, in µm, of the smoothing of fluorescence."""
FAT_RIM, FAT_SHARE = 3, 0.7
"""Width in pixels of the rim around a hole, and the share of it that must be tissue to fill the hole; not so in fat."""
_TOO_LITTLE = 0.25
_VERSION = 1


@dataclass(frozen=True, eq=False)
class TissueMask(PlacedMask):
    """Tissue, as `tissue_mask` found it.

    Attributes
    ----------
    mask : (h, w) bool
    grid : Grid
        The mask's pixels on its slide, 8 to some 25 µm large.
    key : dict
        The settings it was made with; two masks of one slide with the same key are equal.
    """

    grid: Grid
    mask: Bools
    key: dict[str, Any]

    @property
    def share(self) -> float:
        """Share of the slide that is tissue, 0 to 1."""
        return float(self.mask.mean())

    def read(self, window: Window) -> Bools:
        """The mask's own pixels in a window of `grid`, inside it."""
        return self.mask[window.slices()]


def tissue_mask(
    slide: Slide,
    *,
    smallest: float | None = None,
    holes: float | None = None,
    pen: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> TissueMask:
    """Find the tissue of a slide.

    Bright-field slides: the stain density of each pixel (see `stain_density`) against a threshold after Otsu (1979,
    doi:10.1109/TSMC.1979.4310076), limited to values that glass and faint tissue can have, so that a slide that is all
    tissue is found whole, and an empty one empty. Then pen marks and parts thinner than 2 pixels (the walls of fat
    cells) are removed, holes are filled and islands dropped. Fluorescence slides (`slide.kind`): Otsu on the logarithm
    of the smoothed intensity.

    Parameters
    ----------
    slide : Slide
        The slide, which is read once at low power, in strips, in bounded memory; a file without a pyramid is read
        whole.
    smallest : float, optional
        Islands under this area in µm² are dropped (in pixels of a slide that was opened in pixels); None: 10,000 µm² (a
        square of 0.1 mm), or 156 pixels of the mask where the slide's µm are not known.
    holes : float, optional
        Holes under this area in µm² are filled, outside fat; None: as `smallest`.
    pen : bool
        Take out blue, green, red and black ink of at least 0.05 mm² (`ink_colours` has the rules).
    progress : callable, optional
        Called with the strips done and their number; what it raises ends the search.

    Returns
    -------
    TissueMask

    Raises
    ------
    MissingMppError
        If an area is given, the slide's µm per pixel are not known, and it was not opened in pixels.
    SlideError
        If an area is no number of zero or more, or the file is damaged.
    """
    if not isinstance(slide, Slide):
        raise SlideError(f"{slide!r} is no slide; open it with open_slide.")
    grid = coarse_grid(slide)
    sizes = [_pixels(slide, grid, name, area, d) for name, area, d in _areas(smallest, holes)]
    picture, background = _in_plain_numbers(slide, _overview(slide, grid, progress))
    marks = None
    if slide.kind == "fluorescence":
        raw = _glowing(picture, grid, _lit(slide))
    else:
        raw, colours = stained(picture, glass_colour(picture, background), pen)
        if colours.any():
            area = INK_AREA / UNKNOWN_PIXEL**2 if grid.mpp is None else INK_AREA / (grid.mpp[0] * grid.mpp[1])
            marks = ink_marks(colours, area)
    mask = _cleaned(raw, marks, *sizes)
    key: dict[str, Any] = {"tissue": _VERSION, "smallest": smallest, "holes": holes, "pen": pen}
    if slide.dtype != np.uint8 or "person" in (slide.numbers.kind_from, slide.numbers.range_from):
        key |= {"kind": slide.kind, "value_range": list(slide.value_range)}
    return TissueMask(grid, mask, key)


_found: WeakKeyDictionary[Slide, TissueMask] = WeakKeyDictionary()


def found_tissue(slide: Slide) -> TissueMask:
    """As `tissue_mask`, but computed only once while the slide is open."""
    mask = _found.get(slide)
    if mask is None:
        mask = _found[slide] = tissue_mask(slide)
    return mask


def coarse_grid(slide: Slide) -> Grid:
    """The grid of a slide's tissue mask: of 8 µm, or so that the longest side has 3200 pixels; without µm see above."""
    height, width = slide.shape[:2]
    if slide.mpp is not None:
        wanted = max(MPP, *(n * m / LONGEST for n, m in zip((height, width), slide.mpp, strict=True)))
        # never finer than the slide
        return slide.grid((max(wanted, slide.mpp[0]), max(wanted, slide.mpp[1])))
    pixel = float(ceil(max(UNKNOWN_PIXEL, max(height, width) / UNKNOWN_LONGEST)))
    return Grid((height, width), (pixel, pixel))


def _areas(smallest: float | None, holes: float | None) -> list[tuple[str, float | None, float]]:
    return [("smallest", smallest, SMALLEST), ("holes", holes, HOLES)]


def _pixels(slide: Slide, grid: Grid, name: str, area: float | None, default: float) -> float:
    """An area in pixels of the mask."""
    if area is not None and not 0 <= area < float("inf"):
        raise SlideError(f"{name}={area!r} is no area; give µm², zero or more, such as 10000.")
    if grid.mpp is None:
        if slide.in_pixels and area is not None:
            return area / (grid.pixel[0] * grid.pixel[1])
        if area is not None and area > 0:
            raise MissingMppError(
                f"{name}={area} is in µm², but {slide.path or 'the image'} does not say how many µm a pixel has; give "
                f'open_slide(path, mpp=0.5), or "px" there if pixels are meant, or leave out {name}.'
            )
        return UNKNOWN_AREA if area is None else 0
    return (default if area is None else area) / (grid.mpp[0] * grid.mpp[1])


def _overview(slide: Slide, grid: Grid, progress: Callable[[int, int], None] | None) -> npt.NDArray[Any]:
    """The whole slide on a coarse grid, strip by strip."""
    picture = np.empty((*grid.shape, slide.shape[2]), slide.dtype)
    strips = range(0, grid.shape[0], STRIP)
    for number, y in enumerate(strips, start=1):
        window = Window(y, 0, min(STRIP, grid.shape[0] - y), grid.shape[1])
        picture[window.slices()] = slide.read_window(grid, window)
        if progress is not None:
            progress(number, len(strips))
    for axis in (0, 1):
        _undiluted(picture.swapaxes(0, axis), grid.extent[axis] / grid.pixel[axis] % 1, slide.background)
    return picture


def _undiluted(rows: npt.NDArray[Any], inside: float, background: npt.NDArray[Any]) -> None:
    """Remove the background from a last row that lies only partly on the slide, and would look too pale."""
    if len(rows) < 2 or inside < SNAP or inside > 1 - SNAP:
        return
    if inside < _TOO_LITTLE:
        rows[-1] = rows[-2]
        return
    values = background + (rows[-1] - background.astype(np.float64)) / inside
    if rows.dtype.kind in "iu":
        values = np.rint(values).clip(np.iinfo(rows.dtype).min, np.iinfo(rows.dtype).max)
    rows[-1] = values


def _in_plain_numbers(slide: Slide, picture: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """A picture and the background as 8 bits where they have 8 bits, else as 0..1 by the slide's range."""
    if is_plain(slide.dtype, slide.value_range):
        return picture, slide.background
    scale = unit_scale(slide.value_range)
    return to_unit(picture, scale), to_unit(slide.background, scale)


# ------------------------------------------------------------------------------------------------------- fluorescence


def _lit(slide: Slide) -> float:
    """The share of its range above which a slide of one brightness is all tissue, if the range is not a guess."""
    if slide.numbers.range_from != "guess":
        return DARK_LIT
    return DARK_LIT * max(1.0, type_range(slide.dtype)[1] / slide.value_range[1])


def _glowing(picture: npt.NDArray[Any], grid: Grid, lit: float) -> Bools:
    """The bright pixels of a fluorescence slide; all or none where it has only one brightness."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    light = picture.max(-1).astype(np.float32)
    if picture.dtype == np.uint8:
        light /= np.float32(255)
    # nuclei are dots, and the space between them is tissue too
    sigma = SMOOTHING / MPP if grid.mpp is None else SMOOTHING / min(grid.mpp)
    light = ndimage.gaussian_filter(light, min(sigma, min(light.shape) / 4))
    values = np.log(light + np.float32(1 / 255 / 4))
    if float(values.max()) - float(values.min()) > 1e-6:
        threshold = float(threshold_otsu(values))  # type: ignore[no-untyped-call]
        bright: Bools = values > threshold
        if bright.any() and not bright.all():
            apart = float(values[bright].mean() - values[~bright].mean())
            if apart > np.log(DARK_APART):
                return bright
    return np.full(light.shape, bool(np.median(light) >= lit))


# ----------------------------------------------------------------------------------------------------------- clean-up


def _cleaned(raw: Bools, marks: Bools | None, smallest: float, holes: float) -> Bools:
    """The mask without ink, thin walls and islands, and with its holes filled."""
    from scipy import ndimage

    square = np.ones((3, 3), np.bool_)
    if marks is not None:
        raw = raw & ~marks
    # Parts into which no 2 x 2 square fits are walls of fat cells, fibres or noise.
    opened = ndimage.binary_opening(np.pad(raw, 1, mode="edge"), np.ones((2, 2), np.bool_))[1:-1, 1:-1]
    mask: Bools = raw & ndimage.binary_dilation(opened, square)
    mask |= _holes(mask, holes)
    if marks is not None:
        mask &= ~marks
    numbers, count = ndimage.label(mask, square)
    # a part that fills a quarter of a small image is no island
    wanted = np.bincount(numbers.ravel(), minlength=count + 1) >= min(smallest, mask.size / 4)
    wanted[0] = False
    found: Bools = wanted[numbers]
    return found


def _holes(mask: Bools, size: float) -> Bools:
    """The gaps under a size in pixels that are mostly surrounded by tissue; in fat, the next gap is near."""
    from scipy import ndimage

    numbers, count = ndimage.label(~mask)
    small = np.bincount(numbers.ravel(), minlength=count + 1) < size
    small[0] = False
    gaps = np.where(small[numbers], numbers, 0)
    around = ndimage.maximum_filter(gaps, 2 * FAT_RIM + 1, mode="nearest")
    around[gaps > 0] = 0
    rim = np.bincount(around.ravel(), minlength=count + 1)
    solid = np.bincount(around[mask], minlength=count + 1)
    found: Bools = (small & (rim > 0) & (solid >= FAT_SHARE * rim))[numbers]
    return found
