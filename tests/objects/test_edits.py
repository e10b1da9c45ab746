"""Edits of objects: what each does to objects whose result is known, and properties that always hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from napari_msunet import objects
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window

few = settings(max_examples=40, deadline=None)
DTYPES = st.sampled_from(["uint8", "uint32"])


def disc(shape, centre, radius):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def pieces(mask):
    return ndimage.label(mask)[1]


@st.composite
def with_object(draw, most=4):
    """Random labels, one of its objects, and where it lies."""
    dtype = draw(DTYPES)
    height, width = draw(st.integers(3, 24)), draw(st.integers(3, 24))
    coarse = draw(arrays(dtype, (-(-height // 3), -(-width // 3)), elements=st.integers(0, most - 1)))
    labels = np.kron(coarse, np.ones((3, 3), dtype))[:height, :width]
    noise = draw(arrays(bool, labels.shape))
    labels[noise & draw(arrays(bool, labels.shape))] = 0
    y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    if labels[y, x] == 0:
        labels[y, x] = 1
    parts, _ = ndimage.label(labels == labels[y, x])
    return labels, parts == parts[y, x]


def consistent(before, edit):
    """Nothing given was changed, the dtype is the same, and the mask is what differs."""
    assert edit.values.dtype == before.dtype
    np.testing.assert_array_equal(edit.mask, edit.values != before)


@few
@given(with_object(), st.integers(0, 3))
def test_delete_and_change_class_touch_the_object_only(given_labels, value):
    labels, obj = given_labels
    before = labels.copy()
    for edit, new in ((objects.delete(labels, obj), 0), (objects.change_class(labels, obj, value), value)):
        consistent(before, edit)
        assert (edit.values[obj] == new).all()
        np.testing.assert_array_equal(edit.values[~obj], before[~obj])
    np.testing.assert_array_equal(labels, before)


@few
@given(with_object(), st.floats(0.5, 6), st.floats(0.5, 6))
def test_growing_is_the_distance_and_spares_other_objects(given_labels, ry, rx):
    labels, obj = given_labels
    edit = objects.grow(labels, obj, (ry, rx))
    consistent(labels, edit)
    far = ndimage.distance_transform_edt(~obj, sampling=(1 / ry, 1 / rx))
    np.testing.assert_array_equal(edit.mask, (labels == 0) & (far <= 1 + 1e-9))
    assert (edit.values[edit.mask] == labels[obj][0]).all()


@few
@example((np.array([[1, 1, 1, 0]] * 3, np.uint8), np.array([[True, True, True, False]] * 3)), 1.9999999999999991)
@given(with_object(), st.floats(0.5, 5))
def test_shrinking_is_the_distance_from_outside(given_labels, radius):
    labels, obj = given_labels
    edit = objects.shrink(labels, obj, radius)
    consistent(labels, edit)
    if obj.all():
        assert not edit.mask.any()
    else:
        np.testing.assert_array_equal(edit.mask, obj & (ndimage.distance_transform_edt(obj) <= radius + 1e-9))


def test_many_discs_and_the_distance_transform_agree(monkeypatch):
    rng = np.random.default_rng(0)
    labels = (ndimage.gaussian_filter(rng.normal(size=(200, 230)), 4) > 0.02).astype(np.uint8)
    obj = objects.objects_inside(labels, np.ones(labels.shape, bool)) & (labels == 1)
    by_discs = objects.grow(labels, obj, 7.3)
    monkeypatch.setattr("napari_msunet.objects.edits._DISCS", 0)
    np.testing.assert_array_equal(by_discs.values, objects.grow(labels, obj, 7.3).values)
    assert by_discs.mask.sum() > 1000


def test_a_length_in_um_is_a_radius_in_pixels():
    assert objects.radius_in_pixels(2, (0.5, 0.25)) == (4, 8)
    assert objects.radius_in_pixels(2, None) == (2, 2)


@few
@given(with_object(), st.integers(1, 4))
def test_smoothing_is_the_majority_of_a_square(given_labels, radius):
    labels, obj = given_labels
    side = 2 * radius + 1
    counts = ndimage.convolve(obj.astype(int), np.ones((side, side), int), mode="constant")
    wanted = counts > side * side / 2
    if not wanted.any():
        with pytest.raises(StoreError, match="nothing of this object would be left"):
            objects.smooth(labels, obj, radius)
        return
    edit = objects.smooth(labels, obj, radius)
    consistent(labels, edit)
    expected = np.where(obj & ~wanted, 0, np.where(wanted & (labels == 0), labels[obj][0], labels))
    np.testing.assert_array_equal(edit.values, expected)


@few
@given(with_object())
def test_holes_are_what_cannot_reach_the_outside(given_labels):
    labels, obj = given_labels
    edit = objects.fill_holes(labels, obj)
    consistent(labels, edit)
    np.testing.assert_array_equal(edit.mask, ndimage.binary_fill_holes(obj, np.ones((3, 3))) & ~obj & (labels == 0))
    again = objects.fill_holes(edit.values, obj | edit.mask)
    assert not again.mask.any()


@few
@given(with_object(), st.lists(st.tuples(st.integers(-3, 27), st.integers(-3, 27)), min_size=2, max_size=4), st.data())
def test_splitting_loses_nothing_and_leaves_pieces_apart(given_labels, points, data):
    labels, obj = given_labels
    path = objects.line(labels.shape, np.array(points) + 0.5)
    count = pieces(obj & ~path)
    if count < 2:
        with pytest.raises(StoreError, match="does not cut"):
            objects.split(labels, obj, path, range(100, 200))
        return
    edit = objects.split(labels, obj, path, range(100, 200))
    consistent(labels, edit)
    assert not edit.mask[~obj].any()
    if labels.dtype == np.uint8:
        np.testing.assert_array_equal(edit.mask, obj & path)
    else:
        kept = edit.values[obj]
        assert (kept > 0).all()  # no pixel is lost
        assert len(np.unique(kept)) == count
        old = np.unique(labels[obj])[0]
        assert old in kept


def test_a_split_needs_numbers():
    labels = np.zeros((9, 20), np.uint32)
    labels[2:7, 2:18] = 5
    path = objects.line(labels.shape, [(0.5, 8.5), (8.5, 8.5)])
    with pytest.raises(StoreError, match="2 pieces need 1 new numbers; 0 were given"):
        objects.split(labels, labels == 5, path)
    edit = objects.split(labels, labels == 5, path, [9])
    assert (edit.values == 9).sum() < (edit.values == 5).sum()  # the largest keeps its number


@few
@given(st.integers(0, 2**32 - 1))
def test_a_line_cuts_through_whatever_its_direction(seed):
    rng = np.random.default_rng(seed)
    ends = rng.uniform(-10, 50, (2, 2))
    ends[0, 1], ends[1, 1] = -5, 45  # from the left of the window to its right
    ends[:, 0] = rng.uniform(1, 38, 2)
    path = objects.line((40, 40), ends)
    assert pieces(~path) >= 2


@few
@given(arrays("uint8", (12, 15), elements=st.sampled_from([0, 1, 2, 255])), arrays(bool, (12, 15)))
def test_inside_a_lasso_are_objects_by_more_than_half(labels, lasso):
    found = objects.objects_inside(labels, lasso)
    for value in (1, 2):
        parts, count = ndimage.label(labels == value)
        for number in range(1, count + 1):
            one = parts == number
            inside = lasso[one].mean() > 0.5
            assert (found[one] == inside).all()
    assert not found[(labels == 0) | (labels == 255)].any()
    edit = objects.change_class_inside(labels, lasso, 2)
    consistent(labels, edit)
    np.testing.assert_array_equal(edit.values, np.where(found, 2, labels))


@few
@given(st.integers(0, 2**32 - 1), st.integers(3, 12))
def test_inside_a_polygon_are_the_pixels_whose_middle_is(seed, corners):
    import shapely

    points = np.random.default_rng(seed).uniform(-5, 35, (corners, 2))
    star = points[np.argsort(np.arctan2(*(points - points.mean(0)).T))]  # does not cross itself
    y, x = np.mgrid[:25, :30] + 0.5
    expected = shapely.contains_xy(shapely.Polygon(star), y.ravel(), x.ravel()).reshape(25, 30)
    np.testing.assert_array_equal(objects.inside_polygon((25, 30), star), expected)


def two_discs(dtype, gap):
    labels = np.zeros((60, 120), dtype)
    labels[disc(labels.shape, (30, 30), 18)] = 1
    labels[disc(labels.shape, (30, 30 + 37 + gap), 18)] = 1 if dtype == "uint8" else 2
    return labels


@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
def test_merging_makes_one_object(dtype):
    labels = two_discs(dtype, 6)
    edit = objects.merge(labels, [(30.5, 5.5), (30.5, 100.5)])  # it begins outside the first
    consistent(labels, edit)
    assert pieces(edit.values == 1) == 1
    assert (edit.values[labels > 0] == 1).all()
    bridge = edit.mask & (labels == 0)
    assert 0 < bridge.sum() <= 8 * 8
    assert not edit.mask[:, :11].any()  # no bridge where the line sticks out
    with pytest.raises(StoreError, match="fewer than two"):
        objects.merge(labels, [(30.5, 20.5), (30.5, 40.5)])


@few
@given(st.integers(0, 2**31), DTYPES)
def test_merging_any_objects_gives_one(seed, dtype):
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (5, 6)), np.ones((7, 7))).astype(dtype)
    points = rng.uniform(0, 35, (3, 2))
    path = objects.line(labels.shape, points)
    touched = np.zeros(labels.shape, bool)
    for value in (1, 2):
        parts, _ = ndimage.label(labels == value)
        touched |= np.isin(parts, np.unique(parts[path & (parts > 0)]))
    try:
        edit = objects.merge(labels, points)
    except StoreError:
        assert pieces(touched & (labels == 1)) + pieces(touched & (labels == 2)) < 2
        return
    consistent(labels, edit)
    one = touched | edit.mask
    assert len(np.unique(edit.values[one])) == 1
    others = (labels > 0) & ~touched
    if (ndimage.binary_dilation(path, np.ones((3, 3))) & others).any():
        return  # a third object may stand in the way of the bridge, and is never painted over
    assert len(np.unique(ndimage.label(edit.values == edit.values[one][0])[0][one])) == 1  # one object, connected


@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
@pytest.mark.parametrize("scale", [1, 12])
def test_a_watershed_cuts_at_the_neck(dtype, scale):
    labels = np.zeros((60 * scale, 110 * scale), dtype)
    obj = disc(labels.shape, (30 * scale, 30 * scale), 20 * scale) | disc(
        labels.shape, (30 * scale, 66 * scale), 20 * scale
    )
    labels[obj] = 1
    edit = objects.watershed(labels, obj, 12 * scale, [7])
    consistent(labels, edit)
    assert not edit.mask[~obj].any()
    if dtype == "uint8":
        assert pieces(edit.values == 1) == 2
        assert abs(np.argwhere(edit.mask)[:, 1].mean() - 48 * scale) < 2 * scale + 2
    else:
        assert (edit.values[obj] > 0).all()
        assert edit.values[30 * scale, 66 * scale] != edit.values[30 * scale, 30 * scale]
        assert abs((edit.values == 7).sum() / obj.sum() - 0.5) < 0.05
    with pytest.raises(StoreError, match="stays one piece"):
        objects.watershed(labels, obj, 80 * scale, [7])


def test_keeping_the_largest_of_each_value():
    labels = np.zeros((40, 60), np.uint8)
    labels[2:20, 2:20], labels[25:30, 5:10], labels[2:5, 30:33] = 1, 1, 2
    labels[30:34, 50:54] = 1  # outside the lasso
    lasso = np.zeros(labels.shape, bool)
    lasso[:, :45] = True
    edit = objects.keep_largest(labels, lasso)
    consistent(labels, edit)
    np.testing.assert_array_equal(np.argwhere(edit.mask).min(0), (25, 5))
    assert edit.mask.sum() == 25


@few
@given(with_object(), arrays(bool, (24, 24)))
def test_a_new_object_is_one_of_its_own_over_background(given_labels, area):
    labels, _ = given_labels
    area = area[: labels.shape[0], : labels.shape[1]]
    value = 2 if labels.dtype == np.uint8 else 77
    try:
        edit = objects.new_object(labels, area, value)
    except StoreError:
        return
    consistent(labels, edit)
    assert not edit.mask[labels > 0].any()
    if labels.dtype == np.uint8:
        old = ndimage.binary_dilation(labels == value)
        assert not (edit.mask & old).any()
    else:
        np.testing.assert_array_equal(edit.mask, area & (labels == 0))


def test_bad_input_is_one_sentence():
    labels = np.zeros((5, 5), np.uint8)
    obj = labels == 0
    for bad in (labels.astype(float), labels[0], labels.astype(np.int64)):
        with pytest.raises(StoreError, match="uint8"):
            objects.delete(bad, np.ones(np.shape(bad), bool))
    with pytest.raises(StoreError, match="mask must be bool"):
        objects.delete(labels, labels)
    with pytest.raises(StoreError, match="300 does not fit"):
        objects.change_class(labels, obj, 300)
    with pytest.raises(StoreError, match="No pixel"):
        objects.grow(labels, ~obj, 2)
    with pytest.raises(StoreError, match="above zero"):
        objects.grow(labels, obj, 0)
    with pytest.raises(StoreError, match="points"):
        objects.line((5, 5), [1, 2, 3])


def test_an_edit_is_cropped_to_what_changed():
    labels = np.zeros((50, 60), np.uint8)
    labels[10:20, 30:45] = 3
    window, values, mask = objects.delete(labels, labels == 3).cropped(Window(1000, 2000, 50, 60))
    assert window == Window(1010, 2030, 10, 15)
    assert mask.all()
    assert not values.any()
    assert objects.delete(labels, labels == 2).cropped(Window(0, 0, 50, 60)) is None
