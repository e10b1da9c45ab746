"""The meaning of an image's numbers: bright-field or fluorescence, and the range of its values.

It is decided once, when a slide or a set of images is opened, and kept with it. What a person gives counts first, then
what the file has, then a guess from a sample of the pixels of the whole slide or set. A guess for each image or each
tile would let two images of one set disagree. A guess that may be wrong has a sentence about the doubt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd, isfinite
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_msunet.config.base import Kind, TrainedOn, ValueRange
from napari_msunet.errors import NotNumbersError, SlideError
from napari_msunet.slide.backend import Pixels, SlideInfo

Origin: TypeAlias = Literal["file", "guess", "person"]
"""The source of a decision."""

TOLD: dict[Origin, str] = {"file": "the file says so", "guess": "a guess from the pixels", "person": "as given"}

KINDS = ("brightfield", "fluorescence")
COLOURS = (("red", "green", "blue"), ("r", "g", "b"))

LOOKED = 16
"""Number of chunks of the coarsest level, and of the finest, that are sampled."""
BRIGHTEST = 4
"""Number of further chunks of the finest level, where the coarsest is brightest: averages hide small bright objects."""
SAMPLE = 16384
"""Number of pixels from which the kind is guessed."""
STRAYS = 4
"""Values at each end of a chunk that are ignored: hot and dead pixels of a camera, since no object is that small."""

OVERSHOOT = 0.1
"""The share of the range by which resampling with a sharp filter can overshoot, in images of floats."""
BITS = (8, 10, 12, 14, 16, 24, 32)
"""Usual numbers of bits of detectors and files; integers that fit none of them have the range of their type."""

DARK = 0.08
"""An image whose median brightness is below this share is not bright field, whatever its file has."""
BRIGHT = 0.4
"""Three unnamed channels are bright-field where the median brightness is above this."""
BRIGHT_GREY = 0.6
"""One channel is bright-field where the median brightness is above this; X-ray and electron microscopy lie below."""
FAINT = 1 / 16
"""Values that reach only this share of a range may have another range."""

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_UNNAMED = re.compile(r"(gr[ae]y|(channel|ch|c)?[\s_:#-]*[\d:.]*)", re.IGNORECASE)
_BRIGHTFIELD = re.compile(r"bright.?field|\bbf\b|transmi|\bh\s?&\s?e\b|\bhe\b", re.IGNORECASE)


@dataclass(frozen=True)
class Numbers:
    """The meaning of an image's numbers, and its source.

    Attributes
    ----------
    kind : "brightfield" or "fluorescence"
    kind_from : "file", "guess" or "person"
    value_range : (low, high)
        The values that are black (0) and white (1).
    range_from : "file", "guess" or "person"
    doubt : str, optional
        A sentence, without the image's name, about what may be wrong with a guessed range.
    """

    kind: Kind
    kind_from: Origin
    value_range: ValueRange
    range_from: Origin
    doubt: str | None = None


class PixelSample(NamedTuple):
    """A sample of the pixels of an image.

    Attributes
    ----------
    pixels : (n, c) array
        Pixels spread over the whole image, from its coarsest level.
    low, high : float
        Smallest and largest value without outliers; NaN where there are none.
    lowest, highest : float
        Smallest and largest value.
    """

    pixels: Pixels
    low: float
    high: float
    lowest: float
    highest: float


class Scale(NamedTuple):
    """How values become 0..1: the values of 0 and of 1, and whether values outside are clipped."""

    low: float
    high: float
    clip: bool = True


def unit_scale(value_range: ValueRange) -> Scale:
    """The scale of a range."""
    return Scale(*value_range)


def is_plain(dtype: np.dtype[Any], value_range: Sequence[Any]) -> bool:
    """Whether values are 8 bits with their whole range."""
    return bool(dtype == np.uint8) and tuple(value_range[:2]) == (0.0, 255.0)


def to_unit(pixels: Pixels, scale: Scale) -> npt.NDArray[np.float32]:
    """Pixels as float32 in 0..1; a new array."""
    working = np.float32 if pixels.dtype.itemsize < 4 or pixels.dtype == np.float32 else np.float64
    values: Any = pixels.astype(working)
    if scale.low:
        values -= working(scale.low)
    if scale.high - scale.low != 1:
        values /= working(scale.high - scale.low)
    if scale.clip and not is_plain(pixels.dtype, scale):
        np.clip(values, 0, 1, out=values)
    result: npt.NDArray[np.float32] = values.astype(np.float32, copy=False)
    return result


def checked_range(value: Any) -> ValueRange:
    """A range of values; raises SlideError where it is no pair of two numbers, the lower one first."""
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        low = high = 0.0
    if not (isfinite(low) and isfinite(high) and low < high):
        raise SlideError(
            f"{value!r} is no range of values; give the value that is black and the one that is white, "
            "such as (0, 4095)."
        )
    return low, high


def parse_range(text: str) -> ValueRange:
    """A range as it is written in tables and on the command line: 0-4095, 0:4095, "0 4095", "-1,1"."""
    found = re.fullmatch(rf"\s*({_NUMBER})\s*(?:[-:;,]|\.\.|to|\s)\s*({_NUMBER})\s*", text)
    if found is None:
        raise SlideError(f"{text!r} is no range of values; write two numbers such as 0-4095, or 0:1.")
    return checked_range(found.groups())


def checked_kind(value: Any) -> Kind:
    """A kind; raises SlideError where it is none."""
    if value not in KINDS:
        raise SlideError(f"{value!r} is no kind of image; give brightfield or fluorescence.")
    return value  # type: ignore[no-any-return]


def is_rgb(channels: Sequence[str]) -> bool:
    """Whether channel names are those of a colour image."""
    return tuple(c.lower() for c in channels) in COLOURS


# ------------------------------------------------------------------------------------------------------------ looking


def look(info: SlideInfo, chunk: Callable[[int, int, int], Pixels]) -> PixelSample:
    """Take a sample of an image: some chunks of its coarsest level, and for the range some of its finest level.

    Parameters
    ----------
    info : SlideInfo
    chunk : callable
        Gives the chunk of a level, row and column. A damaged chunk is skipped here; reading it later raises.
    """
    last = len(info.levels) - 1
    coarse: dict[tuple[int, int], Pixels] = {}
    for place in _spread(info.levels[last].chunks):
        if (part := _read(chunk, last, place)) is not None:
            coarse[place] = part
    each = max(1, SAMPLE // max(1, len(coarse)))
    parts = [_thinned(p, each) for p in coarse.values()]
    pixels = np.concatenate(parts) if parts else np.zeros((0, len(info.channels)), info.dtype)
    pixels = pixels[np.isfinite(pixels).all(1)]
    if info.dtype == np.uint8:  # the range of uint8 is always known
        return PixelSample(pixels, 0, 255, 0, 255)
    found = [_extremes(part) for part in coarse.values()]
    if last > 0 or info.levels[0].chunks[0] * info.levels[0].chunks[1] > LOOKED:
        finest = dict.fromkeys([*_spread(info.levels[0].chunks), *_brightest(info, coarse)])
        found += [_extremes(part) for place in finest if (part := _read(chunk, 0, place)) is not None]
    known = np.array([f for f in found if f is not None], np.float64).reshape(-1, 4)
    if not len(known):
        return PixelSample(pixels, *(float("nan"),) * 4)
    low, high, lowest, highest = known[:, 0].min(), known[:, 1].max(), known[:, 2].min(), known[:, 3].max()
    return PixelSample(pixels, float(low), float(high), float(lowest), float(highest))


def _read(chunk: Callable[[int, int, int], Pixels], level: int, place: tuple[int, int]) -> Pixels | None:
    try:
        return chunk(level, *place)
    except SlideError:
        return None


def _spread(chunks: tuple[int, int]) -> list[tuple[int, int]]:
    """Some chunks, spread evenly over a level, in about as many rows as columns."""
    rows = min(chunks[0], max(4, LOOKED // max(1, chunks[1])))
    columns = min(chunks[1], max(1, LOOKED // rows))
    ys = sorted({(2 * n + 1) * chunks[0] // (2 * rows) for n in range(rows)})
    xs = sorted({(2 * n + 1) * chunks[1] // (2 * columns) for n in range(columns)})
    return [(y, x) for y in ys for x in xs]


def _brightest(info: SlideInfo, coarse: dict[tuple[int, int], Pixels]) -> list[tuple[int, int]]:
    """Chunks of the finest level under the brightest places of the coarsest."""
    coarsest, finest = info.levels[-1], info.levels[0]
    places = []
    for (cy, cx), part in coarse.items():
        light = np.nan_to_num(part.max(-1).astype(np.float64), nan=-np.inf, posinf=-np.inf)
        y, x = np.unravel_index(int(light.argmax()), light.shape)
        at = (cy * coarsest.chunk[0] + int(y), cx * coarsest.chunk[1] + int(x))
        down = tuple(a / b for a, b in zip(coarsest.downsample, finest.downsample, strict=True))
        row, column = (int((p + 0.5) * d / c) for p, d, c in zip(at, down, finest.chunk, strict=True))
        there = (min(row, finest.chunks[0] - 1), min(column, finest.chunks[1] - 1))
        places.append((float(light[y, x]), there))
    return [there for _, there in sorted(places, reverse=True)[:BRIGHTEST]]


def _thinned(part: Pixels, count: int) -> Pixels:
    """About `count` pixels of a chunk; the step shares no divisor with its width, so that all columns are sampled."""
    height, width, channels = part.shape
    step = max(1, -(-height * width // count))
    while gcd(step, width) > 1:
        step += 1
    return part.reshape(-1, channels)[::step]


def _extremes(part: Pixels) -> tuple[float, float, float, float] | None:
    """Smallest and largest value without outliers, then smallest and largest of all."""
    values = part.ravel()
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not values.size:
        return None
    skip = min(STRAYS, (values.size - 1) // 64)
    ordered = np.partition(values, (skip, values.size - 1 - skip))
    low, high = ordered[skip], ordered[values.size - 1 - skip]
    return float(low), float(high), float(values.min()), float(values.max())


# ----------------------------------------------------------------------------------------------------------- deciding


def decide(
    infos: Sequence[SlideInfo],
    samples: Sequence[PixelSample],
    kind: Kind | None = None,
    value_range: ValueRange | None = None,
) -> list[Numbers]:
    """Decide the meaning of the numbers of each image of a set; a single slide is a set of one.

    Images whose files have the same type, range, kind and channels are decided together.

    Parameters
    ----------
    infos, samples : sequence of SlideInfo, sequence of PixelSample
        Of each image.
    kind : str, optional
    value_range : (low, high), optional
        What a person gives for all of them.
    """
    ranges: list[tuple[ValueRange, Origin, str | None]] = []
    groups: dict[Any, list[int]] = {}
    for number, info in enumerate(infos):
        groups.setdefault((info.dtype, info.value_range, info.range_from), []).append(number)
    found = {key: _range([infos[n] for n in own], [samples[n] for n in own]) for key, own in groups.items()}
    for info in infos:
        ranges.append(found[info.dtype, info.value_range, info.range_from])
    if value_range is not None:
        ranges = [(value_range, "person", None)] * len(infos)
    kinds: dict[Any, list[int]] = {}
    for number, info in enumerate(infos):
        kinds.setdefault((info.kind, info.kind_from, info.channels), []).append(number)
    result: list[Numbers | None] = [None] * len(infos)
    for own in kinds.values():
        units = [to_unit(samples[n].pixels, unit_scale(ranges[n][0])) for n in own]
        decided = (kind, "person") if kind is not None else _kind(infos[own[0]], units)
        for n in own:
            result[n] = Numbers(decided[0], decided[1], *ranges[n])  # type: ignore[arg-type]
    return [numbers for numbers in result if numbers is not None]


def _range(infos: list[SlideInfo], samples: list[PixelSample]) -> tuple[ValueRange, Origin, str | None]:
    """The range of images whose files have the same metadata."""
    info = infos[0]
    if info.value_range is not None:
        low, high = info.value_range
        doubt = f"the range {low:g} to {high:g} was a guess when the file was written; where it is wrong, give another"
        return info.value_range, info.range_from, doubt if info.range_from == "guess" else None
    lows, highs = [s.low for s in samples], [s.high for s in samples]
    known = np.isfinite(lows)
    if not known.any():
        return type_range(info.dtype), "guess", None
    low, high = min(np.array(lows)[known]), max(np.array(highs)[known])
    guessed, surely = guessed_range(info.dtype, float(low), float(high))
    if surely:
        return guessed, "file" if info.dtype.kind in "iu" else "guess", None
    extreme = max(s.highest for s in samples if isfinite(s.highest))
    few = "" if extreme <= guessed[1] * (1 + OVERSHOOT) else f" (but for a few values up to {extreme:g})"
    doubt = (
        f"the file does not say the range of its {info.dtype} values, which go from {low:g} to {high:g}{few}; they "
        f"were taken as {guessed[0]:g} to {guessed[1]:g}: where that is wrong, give the range of its values"
    )
    return guessed, "guess", doubt


def type_range(dtype: np.dtype[Any]) -> ValueRange:
    """The range of a type: of whole numbers from 0 to the largest, of floats 0 to 1."""
    return (0.0, float(np.iinfo(dtype).max)) if dtype.kind in "iu" else (0.0, 1.0)


def guessed_range(dtype: np.dtype[Any], low: float, high: float) -> tuple[ValueRange, bool]:
    """The probable range of values from `low` to `high`, and whether it is nearly certain.

    It is the smallest usual range that holds them: for integers those of 8, 10, 12, ... bits or of their type; for
    floats 0 to 1, or those of integers; with negative values, the same range in both directions.
    """
    if low == 0 and high == 0:
        return type_range(dtype), False
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        for bits in BITS:
            span = (-float(2 ** (bits - 1)), float(2 ** (bits - 1) - 1)) if low < 0 else (0.0, float(2**bits - 1))
            if span[1] >= limits.max:
                break
            if span[0] <= low and high <= span[1]:
                return span, False
        return (float(limits.min) if low < 0 else 0.0, float(limits.max)), limits.bits <= 16
    tops = (1.0, *(float(2**bits - 1) for bits in BITS))
    top = next((t for t in tops if high <= t * (1 + OVERSHOOT)), float(2.0 ** np.ceil(np.log2(max(high, 1)))))
    if low >= -OVERSHOOT * max(high, 1):
        return (0.0, top), top == 1 and high > FAINT
    most = max(-low, high)
    top = 1.0 if most <= 1 + OVERSHOOT else float(2.0 ** np.ceil(np.log2(most)))
    return (-top, top), False


def _kind(info: SlideInfo, units: list[npt.NDArray[np.float32]]) -> tuple[Kind, Origin]:
    """The kind of images whose files have the same metadata; `units` are samples of their pixels in 0..1.

    Each image counts the same, so that a set of tiles is not decided by the largest one.
    """
    if info.kind is not None:
        return info.kind, info.kind_from
    names, count = info.channels, len(info.channels)
    if all(_BRIGHTFIELD.search(name) for name in names):
        return "brightfield", "file"
    if not is_rgb(names) and not any(_UNNAMED.fullmatch(name) for name in names):
        return "fluorescence", "file"
    known = [u for u in units if len(u)]
    if count not in (1, 3) or not known:
        return ("brightfield" if is_rgb(names) else "fluorescence"), "guess"

    def middle(of: Callable[[npt.NDArray[np.float32]], Any]) -> float:
        return float(np.median([np.median(of(u)) for u in known]))

    brightness = middle(lambda u: u.mean(1))
    if is_rgb(names):
        coloured_dark = brightness < 0.25 and middle(lambda u: u.min(1)) < 0.05
        bright = middle(lambda u: u.max(1)) >= DARK and not coloured_dark
    else:
        bright = brightness > (BRIGHT if count == 3 else BRIGHT_GREY)
    return ("brightfield" if bright else "fluorescence"), "guess"


def default_background(info: SlideInfo, numbers: Numbers) -> Pixels:
    """Colour outside the slide: the file's own, else white for bright-field and black for fluorescence."""
    if info.background is not None:
        return info.background
    low, high = numbers.value_range
    value = high if numbers.kind == "brightfield" else low
    if info.dtype.kind in "iu":
        limits = np.iinfo(info.dtype)
        value = min(max(round(value), int(limits.min)), int(limits.max))
    return np.full(len(info.channels), value, info.dtype)


