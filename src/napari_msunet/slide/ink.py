"""Pen marks on glass: colours that no stain has, in areas that no cell has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

INK_AREA = 50_000.0
"""A mark has at least this area in µm²: pigment, blood and debris are smaller, a pen line is 300 µm wide and more."""


def ink_colours(red: Floats, green: Floats, blue: Floats) -> npt.NDArray[np.uint8]:
    """Which inks a pixel may be of, by its optical density (decadic, glass is 0; Beer-Lambert).

    Thick and thin ink of one pen hold the colours back in the same proportions, so the rules are on these:

    - green: green light passes best. No histological stain does that.
    - blue: red light is held back more than green, and blue hardly. Haematoxylin holds half as much blue back as red.
    - red: green and blue light are held back alike and red hardly. Eosin lets blue pass, haemoglobin and DAB hold some
      red back.
    - black: all held back alike, and strongly. Folds and pigments keep a colour.

    Returns
    -------
    (h, w) uint8
        Of the k-th ink (green, blue, red, black): bit 2k where it surely is, bit 2k + 1 where it may be.
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
    """Where there is ink: what surely is, with the neighbours that may be (a mark's soft edge), if it is large enough.

    Parameters
    ----------
    colours : (h, w) uint8
        Of `ink_colours`.
    smallest : float
        Of what surely is ink, a mark has so many pixels.
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
