"""Regions, grids and scales: all the arithmetic between level-0 pixels, µm and the pixels of a grid.

Everything is in ``y, x`` order. Level-0 pixels of the slide are the only shared coordinates (floats); a `Grid` lays
pixels of one size over the slide from its corner, and a `Window` names pixels of a grid by integers.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, gcd, isfinite, lcm
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from napari_msunet.errors import MsunetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
SNAP = 1e-3
"""A coordinate this close to a grid line (in grid pixels) is on it."""

MAX_SCALE_TERM = 8
"""Largest numerator and denominator of a scale."""


def snapped(value: float) -> float:
    """The nearest integer when `value` is within `SNAP` of it, else `value`."""
    nearest = round(value)
    return float(nearest) if abs(value - nearest) <= SNAP else value


def snap_floor(value: float) -> int:
    """Largest grid line at or before `value`, with the project's tolerance."""
    return floor(snapped(value))


def snap_ceil(value: float) -> int:
    """Smallest grid line at or after `value`, with the project's tolerance."""
    return ceil(snapped(value))


@dataclass(frozen=True)
class Region:
    """A rectangle on a slide.

    Parameters
    ----------
    y, x : float
        Top left corner in level-0 pixels; may be negative (outside the slide there is background).
    height, width : float
        Size in level-0 pixels, above zero.
    """

    y: float
    x: float
    height: float
    width: float

    def __post_init__(self) -> None:
        try:
            finite = all(isfinite(v) for v in (self.y, self.x, self.height, self.width))
        except TypeError:
            finite = False
        if not finite:
            raise MsunetError(f"{self} has a coordinate that is no number; give finite level-0 pixels.")
        if self.height <= 0 or self.width <= 0:
            raise MsunetError(f"{self} is empty; give a height and a width above zero, in level-0 pixels.")

    @property
    def stop(self) -> tuple[float, float]:
        """Bottom right corner, `(y, x)` in level-0 pixels."""
        return self.y + self.height, self.x + self.width


