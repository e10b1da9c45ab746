"""Pen marks on glass: colours that no stain has, in areas that no cell has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

INK_AREA = 50_000.0
"""A mark has at least this area in µm²: pigment, blood and debris are smaller, a pen line is 300 µm wide and more."""


def ink(density: Floats, smallest: float) -> Bools:
    """Where there is blue, green, red or black ink.

    The colour rules are on optical densities (Beer-Lambert, decadic, glass is 0), in which thick and thin ink of one
    pen have the same proportions:

    - green: green light passes best. No histological stain does that.
    - blue: red light is held back clearly more than green. Haematoxylin holds green back at least as much.
    - red: green and blue light are held back alike and red hardly. Eosin lets blue pass, haemoglobin and DAB hold some
      red back.
    - black: all held back alike, and strongly. Folds and pigments keep a colour.

    Seeds that meet a rule well grow into neighbours that meet it weakly, so that a mark's soft edge goes with it.

    Parameters
    ----------
    density : (h, w, 3) float32
        Red, green, blue.
    smallest : float
        Area of the smallest mark, in pixels.
    """
    from scipy import ndimage

    result = np.zeros(density.shape[:2], np.bool_)
    for seeds, around in _colours(density):
        if np.count_nonzero(seeds) < smallest:
            continue
        # closing bridges the gaps that tissue under a stroke leaves in its colour
        numbers, count = ndimage.label(around | seeds, np.ones((3, 3), np.int8))
        sizes = np.bincount(numbers[seeds], minlength=count + 1)
        sizes[0] = 0
        result |= (sizes >= smallest)[numbers]
    if result.any():
        result = ndimage.binary_dilation(result, np.ones((3, 3), np.bool_))
    return result


def _colours(density: Floats) -> list[tuple[Bools, Bools]]:
    """For each colour of ink: where it surely is, and where it may be."""
    red, green, blue = (density[..., i] for i in range(3))
    least, most = density.min(-1), density.max(-1)
    strong, weak = most > 0.3, most > 0.08
    return [
        (strong & (green < 0.75 * np.minimum(red, blue)), weak & (green < 0.9 * np.minimum(red, blue))),
        (
            strong & (red > 1.35 * green) & (red > 1.6 * blue),
            weak & (red > 1.2 * green) & (red > 1.2 * blue),
        ),
        (
            (most > 0.55) & (red < 0.12 * green) & (np.abs(green - blue) < 0.2 * most),
            weak & (red < 0.2 * green) & (blue > 0.75 * green),
        ),
        ((least > 0.7) & (most - least < 0.2 * most), (least > 0.35) & (most - least < 0.25 * most)),
    ]
