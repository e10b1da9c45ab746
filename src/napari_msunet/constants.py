"""Numbers and colours that must be the same everywhere: in stores, in training truth and in pictures."""

from __future__ import annotations

IGNORED = 255
"""The value of pixels in training truth and raw predictions that are unknown and count in no loss or score."""

ANNOTATED_BACKGROUND = 255
"""The value of background in an annotation, where 0 means "not annotated"."""

CHUNK = 512
"""Side in pixels of the chunks of label stores, of written pyramids and of the units a prediction is computed in: two
processes that write whole chunks never write the same file."""

HAEMATOXYLIN, EOSIN = (0.650, 0.704, 0.286), (0.072, 0.990, 0.105)
"""Optical densities of both stains in red, green and blue (Ruifrok and Johnston 2001)."""

LUMA = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in brightness (ITU-R BT.601)."""

OUTPUT_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The colour of the fused output (on a dark background: white), then one per scale, distinct for any colour vision.

References
----------
Okabe and Ito, "Color Universal Design", 2008.
"""


MEAN_COLOUR = "#8c8c8c"
"""The colour of the mean over scales."""


def output_colour(index: int, dark: bool = False) -> str:
    """The colour of an output: 0 is the fused one, then the scales in their order."""
    return "#ffffff" if dark and index == 0 else OUTPUT_COLOURS[index % len(OUTPUT_COLOURS)]


OUTLINE_ENDINGS = (".geojson", ".json", ".ndjson", ".jsonl", ".geojsonl", ".xml", ".annotations")
"""Usual endings of files of outlines of other programs; what a file is, is found by its content."""
