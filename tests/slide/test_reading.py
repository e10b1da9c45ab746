"""Reading windows of slides: places, averages, edges, and the same pixel in two windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_msunet.errors import MissingMppError, SlideError
from napari_msunet.geometry import Grid, Region, Window
from napari_msunet.slide import slide_from_array

RNG = np.random.default_rng(0)
FULL = RNG.integers(0, 256, (611, 547, 3), dtype=np.uint8)
HALF = RNG.integers(0, 256, (305, 273, 3), dtype=np.uint8)  # rounded down, as Aperio does
QUARTER = RNG.integers(0, 256, (153, 137, 3), dtype=np.uint8)  # rounded up
WIDE = RNG.integers(0, 65536, (300, 1201), dtype=np.uint16)
SLIDES = {
    "pyramid": slide_from_array([FULL, HALF, QUARTER], mpp=0.25),
    "uint16": slide_from_array(WIDE, mpp=(0.5, 0.3)),
    "float": slide_from_array(WIDE.astype(np.float32) / 7, mpp=1.0),
}


def pixel_by_definition(image: np.ndarray, background: np.ndarray, grid: Grid, y: int, x: int) -> np.ndarray:
    """The mean of level-0 pixels over a grid pixel's footprint, background outside."""
    total = np.zeros(image.shape[2])
    height, width = grid.pixel
    for row in range(int(np.floor(y * height)), int(np.ceil((y + 1) * height))):
        tall = max(0.0, min((y + 1) * height, row + 1) - max(y * height, row))
        for column in range(int(np.floor(x * width)), int(np.ceil((x + 1) * width))):
            wide = max(0.0, min((x + 1) * width, column + 1) - max(x * width, column))
            inside = 0 <= row < image.shape[0] and 0 <= column < image.shape[1]
            total += tall * wide * (image[row, column] if inside else background)
    return total / (height * width)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(SLIDES)),
    pixel=st.tuples(st.floats(0.3, 9), st.floats(0.3, 9))
    | st.sampled_from([(1.0, 1.0), (2.0, 2.0), (4.0, 4.0), (3.0, 6.0)]),
    corner=st.tuples(st.floats(-0.2, 1.1), st.floats(-0.2, 1.1)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    shift=st.tuples(st.integers(-40, 40), st.integers(-40, 40)),
)
def test_a_pixel_is_the_same_in_every_window(name, pixel, corner, size, shift):
    slide = SLIDES[name]
    grid = Grid(slide.shape[:2], pixel)
    one = Window(int(corner[0] * grid.shape[0]), int(corner[1] * grid.shape[1]), *size)
    two = Window(one.y + shift[0], one.x + shift[1], size[1], size[0])
    both = one.intersection(two)
    if both.empty:
        return
    a = slide.read_window(grid, one)[both.slices((one.y, one.x))]
    b = slide.read_window(grid, two)[both.slices((two.y, two.x))]
    np.testing.assert_array_equal(a, b)


def test_unknown_mpp_is_missed_only_when_it_is_needed():
    slide = slide_from_array(FULL)
    assert slide.mpp is None
    np.testing.assert_array_equal(slide.read(Region(3, 4, 5, 6)), FULL[3:8, 4:10])
    with pytest.raises(MissingMppError, match=r"open_slide\(path, mpp=0.5\)"):
        slide.grid(0.5)


@pytest.mark.parametrize("mpp", [0, -1, float("nan"), "wide", (1, 2, 3), (0.5, 0)])
def test_bad_mpp(mpp):
    with pytest.raises(SlideError, match="no µm per pixel"):
        slide_from_array(FULL, mpp=mpp)
    with pytest.raises(SlideError, match="no µm per pixel"):
        SLIDES["pyramid"].grid(mpp)
