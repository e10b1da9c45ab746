"""One colour for each output of a model, the same in every picture of it."""

from __future__ import annotations

OUTPUT_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The fused output's (on a dark ground: white), then one per scale, told apart with any colour vision.

References
----------
Okabe and Ito, "Color Universal Design", 2008.
"""


def output_colour(index: int, dark: bool = False) -> str:
    """The colour of an output: 0 is the fused one, then the scales in their order."""
    return "#ffffff" if dark and index == 0 else OUTPUT_COLOURS[index % len(OUTPUT_COLOURS)]