def check_finite(pixels: Pixels, name: str) -> None:
    """Raise NotNumbersError where a value is NaN or infinite, because everything computed from it would be too."""
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        count = int(pixels.size - np.count_nonzero(np.isfinite(pixels)))
        raise NotNumbersError(
            f"{name} has values that are no numbers (NaN or infinite; {count} of {pixels.size} in one part of it); "
            "replace them in the image, for example by its background, and save it again."
        )


def kind_in_words(kind: Kind) -> str:
    return "bright-field" if kind == "brightfield" else "fluorescence"


def with_origin(numbers: Numbers) -> str:
    """The decision in words."""
    low, high = numbers.value_range
    return (
        f"{kind_in_words(numbers.kind)} ({TOLD[numbers.kind_from]}), values from {low:g} to {high:g} "
        f"({TOLD[numbers.range_from]})"
    )


def kept_of(every: Sequence[Numbers], dtypes: Sequence[np.dtype[Any]]) -> TrainedOn:
    """What a model keeps about its training images: their kind, where all have the same, and a range for each type."""
    kinds = {numbers.kind for numbers in every}
    ranges: dict[str, ValueRange] = {}
    for numbers, dtype in zip(every, dtypes, strict=True):
        low, high = ranges.get(dtype.name, numbers.value_range)
        ranges[dtype.name] = (min(low, numbers.value_range[0]), max(high, numbers.value_range[1]))
    return TrainedOn(kind=kinds.pop() if len(kinds) == 1 else None, ranges=ranges)