def as_region(value: Any) -> Region:
    """A region from a `Region`, a `Window` of level-0 pixels, or four numbers `y, x, height, width`.

    Raises
    ------
    MsunetError
        If it is none of these, or empty.
    """
    if isinstance(value, Region):
        return value
    if isinstance(value, Window):
        return Region(value.y, value.x, value.height, value.width)
    if not isinstance(value, str):
        with suppress(TypeError, ValueError):
            y, x, height, width = (float(v) for v in value)
            return Region(y, x, height, width)
    raise MsunetError(
        f"{value!r} is no region; give Region(y, x, height, width) or these four numbers, in level-0 pixels."
    )


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels of a grid: corner `y, x`, size `height, width`, all integers in grid pixels."""

    y: int
    x: int
    height: int
    width: int

    @property
    def stop(self) -> tuple[int, int]:
        """First row and column after the window."""
        return self.y + self.height, self.x + self.width

    @property
    def shape(self) -> tuple[int, int]:
        """`(height, width)`."""
        return self.height, self.width

    @property
    def empty(self) -> bool:
        """Whether no pixel is in it."""
        return self.height <= 0 or self.width <= 0

    @classmethod
    def between(cls, start: tuple[int, int], stop: tuple[int, int]) -> Window:
        """The window from `start` up to, but without, `stop` (both `(y, x)`); of size zero where they cross."""
        return cls(start[0], start[1], max(0, stop[0] - start[0]), max(0, stop[1] - start[1]))

    def intersection(self, other: Window) -> Window:
        """The pixels in both, perhaps none."""
        return Window.between(
            (max(self.y, other.y), max(self.x, other.x)),
            (min(self.stop[0], other.stop[0]), min(self.stop[1], other.stop[1])),
        )

    def padded(self, margin: int) -> Window:
        """The window with `margin` more pixels on each side."""
        return Window(self.y - margin, self.x - margin, self.height + 2 * margin, self.width + 2 * margin)

    def aligned(self, multiple: int) -> Window:
        """The smallest window around this one whose sides lie on multiples of `multiple`."""
        start = (self.y // multiple * multiple, self.x // multiple * multiple)
        stop = (-(-self.stop[0] // multiple) * multiple, -(-self.stop[1] // multiple) * multiple)
        return Window.between(start, stop)

    def slices(self, origin: tuple[int, int] = (0, 0)) -> tuple[slice, slice]:
        """Slices of this window in an array whose first element is the grid pixel `origin`."""
        y, x = self.y - origin[0], self.x - origin[1]
        return slice(y, y + self.height), slice(x, x + self.width)

    def halved(self) -> Window:
        """The pixels of the next coarser level (2 x 2 to one) that this window touches."""
        return Window.between((self.y // 2, self.x // 2), (-(-self.stop[0] // 2), -(-self.stop[1] // 2)))

    def times(self, scale: Fraction) -> Window:
        """This window on a grid with `scale` times as many pixels a side.

        Raises
        ------
        ValueError
            If an edge would not fall on a line of that grid.
        """
        values = [Fraction(v) * scale for v in (self.y, self.x, self.height, self.width)]
        if any(v.denominator != 1 for v in values):
            raise ValueError(f"{self} times {scale} does not lie on whole pixels; align the window first.")
        return Window(*(int(v) for v in values))


@dataclass(frozen=True)
class Grid:
    """Pixels of one size laid over a slide from its corner.

    Parameters
    ----------
    extent : tuple of int
        Height and width of the slide in level-0 pixels.
    pixel : tuple of float
        Size `(y, x)` of one grid pixel in level-0 pixels.
    mpp : tuple of float, optional
        Size `(y, x)` of one grid pixel in µm; None where the slide's own is not known.
    smooth : bool
        Whether pixels smaller than those of the slide are read bilinearly between the centres of these, as image
        programs enlarge; without it, each shows the pixel that it lies in.
    """

    extent: tuple[int, int]
    pixel: tuple[float, float]
    mpp: tuple[float, float] | None = None
    smooth: bool = False

    def __post_init__(self) -> None:
        if min(self.extent) < 1 or not all(isfinite(p) and p > 0 for p in self.pixel):
            raise MsunetError(
                f"A grid needs a slide of at least one pixel and pixels larger than zero; got a slide of {self.extent} "
                f"level-0 pixels and grid pixels of {self.pixel}."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """`(height, width)` in grid pixels: as many as cover the slide."""
        return (
            max(1, snap_ceil(self.extent[0] / self.pixel[0])),
            max(1, snap_ceil(self.extent[1] / self.pixel[1])),
        )

    @property
    def whole(self) -> Window:
        """All pixels of the grid."""
        return Window(0, 0, *self.shape)

    def scaled(self, scale: Fraction) -> Grid:
        """The grid with `scale` times as many pixels a side over the same slide."""
        factor = float(scale)
        mpp = None if self.mpp is None else (self.mpp[0] / factor, self.mpp[1] / factor)
        return Grid(self.extent, (self.pixel[0] / factor, self.pixel[1] / factor), mpp, self.smooth)

    def window(self, region: Region) -> Window:
        """The grid pixels whose footprint the region touches."""
        return Window.between(
            (snap_floor(region.y / self.pixel[0]), snap_floor(region.x / self.pixel[1])),
            (snap_ceil(region.stop[0] / self.pixel[0]), snap_ceil(region.stop[1] / self.pixel[1])),
        )

    def centres(self, region: Region) -> Window:
        """The grid pixels whose centre lies inside the region (a centre on the first edge is in, on the last out)."""
        return Window.between(
            (snap_ceil(region.y / self.pixel[0] - 0.5), snap_ceil(region.x / self.pixel[1] - 0.5)),
            (snap_ceil(region.stop[0] / self.pixel[0] - 0.5), snap_ceil(region.stop[1] / self.pixel[1] - 0.5)),
        )

    def places(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The centres of pixels `(n, 2)` in level-0 pixels."""
        import numpy as np

        found: npt.NDArray[np.float64] = (pixels + 0.5) * np.asarray(self.pixel)
        return found

    def region(self, window: Window) -> Region:
        """The footprint of a window, in level-0 pixels."""
        return Region(
            window.y * self.pixel[0],
            window.x * self.pixel[1],
            window.height * self.pixel[0],
            window.width * self.pixel[1],
        )


