"""The size of a pixel in µm, and whether the one in a file is believed. Only this module decides that.

Each `*_backend` reads what its files say of it (`tiff_backend.tiff_mpp`).

A size that a person gives is always used, if it can be a size at all (4 nm of an electron microscope is 0.004). A size
in a file is believed where a light microscope can have it. Other sizes come from printers (300 dpi is 85 µm), from
programs that know no size, or from mixed-up units.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

from napari_msunet.errors import SlideError
from napari_msunet.typed_numbers import read_number

PIXELS = "px"
"""The value that is given instead of µm per pixel where the image has no size in µm, or the size must not be used."""

BELIEVED = (0.01, 20.0)
"""The range of µm per pixel that is believed in a file."""

MOST_UNEQUAL = 4.0
"""The largest ratio of the sides of a pixel that is believed in a file."""

MICROMETRES = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "nm": 1e-3,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "millimeter": 1e3,
    "millimetre": 1e3,
    "mm": 1e3,
    "centimeter": 1e4,
    "centimetre": 1e4,
    "cm": 1e4,
    "inch": 25400.0,
    "in": 25400.0,
    "decimeter": 1e5,
    "dm": 1e5,
    "meter": 1e6,
    "metre": 1e6,
    "m": 1e6,
    "picometer": 1e-6,
    "pm": 1e-6,
}


def micrometres(value: float, unit: str | None) -> float | None:
    """A length in µm, unchecked; None where the unit is missing or no unit of length."""
    factor = MICROMETRES.get((unit or "").strip().replace("\\u00B5", "µ"))
    return None if factor is None else value * factor


def inches(per_inch: float) -> float:
    """µm per pixel of a resolution in dots per inch; infinite where that is 0."""
    return 25400.0 / float(per_inch) if per_inch else float("inf")


def both(y: float | None, x: float | None) -> tuple[float, float] | None:
    """The pair, if both are known, else None."""
    return None if y is None or x is None else (y, x)


def believed(said: tuple[float, float] | None, what: str = "The file") -> tuple[tuple[float, float] | None, str]:
    """Whether a file's µm per pixel are believed.

    Parameters
    ----------
    said : (y, x) or None
        µm per pixel in `what`, any numbers; None: it has none.
    what : str
        The source, for the sentence.

    Returns
    -------
    (y, x) or None
        The pair, if a micrograph can have it.
    str
        A sentence about why it is not believed; empty where it is believed, or there is none.
    """
    if said is None:
        return None, ""
    text = " x ".join(dict.fromkeys(f"{v:g}" for v in said))
    if not all(isfinite(v) and v > 0 for v in said):
        why = "which is no size of a pixel"
    elif not all(BELIEVED[0] * (1 - 1e-9) <= v <= BELIEVED[1] * (1 + 1e-9) for v in said):
        why = f"which no light microscope has ({BELIEVED[0]:g} to {BELIEVED[1]:g} is believed)"
    elif max(said) > MOST_UNEQUAL * min(said):
        why = f"whose sides are more unequal than a pixel's can be (up to {MOST_UNEQUAL:g} times is believed)"
    else:
        return said, ""
    return None, f"{what} says {text} µm per pixel, {why}, so it is left out."


def believed_text(text: str | None) -> float | None:
    """The µm per pixel in a file's text, if it is a number and believed."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return None if believed((value, value))[0] is None else value


def checked_mpp(value: Any) -> tuple[float, float]:
    """µm per pixel that a person gives, as `(y, x)`; `SlideError` where it is no number above zero or pair of them."""
    try:
        many = isinstance(value, Iterable) and not isinstance(value, str)
        pair = tuple(float(v) for v in value) if many else (float(value),) * 2
    except (TypeError, ValueError):
        pair = ()
    if len(pair) != 2 or not all(isfinite(v) and v > 0 for v in pair):
        raise SlideError(
            f"{value!r} is no µm per pixel; give a number above zero such as 0.5, or a pair (y, x) of them."
        )
    return pair[0], pair[1]


def given_mpp(value: Any) -> tuple[float, float] | str | None:
    """What a person gives as the size of a pixel: a checked pair `(y, x)`, "px", or None for nothing."""
    if value is None or (isinstance(value, str) and value == PIXELS):
        return value
    try:
        return checked_mpp(value)
    except SlideError as error:
        raise SlideError(f'{str(error).rstrip(".")}, or "{PIXELS}" for an image without a size in µm.') from None


def parse_mpp(text: str, where: str) -> float | str | None:
    """µm per pixel from a cell of a table: a number, `px`, or None where the cell is empty.

    Parameters
    ----------
    where : str
        The name of the cell, for the sentence.

    Raises
    ------
    SlideError
        If the text is neither a number nor px.
    """
    text = text.strip()
    if not text or text == PIXELS:
        return text or None
    try:
        # either mark is a decimal one, since no size of a pixel is a thousand
        return checked_mpp(read_number(text, "µm", point=".,"))[0]
    except ValueError:
        raise SlideError(
            f"{where} has {text!r} as µm per pixel; give a number above zero such as 0.25, or px for an image without "
            "a size in µm."
        ) from None
