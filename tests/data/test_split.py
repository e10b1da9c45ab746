"""Splits: by role, by group, by image, and blocks of one slide."""

import numpy as np
import pytest
from data.making import array_item
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_msunet.data import IGNORED, split
from napari_msunet.errors import SourceError

PIXEL = np.zeros((4, 4), np.uint8)


def items(groups, roles=None):
    roles = roles or ["auto"] * len(groups)
    return [array_item(PIXEL, f"i{n}", group=g, role=r) for n, (g, r) in enumerate(zip(groups, roles, strict=True))]


@settings(max_examples=30, deadline=None)
@given(groups=st.lists(st.sampled_from("abcdef"), min_size=2, max_size=20), seed=st.integers(0, 9))
def test_no_group_on_both_sides(groups, seed):
    train, validate, test, _ = split(items(groups), 0.3, seed)
    assert not {i.group for i in train} & {i.group for i in validate}
    assert len(train) + len(validate) == len(groups)
    assert not test
    if len(set(groups)) > 1:
        wanted = max(1, round(0.3 * len(set(groups))))
        assert len({i.group for i in validate}) == min(wanted, len(set(groups)) - 1)


def test_the_seed_decides():
    names = [[i.name for i in split(items("abcdefghij"), 0.2, seed).validate] for seed in (0, 0, 1, 2, 3)]
    assert names[0] == names[1]
    assert any(n != names[0] for n in names[2:])


def test_without_groups_by_image_with_a_warning():
    train, validate, _, messages = split(items([None] * 10), 0.2, 0)
    assert (len(train), len(validate)) == (8, 2)
    assert any(m.level == "warning" and "by image" in m.text for m in messages)
    assert not split(items("aabbccdd"), 0.25, 0).messages


def test_roles_are_kept():
    roles = ["train", "validate", "test", "auto", "auto", "auto"]
    sides = split(items(["a", "b", "c", "a", "b", "d"], roles), 0.5, 0)
    # An image without a role goes where its group is.
    assert {i.name for i in sides.train} == {"i0", "i3", "i5"}
    assert {i.name for i in sides.validate} == {"i1", "i4"}
    assert {i.name for i in sides.test} == {"i2"}


def test_a_group_with_two_roles():
    with pytest.raises(SourceError, match="group a"):
        split(items(["a", "a"], ["train", "validate"]), 0.2, 0)


def test_nothing_to_train_on():
    with pytest.raises(SourceError, match="train on"):
        split(items(["a"], ["test"]), 0.2, 0)


def test_no_validation_is_said():
    for groups, share in (("ab", 0.0), ("aa", 0.5)):
        train, validate, _, messages = split(items(groups), share, 0)
        assert (len(train), len(validate)) == (2, 0)
        assert any("no validation" in m.text for m in messages)


def test_one_slide_is_cut_into_blocks():
    rng = np.random.default_rng(0)
    truth = np.full((600, 800), IGNORED, np.uint8)
    for _ in range(60):
        y, x = rng.integers(0, 580), rng.integers(0, 780)
        truth[y : y + 20, x : x + 20] = rng.integers(0, 3)
    train, validate, _, messages = split([array_item(truth)], 0.25, 0)
    assert any("one image" in m.text for m in messages)
    a, b = (side[0].truth.read(side[0].truth.grid.whole) for side in (train, validate))
    known = truth != IGNORED
    for values in (a, b):
        np.testing.assert_array_equal(values[values != IGNORED], truth[values != IGNORED])
        assert set(np.unique(values)) == {0, 1, 2, IGNORED}
    assert 0.1 < (b != IGNORED).sum() / known.sum() < 0.45
    # A margin apart: no training pixel is within 64 target pixels of a validation pixel.
    from scipy.ndimage import distance_transform_cdt

    assert distance_transform_cdt(b == IGNORED)[a != IGNORED].min() > 60


def test_one_slide_that_cannot_be_cut():
    truth = np.full((600, 800), IGNORED, np.uint8)
    truth[:300] = 0
    truth[10:20, 10:20] = 1
    train, validate, _, messages = split([array_item(truth)], 0.25, 0)
    assert (len(train), len(validate)) == (1, 0)
    assert any("cannot be cut" in m.text for m in messages)


def test_two_truths_of_one_slide_are_cut_at_the_same_place():
    """An annotation, and corrections of its prediction: without that, training on corrections would not validate."""
    annotation = np.full((300, 400), IGNORED, np.uint8)
    annotation[20:280:20, 20:380] = 0
    annotation[30:280:20, 20:380] = 1
    corrections = np.full((300, 400), IGNORED, np.uint8)
    corrections[5:9, 350:354] = 1
    items = [array_item(values, name="slide", group="slide") for values in (annotation, corrections)]
    sides = split(items, 0.2, 0)
    assert sides.validate
    assert all(bool((item.truth.overview()[0] != IGNORED).any()) for item in (*sides.train, *sides.validate))
    places = [
        {(int(y), int(x)) for item in side for c in item.places.values() for y, x in c}
        for side in (sides.train, sides.validate)
    ]
    assert not places[0] & places[1]
    assert (6, 351) in places[0] | places[1]
