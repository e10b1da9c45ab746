"""The appearance of a slide's values: contrast limits for people, and the range 0 to 1 of its training for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_msunet.config.base import TrainedOn, ValueRange
from napari_msunet.slide.numbers import FAINT, OVERSHOOT, Numbers, Scale, is_rgb, kind_in_words, unit_scale

if TYPE_CHECKING:
    from napari_msunet.slide.slide import Slide


def shows_colours(slide: Slide) -> bool:
    """Whether the channels are the colours of one image: by their names, or as three unnamed ones of bright field."""
    return is_rgb(slide.channels) or (len(slide.channels) == 3 and slide.kind == "brightfield")


def display_limits(slide: Slide, channel: int | None = None) -> ValueRange:
    """The values to show as black and white: the range of a bright-field slide; for fluorescence, the values that
    occur.

    Parameters
    ----------
    slide : Slide
    channel : int, optional
        The channel; None: all channels.
    """
    low, high = slide.value_range
    if slide.kind == "brightfield":
        return low, high
    pixels = slide.sample.pixels
    values = pixels if channel is None else pixels[:, channel]
    if not values.size:
        return low, high
    dark, bright = (float(v) for v in np.percentile(values.astype(np.float64), (0.1, 99.9)))
    return dark, bright if bright > dark else dark + (1 if slide.dtype.kind in "iu" else (high - low) / 255)


class SeenByModel(NamedTuple):
    """How a model sees a slide: the scale of its values, and sentences about what may be wrong."""

    scale: Scale
    doubts: tuple[str, ...]


def legacy_scale(dtype: np.dtype[Any]) -> Scale:
    """The scale of models that keep no range: unsigned integers divided by the largest of their type, others
    unchanged."""
    return Scale(0.0, float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0, clip=False)


def seen_by(trained: TrainedOn | None, slide: Slide) -> SeenByModel:
    """How the values of a slide are scaled to those that a model was trained on; see `seen_as`."""
    if trained is None:
        return _seen_without_range(slide)
    seen = seen_as(trained, slide.numbers, slide.dtype, slide.name)
    if slide.numbers.range_from == "guess":
        return seen
    return SeenByModel(seen.scale, (*seen.doubts, *_cut_off(slide, slide.value_range)))


def seen_as(trained: TrainedOn, numbers: Numbers, dtype: np.dtype[Any], name: str) -> SeenByModel:
    """How values are scaled to those that a model was trained on.

    A range from a file or a person is used. Where the range is a guess, and the model was trained on values of the same
    type that are not bright field, the model's range is better than a guess from this image alone, which may be dim.
    """
    doubts = []
    if trained.kind is not None and trained.kind != numbers.kind:
        how = "looks like" if numbers.kind_from == "guess" else "is"
        doubts.append(
            f"{name} {how} {kind_in_words(numbers.kind)}, but the model was trained on "
            f"{kind_in_words(trained.kind)}; its result says little, unless the kind is wrong: then give its kind."
        )
    known = trained.ranges.get(dtype.name)
    own = numbers.value_range
    if numbers.range_from != "guess" or own == known:
        return SeenByModel(unit_scale(own), tuple(doubts))
    if known is not None and numbers.kind == "fluorescence" and known[0] <= own[0] and own[1] <= known[1]:
        if own[1] - own[0] < FAINT * (known[1] - known[0]):
            doubts.append(
                f"The values of {name} seem to be of a range of {own[0]:g} to {own[1]:g}, and the model was trained on "
                f"one of {known[0]:g} to {known[1]:g}, which was taken: where that is wrong, give the range "
                "of its values."
            )
        return SeenByModel(unit_scale(known), tuple(doubts))
    if numbers.doubt is not None:
        doubts.append(f"{name}: {numbers.doubt}.")
    return SeenByModel(unit_scale(numbers.value_range), tuple(doubts))


def _seen_without_range(slide: Slide) -> SeenByModel:
    """For a model that keeps no range: the scale of earlier versions, unless a person gives the range."""
    numbers, before = slide.numbers, legacy_scale(slide.dtype)
    if numbers.range_from == "person":
        return SeenByModel(unit_scale(numbers.value_range), _cut_off(slide, numbers.value_range))
    if numbers.value_range == before[:2]:
        return SeenByModel(before, ())
    low, high = numbers.value_range
    return SeenByModel(
        before,
        (
            f"The model does not say which range of values it was trained on, and those of {slide.name} seem to go "
            f"from {low:g} to {high:g}; as before, {before.high:g} was taken as white: give the range of its values to "
            "have them brought to 0 to 1.",
        ),
    )


def _cut_off(slide: Slide, value_range: ValueRange) -> tuple[str, ...]:
    """A warning where a given range cuts off more than a few pixels."""
    pixels = slide.sample.pixels
    low, high = value_range
    slack = OVERSHOOT * (high - low) if slide.dtype.kind == "f" else 0
    outside = float(((pixels < low - slack) | (pixels > high + slack)).mean()) if pixels.size else 0.0
    if outside <= 0.01:
        return ()
    return (
        f"{outside:.0%} of the values of {slide.name} lie outside the range {low:g} to {high:g} that was given, and "
        "are cut off.",
    )
