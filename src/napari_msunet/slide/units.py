"""µm from the units and resolutions that image files give."""

from __future__ import annotations

from math import isfinite

PLAUSIBLE = (0.01, 20.0)
"""µm per pixel that a resolution tag can mean for a micrograph; others come from printers (300 dpi is 85 µm)."""

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
    """A length in µm; None where the unit is missing or no length, or the value is not above zero."""
    factor = MICROMETRES.get((unit or "").strip().replace("\\u00B5", "µ"))
    if factor is None or not isfinite(value) or value <= 0:
        return None
    return value * factor


def inches(per_inch: float) -> float:
    """µm per pixel of a resolution in dots per inch; 0 where there is none."""
    return 25400.0 / float(per_inch) if per_inch and isfinite(per_inch) else 0.0


def plausible(y: float | None, x: float | None) -> tuple[float, float] | None:
    """The pair, if both can be a micrograph's µm per pixel."""
    if y is None or x is None or not all(PLAUSIBLE[0] <= v <= PLAUSIBLE[1] for v in (y, x)):
        return None
    return y, x