@dataclass(frozen=True)
class Resolution:
    """The size of a square pixel that a model works in: in µm, or in pixels of the image where it has no size in µm.

    Or of no size: where every image is brought to as many pixels.

    Parameters
    ----------
    size : float
        µm, or pixels of the image (level 0), along a side.
    unit : "µm" or "px"
    side : int, optional
        Pixels a side that every image is brought to, whatever its own; `size` then only relates two such resolutions.
    """

    size: float
    unit: Literal["µm", "px"] = "µm"
    side: int | None = None

    def __str__(self) -> str:
        if self.side is not None:
            return f"images brought to {self.side} x {self.side} pixels"
        if self.unit == "µm":
            return f"{self.size:.4g} µm per pixel"
        return "the image's own pixels" if self.size == 1 else f"pixels of {self.size:.4g} image pixels"

    @property
    def at(self) -> str:
        """The resolution with its preposition, as in "it works at 0.5 µm per pixel"."""
        return f"{'at' if self.unit == 'µm' else 'on' if self.side is not None else 'in'} {self}"

    @property
    def short(self) -> str:
        """As `str`, for places with little room: ``"0.5 µm/px"`` or ``"1 px"``."""
        if self.side is not None:
            return f"{self.side} px an image"
        return f"{self.size:.3g} µm/px" if self.unit == "µm" else f"{self.size:.3g} px"

    @property
    def mpp(self) -> float | None:
        """µm per pixel; None in pixels of the image."""
        return self.size if self.unit == "µm" else None

    def times(self, factor: float) -> Resolution:
        """Pixels that are `factor` times as long a side."""
        side = None if self.side is None else max(1, round(self.side / factor))
        return Resolution(self.size * factor, self.unit, side)


# ----------------------------------------------------------------------------------------------------------------------
# Half pixels. A *place* is 0 at the outer edge of the first pixel, as the sides of a `Region` are, so pixel `i` covers
# `[i, i + 1)` and its centre is at the place `i + 0.5`. A *position* is 0 at the centre of the first pixel, as napari's
# data coordinates, the translations of OME-Zarr and scikit-image's drawing have it. Nothing else adds these halves,
# except where the numbers are tensors (`data.warps.from_centre`) or whole (`models.resample`).

N = TypeVar("N", float, "npt.NDArray[np.float64]")


def to_position(place: N) -> N:
    """From places, 0 at the edge of the first pixel, to positions, 0 at its centre."""
    return place - 0.5


def to_place(position: N) -> N:
    """From positions, 0 at the centre of the first pixel, to places, 0 at its edge."""
    return position + 0.5


def first_position(pixel: N, corner: N | float = 0.0) -> N:
    """The position of the first pixel of a coarser grid: of the centre of `pixel` fine pixels from place `corner`."""
    return corner + pixel / 2 - 0.5


