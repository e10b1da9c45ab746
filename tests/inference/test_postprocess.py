"""Deciding, cleaning and parting: against simple whole-array versions, and the same for any windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label

from napari_msunet.config import Postprocess
from napari_msunet.constants import IGNORED
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import Window
from napari_msunet.inference.postprocess import decide, instances, needs_raw, threshold_array
from napari_msunet.inference.postprocess.cleaning import Cleaning, pixels_under
from napari_msunet.inference.postprocess.instances import Instances
from napari_msunet.inference.postprocess.split_touching import SplitTouching
from napari_msunet.inference.postprocess.threshold import deviations, radius, smooth
from napari_msunet.objects.components import ArrayPlane, Walk

SIDES = (16, 40, 64, 1000)


def blobs(seed: int, shape=(150, 170), classes: int = 2, sigma: float = 3.0, level: float = 0.3) -> np.ndarray:
    """Random smooth objects of several classes, some touching, some with holes and specks."""
    rng = np.random.default_rng(seed)
    out = np.zeros(shape, np.uint8)
    for value in range(1, classes + 1):
        field = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
        out[field > level * field.std()] = value
    out[rng.random(shape) < 0.02] = 0
    out[rng.random(shape) < 0.02] = classes
    return out


def cleaned(values: np.ndarray, smallest: int, holes: int, side: int, done=None) -> np.ndarray:
    out = ArrayPlane(np.zeros_like(values))
    walk = Walk(values.shape, done or [Window(0, 0, *values.shape)], side)
    for _ in Cleaning(walk, smallest, holes, 3).steps(ArrayPlane(values), out):
        pass
    return out.values


def plainly_cleaned(values: np.ndarray, smallest: int, holes: int) -> np.ndarray:
    """The same on a whole array, object by object."""
    unknown = values == IGNORED
    out = np.where(unknown, 0, values)
    numbers = label(out, background=0, connectivity=1)
    for number in range(1, numbers.max() + 1):
        piece = numbers == number
        if piece.sum() < smallest:
            out[piece] = 0
    framed = np.pad(np.where(unknown, IGNORED, out), 1, constant_values=IGNORED)
    gaps = label(framed == 0, connectivity=2)
    for number in range(1, gaps.max() + 1):
        gap = gaps == number
        if gap.sum() >= holes or (framed[ndimage.binary_dilation(gap, np.ones((3, 3)))] == IGNORED).any():
            continue
        touched = np.zeros(256, int)
        for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
            beside = np.roll(framed, shift, axis)[gap]
            np.add.at(touched, beside[beside > 0], 1)
        out[gap[1:-1, 1:-1]] = touched.argmax()
    return out


def instances_of(values: np.ndarray, side: int, boundary: int = 0, limit: int = 10**9, spacing: float = 0.0):
    out = ArrayPlane(np.zeros(values.shape, np.uint32))
    walk = Walk(values.shape, [Window(0, 0, *values.shape)], side)
    made = Instances(walk, SplitTouching(spacing), boundary, limit)
    for _ in made.steps(ArrayPlane(values), out):
        pass
    assert made.count == len(np.unique(out.values)) - 1
    return out.values


# ------------------------------------------------------------------------------------------------------------ deciding


def test_without_thresholds_the_likeliest_wins():
    p = np.random.default_rng(0).dirichlet(np.ones(4), (30, 40)).astype(np.float32).transpose(2, 0, 1)
    np.testing.assert_array_equal(decide(p, np.full(3, np.nan)), p.argmax(0))


def test_thresholds_class_by_class():
    p = np.array([[0.5, 0.3, 0.2], [0.2, 0.45, 0.35], [0.1, 0.3, 0.6], [0.55, 0.05, 0.4], [0.1, 0.8, 0.1]]).T
    p = p.astype(np.float32)[:, None]
    np.testing.assert_array_equal(decide(p, threshold_array({"a": 0.3}, "ab")), [[1, 1, 2, 0, 1]])
    np.testing.assert_array_equal(decide(p, threshold_array({"a": 0.5, "b": 0.35}, "ab")), [[0, 2, 2, 2, 1]])
    with pytest.raises(MsunetError, match=r"gland.*classes are a, b"):
        threshold_array({"gland": 0.5}, "ab")


@given(st.integers(0, 1000), st.sampled_from(["uint8", "float16"]))
@settings(max_examples=20, deadline=None)
def test_a_higher_threshold_never_gives_more(seed, dtype):
    p = np.random.default_rng(seed).dirichlet(np.ones(2), (20, 20)).transpose(2, 0, 1)
    p = (np.rint(p * 255) / np.float32(255) if dtype == "uint8" else p.astype(dtype)).astype(np.float32)
    areas = [(decide(p, threshold_array({"a": t}, "a")) == 1).sum() for t in np.arange(0.05, 1, 0.05)]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > areas[-1]


def test_what_the_tiles_must_write():
    assert needs_raw(Postprocess(thresholds={"a": 0.3}), {"labels", "instances"}) == set()
    assert needs_raw(Postprocess(holes=3), {"labels"}) == {"raw"}
    assert needs_raw(Postprocess(smoothing=3), {"labels"}) == {"probabilities"}
    assert needs_raw(Postprocess(smoothing=3, smallest=1), {"labels", "probabilities"}) == {"raw"}


def test_smoothing_is_the_same_in_any_window_and_keeps_probabilities():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(3), (80, 90)).astype(np.float32).transpose(2, 0, 1)
    p[:, 30:50, 20:60] = 0  # not predicted
    whole = smooth(p, (1.5, 2.5))
    known = p.any(0)
    np.testing.assert_allclose(whole.sum(0)[known], 1, atol=1e-5)
    assert not whole[:, ~known].any()
    assert whole[:, known].std() < 0.5 * p[:, known].std()
    halo = radius(2.5)
    for y, x in ((20, 20), (33, 41)):
        crop = smooth(p[:, y - halo : y + 21 + halo, x - halo : x + 21 + halo], (1.5, 2.5))
        np.testing.assert_array_equal(crop[:, halo:-halo, halo:-halo], whole[:, y : y + 21, x : x + 21])


def test_smoothing_has_a_limit():
    assert deviations(2.0, (0.5, 1.0)) == (4.0, 2.0)
    with pytest.raises(MsunetError, match=r"1000 px is too wide for pixels of 1 px"):
        deviations(1000.0, (1.0, 1.0), "px")
    with pytest.raises(MsunetError, match="at most"):
        deviations(1000.0, (0.5, 0.5))


# ------------------------------------------------------------------------------------------------------------ cleaning


@given(st.integers(0, 10_000), st.sampled_from(SIDES), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=25, deadline=None)
def test_cleaning_is_that_of_the_whole_array(seed, side, smallest, holes):
    values = blobs(seed, (70, 90))
    if seed % 2:
        values[20:34, 25:60] = IGNORED
    np.testing.assert_array_equal(cleaned(values, smallest, holes, side), plainly_cleaned(values, smallest, holes))


def test_a_hole_is_neither_outside_nor_unpredicted():
    values = np.zeros((64, 64), np.uint8)
    values[8:40, 8:40] = 1
    values[15:17, 15:17] = 0  # a hole
    values[20:22, 31:33] = 0  # a hole on a window's border
    values[30:33, 30:33] = IGNORED  # not predicted
    values[30:32, 29] = 0  # beside it
    values[60:, 60:] = 2
    values[63, 63] = 0  # at the edge of the slide
    for side in (16, 32, 64):
        out = cleaned(values, 0, 20, side)
        assert (out[15:17, 15:17] == 1).all()
        assert (out[20:22, 31:33] == 1).all()
        assert not out[30:33, 29:33][:2].any()
        assert out[63, 63] == 0
        assert not cleaned(values, 0, 4, side)[15:17, 15:17].any()
    partly = cleaned(values, 0, 20, 16, done=[Window(0, 0, 64, 16)])
    assert not partly[:, 16:].any()
    assert not partly[15:17, 15].any(), "the hole goes on where nothing was predicted"


def test_pixels_under_an_area():
    assert pixels_under(10.0, 0.25) == 40
    assert pixels_under(10.1, 0.25) == 41
    assert pixels_under(0, 0.25) == 0


# ----------------------------------------------------------------------------------------------------------- instances


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=12, deadline=None)
def test_instances_are_the_same_for_any_windows(seed, boundary):
    values = blobs(seed)
    found = [instances_of(values, side, boundary=2 if boundary else 0) for side in SIDES]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    numbers, first = np.unique(found[0], return_index=True)
    assert (np.diff(first[numbers > 0]) > 0).all(), "numbered in the order of their first pixels"
    if not boundary:
        np.testing.assert_array_equal(found[0] > 0, values > 0)
        for number in numbers[1:]:
            assert len(np.unique(values[found[0] == number])) == 1


@given(st.integers(0, 10_000))
@settings(max_examples=6, deadline=None)
def test_huge_pieces_are_the_same_for_any_windows(seed):
    values = blobs(seed, (200, 230), classes=1, level=-0.3)
    before = instances.CELL, instances.HALO
    instances.CELL, instances.HALO = 64, 24
    try:
        found = [instances_of(values, side, limit=60 * 60) for side in (32, 48, 100, 1000)]
    finally:
        instances.CELL, instances.HALO = before
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    np.testing.assert_array_equal(found[0] > 0, values > 0)


def discs(centres, r: int, shape=(120, 160)) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.any([(y - a) ** 2 + (x - b) ** 2 <= r * r for a, b in centres], axis=0).astype(np.uint8)


def test_touching_discs_are_parted_and_ellipses_are_not():
    centres = [(30, 30), (30, 52), (60, 100), (78, 112), (100, 40)]
    found = instances_of(discs(centres, 12), 32)
    assert len({int(found[c]) for c in centres}) == 5 == found.max()
    y, x = np.mgrid[:80, :120]
    ellipse = ((y - 40) ** 2 / 20**2 + (x - 60) ** 2 / 50**2 <= 1).astype(np.uint8)
    assert instances_of(ellipse, 32).max() == 1
    assert instances_of(discs(centres, 12), 32, spacing=30).max() == 3


def test_a_chain_longer_than_a_cell_is_parted_as_in_one_piece():
    centres = [(40, 20 + 22 * i) for i in range(12)]
    values = discs(centres, 12, (80, 300))
    before = instances.CELL, instances.HALO
    instances.CELL, instances.HALO = 64, 32
    try:
        parted, whole = instances_of(values, 50, limit=1000), instances_of(values, 50)
    finally:
        instances.CELL, instances.HALO = before
    assert parted.max() == whole.max() == 12
    assert (parted == whole).mean() > 0.995, "but for single pixels along the necks"


def test_a_boundary_class_parts_and_is_shared_out():
    values = discs([(40, 40), (40, 64)], 14, (80, 110))
    edge = ndimage.binary_dilation(values > 0) & ~ndimage.binary_erosion(values > 0)
    edge |= (values > 0) & (np.abs(np.arange(110) - 52) <= 1)
    values[edge] = 2
    found = instances_of(values, 16, boundary=2)
    assert found.max() == 2
    np.testing.assert_array_equal(found > 0, values > 0)
    assert found[40, 40] != found[40, 64]
