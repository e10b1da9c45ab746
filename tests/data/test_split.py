"""Splits: by role, by group, by image, and blocks of one slide."""

import numpy as np
import pytest
from data.making import array_item
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_msunet.constants import IGNORED
from napari_msunet.data import split
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


# -------------------------------------------------------------------------------------------- three sides, and folds


def striped(group, *pixels, role="auto"):
    """An image with so many pixels of classes 1, 2, ..."""
    values = np.zeros(400, np.uint8)
    values[: sum(pixels)] = np.repeat(np.arange(1, len(pixels) + 1), pixels)
    return array_item(values.reshape(20, 20), f"{group}{pixels}", group=group, role=role)


def test_seventy_twenty_ten():
    train, validate, test, messages = split(items([f"p{n % 20}" for n in range(60)]), 0.1, 0, test=0.2)
    assert [len({i.group for i in side}) for side in (train, validate, test)] == [14, 2, 4]
    assert not {i.group for i in train} & {i.group for i in test}
    assert not messages


def test_each_side_has_its_share_of_every_class():
    rng = np.random.default_rng(0)
    # One patient in four has the rare class; images differ much in how many pixels they hold.
    given = [striped(f"p{n}", int(rng.integers(1, 300)), 40 if n % 4 == 0 else 0) for n in range(40)]
    for seed in range(4):
        sides = split(given, 0.1, seed, test=0.2)[:3]
        total = sum(i.content for i in given)
        for side, share in zip(sides, (0.7, 0.1, 0.2), strict=True):
            found = sum(i.content for i in side) / np.maximum(total, 1)
            assert found[1] == pytest.approx(share, abs=0.06)
            assert found[2] == pytest.approx(share, abs=0.06)


def test_a_class_of_one_group_trains():
    for seed in range(5):
        given = [striped("rare", 5, 20), *(striped(f"p{n}", 20) for n in range(9))]
        train, _, _, _ = split(given, 0.2, seed, test=0.2)
        assert "rare" in {i.group for i in train}


def test_too_few_groups_for_a_test_side():
    sides = split(items("ab"), 0.3, 0, test=0.3)
    assert (len(sides.train), len(sides.validate), len(sides.test)) == (1, 1, 0)
    assert any("too few for a test side" in m.text for m in sides.messages)


def test_folds_validate_everything_once():
    given = [striped(f"p{n // 2}", 10 + n, 3) for n in range(24)]
    seen = []
    for number in range(1, 6):
        sides = split(given, 0.2, 3, fold=(number, 5))
        seen += [i.name for i in sides.validate]
        assert not {i.group for i in sides.train} & {i.group for i in sides.validate}
        assert len({i.group for i in sides.validate}) in (2, 3)
        assert (sum(i.content for i in sides.validate)[1:3] > 0).all()
    assert sorted(seen) == sorted(i.name for i in given)


def test_roles_in_folds():
    given = [striped(f"p{n}", 10) for n in range(6)]
    given += [striped("t", 10, role="test"), striped("a", 10, role="train"), striped("v", 10, role="validate")]
    sides = [split(given, 0.2, 0, fold=(n, 3)) for n in (1, 2, 3)]
    assert all([i.group for i in s.test] == ["t"] for s in sides)
    assert all("a" in {i.group for i in s.train} for s in sides)
    assert sum("v" in {i.group for i in s.validate} for s in sides) == 1


def test_one_image_is_cut_into_strips():
    values = np.random.default_rng(0).integers(0, 3, (300, 500)).astype(np.uint8)
    given = [array_item(values, "a", group="a")]
    known = np.zeros(3)
    for number in (1, 2, 3):
        sides = split(given, 0.2, 0, fold=(number, 3))
        (trains,), (validates,) = sides.train, sides.validate
        assert validates.group == f"a, strip {number}"
        known += (np.arange(3) == number - 1) * validates.content.sum()
        both = [i.truth_on_target(i.grid.whole) != 255 for i in (trains, validates)]
        assert not (both[0] & both[1]).any()
        gap = np.abs(np.argwhere(both[0].any(1)) - np.argwhere(both[1].any(1)).T).min()
        gap = max(gap, np.abs(np.argwhere(both[0].any(0)) - np.argwhere(both[1].any(0)).T).min())
        assert gap > 60
        assert (validates.content > 0).sum() == (given[0].content > 0).sum()
    assert known.max() < 1.2 * known.min()


def test_what_cannot_be_cut_into_folds():
    with pytest.raises(SourceError, match="alone cannot be cut into 3 folds"):
        split([striped("a", 3)], 0.2, 0, fold=(1, 3))
    with pytest.raises(SourceError, match="2 groups cannot be cut into 3 folds"):
        split([striped(g, 3) for g in "aabb"], 0.2, 0, fold=(1, 3))
    given = [striped(f"p{n}", 10, 0, 5 if n < 2 else 0) for n in range(9)]
    with pytest.raises(SourceError, match=r"no pixel of class 3, which only 2 of the 9 groups have"):
        split(given, 0.2, 0, fold=(1, 3))
    with pytest.raises(SourceError, match="no pixel of vessel"):
        split(given, 0.2, 0, fold=(1, 3), classes=("gland", "stroma", "vessel"))