def first_inside(edge: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The first pixels whose centre does not lie before places."""
    import numpy as np

    found: npt.NDArray[np.float64] = np.ceil(edge - 0.5)
    return found


def pixel_centres(start: int, count: int) -> npt.NDArray[np.float64]:
    """The places of the centres of a run of pixels."""
    import numpy as np

    centres: npt.NDArray[np.float64] = np.arange(start, start + count, dtype=np.float64) + 0.5
    return centres


def between_centres(
    places: npt.NDArray[np.float64], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each place on `count` pixels, the pixel whose centre is before it, and how far it is to the next, 0 to 1.

    Beyond the first and the last centre the outermost pixel counts.
    """
    import numpy as np

    positions = np.clip(to_position(places), 0, count - 1)
    first = np.floor(positions).astype(np.int64)
    return first, (positions - first).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------------------
# Averages from one grid to another, scales, and the shapes of pyramids.


def mirrored_places(start: int, count: int, length: int) -> npt.NDArray[np.int64]:
    """The pixel of a line that each pixel of a longer line shows, where it is mirrored at both ends.

    The outermost pixels are not repeated: pixel -1 shows pixel 1.

    Parameters
    ----------
    start, count : int
        The first wanted pixel, which may be negative, and how many.
    length : int
        Pixels of the line itself.
    """
    import numpy as np

    if length == 1:
        return np.zeros(count, np.int64)
    place = np.arange(start, start + count) % (2 * length - 2)
    return np.minimum(place, 2 * length - 2 - place).astype(np.int64)


def mirrored_source(
    window: Window, shape: tuple[int, int]
) -> tuple[Window, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The part of an image that a window shows where the image is mirrored at its edges.

    Returns
    -------
    source : Window
        Inside the image.
    rows, columns : arrays of int
        For each row and column of the window, that of `source`.
    """
    rows = mirrored_places(window.y, window.height, shape[0])
    columns = mirrored_places(window.x, window.width, shape[1])
    corner, last = (int(rows.min()), int(columns.min())), (int(rows.max()), int(columns.max()))
    source = Window.between(corner, (last[0] + 1, last[1] + 1))
    return source, rows - corner[0], columns - corner[1]


def footprints(start: int, count: int, ratio: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Which source pixels a run of target pixels averages along one axis, and with which weights.

    Target pixel `i` covers `[i * ratio, (i + 1) * ratio)` in source pixels. Its indices and weights depend on `i`
    alone, never on `start` or `count`, and the number of taps on `ratio` alone: this is what makes a pixel's value the
    same to the bit in every window.

    Parameters
    ----------
    start, count : int
        First target pixel and their number.
    ratio : float
        Source pixels per target pixel, above zero.

    Returns
    -------
    first : (count,) int64
        First source pixel of each target pixel.
    weights : (count, taps) float64
        Share of source pixel `first + t` in the target pixel; each row sums to 1.
    """
    import numpy as np  # imported here, because the command's help does not need it

    edges = (start + np.arange(count + 1, dtype=np.int64)).astype(np.float64) * ratio
    nearest = np.rint(edges)
    edges = np.where(np.abs(edges - nearest) <= SNAP, nearest, edges)
    low, high = edges[:-1, None], edges[1:, None]
    first = np.floor(edges[:-1]).astype(np.int64)
    taps = ceil(snapped(ratio)) + 1
    source = (first[:, None] + np.arange(taps)).astype(np.float64)
    weights = np.clip(np.minimum(high, source + 1) - np.maximum(low, source), 0.0, None)
    total = weights[:, :1].copy()
    for tap in range(1, taps):
        total += weights[:, tap : tap + 1]
    return first, weights / total


def as_scale(value: float | Fraction) -> Fraction:
    """A scale as a ratio of integers up to 8.

    Raises
    ------
    MsunetError
        If the value is not above zero, or not within 0.1 % of such a ratio.
    """
    if not isfinite(value) or value <= 0:
        raise MsunetError(f"The scale {value} is not above zero; give ratios such as 1, 0.5 or 0.25.")
    best = min(
        (Fraction(p, q) for p in range(1, MAX_SCALE_TERM + 1) for q in range(1, MAX_SCALE_TERM + 1)),
        key=lambda f: abs(float(f) - float(value)),
    )
    if abs(float(best) / float(value) - 1) > 1e-3:
        raise MsunetError(
            f"The scale {value} is no ratio of whole numbers up to {MAX_SCALE_TERM}; the nearest is {best}."
        )
    return best


def alignment(scale: Fraction, stride: int) -> int:
    """Target pixels between two places at which a branch of this scale and stride has the same phase.

    The smallest number `a` such that `a * scale` is a whole multiple of `stride`.
    """
    step = stride * scale.denominator
    return step // gcd(step, scale.numerator)


def common_alignment(scales: tuple[Fraction, ...], strides: tuple[int, ...]) -> int:
    """Target pixels that are aligned for all branches at once."""
    return lcm(*(alignment(s, n) for s, n in zip(scales, strides, strict=True)))


def round_up(value: float, multiple: int) -> int:
    """The smallest multiple of `multiple` at or above `value`."""
    return ceil(snapped(value / multiple)) * multiple


def pyramid_shapes(shape: tuple[int, int], longest: int = 1024) -> list[tuple[int, int]]:
    """Shapes of the levels of a pyramid: halved, rounded up, until the longer side is at most `longest`."""
    shapes = [shape]
    while max(shapes[-1]) > longest:
        height, width = shapes[-1]
        shapes.append((-(-height // 2), -(-width // 2)))
    return shapes
