"""How a file says that its image is to be turned (TIFF tag 274, EXIF), and turning windows and pixels accordingly."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from napari_msunet.slide.backend import Pixels

TAG = 274


class Turn(NamedTuple):
    """From the pixels as they are stored to the image as it is meant: rows and columns swapped, then flipped."""

    number: int
    swap: bool
    flip_y: bool
    flip_x: bool
    words: str

    @property
    def none(self) -> bool:
        """Whether the image is meant as it is stored."""
        return self.number == 1

    def pair(self, stored: tuple[Any, Any]) -> tuple[Any, Any]:
        """What belongs to the rows and to the columns: a shape, the size of a pixel."""
        return (stored[1], stored[0]) if self.swap else stored

    def stored_box(self, box: tuple[int, int, int, int], shape: tuple[int, int]) -> tuple[int, int, int, int]:
        """Where a box `(y, x, height, width)` of the turned image, which has this shape, is stored."""
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
    """The turn that a tag's value asks for; none where it is no number from 1 to 8."""
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return AS_STORED
    return _TURNS[number - 1] if 1 <= number <= 8 else AS_STORED


def outlines_note(name: str, number: int) -> str | None:
    """The doubt about outlines of an image that is turned by a tag."""
    if number == 1:
        return None
    return (
        f"{name} is {_TURNS[number - 1].words} as its orientation tag ({number}) says; outlines that were drawn in a "
        "program that does not follow the tag, such as QuPath, lie wrongly: save the image without the tag, and draw "
        "or export them on that"
    )


def turn_note(asked: Turn, heeded: bool) -> tuple[str, ...]:
    """The sentence for `info`, where there is something to say."""
    if asked.none:
        return ()
    if heeded:
        return (f"Its orientation tag is {asked.number}: it is read {asked.words}.",)
    return (
        f"Its orientation tag is {asked.number} ({asked.words}), and is not followed: whole slides are read as they "
        "are stored, as QuPath, ASAP and ImageScope do, so that outlines fit.",
    )
