"""One image with its truth, ready for training or scoring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_msunet.config import Role
from napari_msunet.constants import IGNORED
from napari_msunet.data.masks import Mask
from napari_msunet.data.truth import Part, Truth, WholeTruth, truth_window
from napari_msunet.errors import SourceError
from napari_msunet.geometry import Grid, Region, Resolution, Window
from napari_msunet.slide import Slide
from napari_msunet.slide.backend import SlideInfo
from napari_msunet.slide.numbers import Numbers, Scale, default_background, unit_scale

_PLACES = 50_000

Say = Callable[[str, str], None]
"""Takes a level ("info", "warning") and a sentence."""


class Facts(NamedTuple):
    """An image's target grid, number of channels, dtype, the numbers its file gives, and the fingerprint of its
    pixels."""

    grid: Grid
    channels: int
    dtype: np.dtype[Any]
    info: SlideInfo
    pixels: tuple[tuple[int, int], str] = ((0, 0), "")


@dataclass(frozen=True)
class Item:
    """An image, its truth, and on which side of a split it stands.

    Attributes
    ----------
    name : str
        The image's name without its ending.
    open : callable
        Gives the `Slide`; called once, at the first use of `slide`.
    truth : Truth
    resolution : Resolution, optional
        Of the target grid; None while it is not chosen.
    group : str, optional
        Images of one group never stand on both sides of a split.
    role : str
    path : Path, optional
        The image's file, by whose content a frozen test image is recognised.
    corrected : bool
        Whether its truth is a prediction's pixels that a person corrected (`SlideSource.edited_only`).
    """

    name: str
    open: Callable[[], Slide]
    truth: Truth
    resolution: Resolution | None
    group: str | None = None
    role: Role = "auto"
    _kept: dict[str, Slide] = field(default_factory=dict, repr=False, compare=False)
    path: Path | None = None
    corrected: bool = False
    decided: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """`numbers` and `scale`, once `settle_numbers` has decided them for the whole set."""
    _known: dict[str, Facts] = field(default_factory=dict, repr=False, compare=False)  # also by copies on another side

    @property
    def slide(self) -> Slide:
        """The open image."""
        if "slide" not in self._kept:
            slide = self._kept["slide"] = self.open()
            if "numbers" in self.decided:
                slide.numbers = self.decided["numbers"]
        return self._kept["slide"]

    @property
    def numbers(self) -> Numbers:
        """The meaning of the image's numbers, as decided for its set, else for the image alone."""
        if "numbers" not in self.decided:
            was_open = "slide" in self._kept
            self.decided["numbers"] = self.slide.numbers
            if not was_open and "slide" in self._kept:
                self._kept.pop("slide").close()
        found: Numbers = self.decided["numbers"]
        return found

    @property
    def scale(self) -> Scale:
        """How the model sees the image's values as 0..1."""
        scale: Scale = self.decided.get("scale") or unit_scale(self.numbers.value_range)
        return scale

    @property
    def background(self) -> npt.NDArray[Any]:
        """The colour outside the image."""
        return default_background(self.facts.info, self.numbers)

    @property
    def facts(self) -> Facts:
        """The facts that are needed about the image after it was closed again."""
        if "facts" not in self._known:
            slide = self.slide
            pixels = ((slide.shape[0], slide.shape[1]), slide.fingerprint)
            self._known["facts"] = Facts(slide.grid(self.resolution), slide.shape[2], slide.dtype, slide.info, pixels)
        return self._known["facts"]

    @property
    def pixels(self) -> tuple[tuple[int, int], str] | None:
        """The image's size and fingerprint, as far as it was opened before."""
        return self._known["facts"].pixels if "facts" in self._known else None

    @property
    def pixel_key(self) -> str:
        """The image's size and fingerprint as text, which do not depend on its name."""
        (height, width), fingerprint = self.facts.pixels
        return f"{height} {width} {fingerprint}"

    @property
    def grid(self) -> Grid:
        """The target grid of scale 1."""
        return self.facts.grid

    @cached_property
    def places(self) -> dict[int, npt.NDArray[np.float64]]:
        """Places `(n, 2)` in level-0 pixels of each class that is present, background included."""
        values, grid = self.truth.overview()
        places = {}
        for value in np.unique(values[values != IGNORED]).tolist():
            y, x = np.nonzero(values == value)
            step = -(-y.size // _PLACES)
            places[value] = grid.places(np.stack([y[::step], x[::step]], 1))
        return places

    @cached_property
    def content(self) -> npt.NDArray[np.float64]:
        """About how many target pixels have each truth from 0 to 254, `(255,)`."""
        values, grid = self.truth.overview()
        counts = np.bincount(values.ravel(), minlength=IGNORED + 1)[:IGNORED]
        self.forget_mask()
        return np.asarray(counts * (np.prod(grid.pixel) / np.prod(self.grid.pixel)), np.float64)

    def truth_on_target(self, window: Window) -> Mask:
        """The truth in a window of the target grid, by majority; 255 where it is not known and outside the slide."""
        return truth_window(self.truth, self.grid, window)

    def part(self, keep: Region | None = None, drop: Region | None = None) -> Item:
        """The same image, but only a part of its truth counts (in level-0 pixels)."""
        return replace(self, truth=Part(self.truth, keep, drop))

    def release(self) -> None:
        """Close the image and forget the data that can be read again."""
        if "slide" in self._kept:
            self._kept.pop("slide").close()
        self.forget_mask()

    def forget_mask(self) -> None:
        """Forget the pixels of a mask file; they are read again when needed."""
        truth = self.truth.whole if isinstance(self.truth, Part) else self.truth
        if isinstance(truth, WholeTruth):
            truth.release()


def check_channels(item: Item, channels: int | None) -> None:
    """Raise `SourceError` where the image has another number of channels than the model; None: any number is fine."""
    if channels is None:
        return
    found = item.facts.channels
    if found != channels:
        raise SourceError(
            f"The image {item.name} has {found} channel{'s' * (found != 1)}, the model is set to {channels}; set "
            f"the model's `channels` to {found} or give images with {channels}."
        )
