"""Regions, windows, grids, footprints and alignment, over any ratio and corner."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from napari_msunet.errors import MsunetError
from napari_msunet.geometry import (
    SNAP,
    Grid,
    Region,
    Window,
    alignment,
    as_scale,
    common_alignment,
    footprints,
    pyramid_shapes,
    round_up,
    snap_ceil,
    snap_floor,
    snapped,
)

extents = st.tuples(st.integers(1, 100_000), st.integers(1, 100_000))
pixels = st.tuples(st.floats(0.1, 64), st.floats(0.1, 64))
grids = st.builds(Grid, extents, pixels)
small = st.integers(-500, 500)
windows = st.builds(Window, small, small, st.integers(0, 300), st.integers(0, 300))
scales = st.builds(Fraction, st.integers(1, 8), st.integers(1, 8))
strides = st.sampled_from([1, 2, 4, 8, 16, 32])
ratios = st.floats(0.1, 40) | st.sampled_from([1.0, 2.0, 3.0, 1.5, 4 / 3, 2.9999999999999996, 1.0005, 0.9995])


def pixels_of(window):
    """The set of pixels of a window."""
    return {(y, x) for y in range(window.y, window.stop[0]) for x in range(window.x, window.stop[1])}


@given(st.floats(-1e6, 1e6))
def test_snapping_is_within_the_tolerance(value):
    assert abs(snapped(value) - value) <= SNAP
    assert snap_floor(value) <= value + SNAP
    assert snap_ceil(value) >= value - SNAP
    assert snap_floor(value) in (floor(value), floor(value) + 1)
    assert snap_ceil(value) in (ceil(value), ceil(value) - 1)


@given(st.integers(-(10**6), 10**6), st.floats(-0.9e-3, 0.9e-3))
def test_what_is_near_a_line_is_on_it(line, off):
    assert snap_floor(line + off) == snap_ceil(line + off) == line


@pytest.mark.parametrize("numbers", [(0, 0, 0, 5), (0, 0, 5, -1), (float("nan"), 0, 1, 1), (0, float("inf"), 1, 1)])
def test_empty_or_endless_regions_are_refused(numbers):
    with pytest.raises(MsunetError, match="Region"):
        Region(*numbers)


@pytest.mark.parametrize(("extent", "pixel"), [((0, 5), (1, 1)), ((5, 5), (0, 1)), ((5, 5), (1, float("nan")))])
def test_grids_need_a_slide_and_a_pixel(extent, pixel):
    with pytest.raises(MsunetError, match="grid"):
        Grid(extent, pixel)


small_windows = st.builds(Window, st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 9), st.integers(0, 9))


@given(small_windows, small_windows)
def test_intersection_is_that_of_sets(one, two):
    assert pixels_of(one.intersection(two)) == pixels_of(one) & pixels_of(two)
    assert one.intersection(two).empty == (not pixels_of(one) & pixels_of(two))


@given(small_windows, st.integers(1, 7))
def test_aligned_is_the_smallest_around(window, multiple):
    assume(not window.empty)
    aligned = window.aligned(multiple)
    assert aligned.intersection(window) == window
    assert all(v % multiple == 0 for v in (aligned.y, aligned.x, *aligned.stop))
    assert all(0 <= a - b < multiple for a, b in zip((window.y, window.x), (aligned.y, aligned.x), strict=True))
    assert all(0 <= b - a < multiple for a, b in zip(window.stop, aligned.stop, strict=True))


@given(small_windows)
def test_halved_takes_every_parent(window):
    assume(not window.empty)
    assert pixels_of(window.halved()) == {(y // 2, x // 2) for y, x in pixels_of(window)}


@given(windows, scales)
def test_times_is_exact_or_refused(window, scale):
    try:
        scaled = window.times(scale)
    except ValueError:
        assert any((v * scale).denominator != 1 for v in (window.y, window.x, window.height, window.width))
    else:
        assert scaled.times(1 / scale) == window


@given(windows, st.integers(0, 20))
def test_slices_take_the_window_out_of_what_was_read(window, margin):
    around = window.padded(margin)
    values = np.arange(around.height * around.width).reshape(around.shape)
    part = values[window.slices((around.y, around.x))]
    assert part.shape == window.shape
    if not window.empty:
        assert part[0, 0] == margin * around.width + margin


@given(grids)
def test_a_grid_covers_its_slide_and_no_more(grid):
    for count, length, pixel in zip(grid.shape, grid.extent, grid.pixel, strict=True):
        assert count * pixel >= length - SNAP * pixel * 1.001
        assert count == 1 or (count - 1) * pixel < length - SNAP * pixel * 0.999


@given(grids, scales)
def test_a_scaled_grid_has_its_pixels_nested(grid, scale):
    scaled = grid.scaled(scale)
    assert scaled.extent == grid.extent
    assert scaled.pixel == pytest.approx(tuple(p / float(scale) for p in grid.pixel))
    assert grid.scaled(Fraction(1)) == grid


def test_a_scaled_grid_scales_its_mpp():
    assert Grid((100, 100), (2.0, 2.0), (1.0, 1.0)).scaled(Fraction(1, 4)).mpp == (4.0, 4.0)


@given(grids, windows)
def test_the_window_of_a_windows_footprint_is_itself(grid, window):
    assume(not window.empty)
    region = grid.region(window)
    assert grid.window(region) == window
    assert grid.centres(region) == window


@given(grids, st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.floats(1, 1e4), st.floats(1, 1e4))
def test_the_window_of_a_region_is_the_smallest_that_covers_it(grid, y, x, height, width):
    region = Region(y, x, height, width)
    window = grid.window(region)
    for axis, (start, stop) in enumerate(zip((region.y, region.x), region.stop, strict=True)):
        pixel, first = grid.pixel[axis], (window.y, window.x)[axis]
        slack = SNAP * pixel * 1.001
        assert first * pixel <= start + slack
        assert (first + 1) * pixel > start + slack * 0.9
        assert window.stop[axis] * pixel >= stop - slack
        assert (window.stop[axis] - 1) * pixel < stop - slack * 0.9


quarters = st.integers(-400, 400).map(lambda n: n / 4)  # their sums are exact


sides = st.integers(1, 400).map(lambda n: n / 4)


@given(grids, quarters, quarters, sides, sides)
def test_neighbouring_regions_share_no_centre_and_lose_none(grid, y, x, height, width):
    left, right = (grid.centres(Region(y, x + i * width, height, width)) for i in range(2))
    whole = grid.centres(Region(y, x, height, 2 * width))
    assert left.stop[1] == right.x
    assert (left.x, right.stop[1]) == (whole.x, whole.stop[1])


@settings(max_examples=200)
@given(st.integers(-1000, 100_000), st.integers(1, 50), st.integers(0, 49), ratios)
def test_a_footprint_depends_on_its_pixel_alone(start, count, offset, ratio):
    offset %= count
    first, weights = footprints(start, count, ratio)
    one, its = footprints(start + offset, count - offset, ratio)
    np.testing.assert_array_equal(first[offset:], one)
    np.testing.assert_array_equal(weights[offset:], its)


@settings(max_examples=200)
@given(st.integers(-1000, 1000), st.integers(1, 50), ratios)
def test_footprints_are_the_shares_of_an_area(start, count, ratio):
    first, weights = footprints(start, count, ratio)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    for i in range(count):
        low, high = (start + i) * ratio, (start + i + 1) * ratio
        for tap, weight in enumerate(weights[i]):
            source = int(first[i]) + tap
            share = max(0.0, min(high, source + 1) - max(low, source)) / ratio
            assert abs(weight - share) <= 2.5 * SNAP / min(1, ratio)
        covered = int(first[i]) + weights.shape[1]
        assert covered >= high - SNAP  # no source pixel of the footprint is left out
        assert first[i] <= low + SNAP


@given(st.integers(-100, 100), st.integers(1, 8))
def test_whole_ratios_share_evenly(start, ratio):
    first, weights = footprints(start, 5, float(ratio))
    np.testing.assert_array_equal(first, (start + np.arange(5)) * ratio)
    np.testing.assert_allclose(weights[:, :ratio], 1 / ratio)
    assert not weights[:, ratio:].any()


@given(scales)
def test_scales_are_found_again(scale):
    assert as_scale(scale) == scale
    assert as_scale(float(scale)) == scale
    assert as_scale(round(float(scale), 4)) == scale


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 0.01, 9.0, 0.47])
def test_other_scales_are_refused(value):
    with pytest.raises(MsunetError, match=r"scale .* (is not above zero|is no ratio)"):
        as_scale(value)


@given(scales, strides)
def test_alignment_is_the_smallest_shared_phase(scale, stride):
    step = alignment(scale, stride)
    assert (step * scale) % stride == 0
    assert all((n * scale) % stride != 0 for n in range(1, step))


@given(st.lists(st.tuples(scales, strides), min_size=1, max_size=3))
def test_common_alignment_suits_all(pairs):
    some, steps = zip(*pairs, strict=True)
    step = common_alignment(some, steps)
    assert all((step * scale) % stride == 0 for scale, stride in pairs)
    for prime in (2, 3, 5, 7):
        if step % prime == 0:
            assert any((step // prime * scale) % stride != 0 for scale, stride in pairs)


@given(st.floats(0, 1e5), st.integers(1, 100))
def test_round_up(value, multiple):
    up = round_up(value, multiple)
    assert up % multiple == 0
    assert up >= value - SNAP * multiple
    assert up - multiple < value


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_pyramids_halve_until_they_are_small(height, width):
    shapes = pyramid_shapes((height, width))
    assert shapes[0] == (height, width)
    assert max(shapes[-1]) <= 1024
    assert all(max(shape) > 1024 for shape in shapes[:-1])
    for number, shape in enumerate(shapes):
        assert shape == (-(-height // 2**number), -(-width // 2**number))
