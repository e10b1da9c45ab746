"""Where two runs of a store differ: values, levels, windows, areas."""

import numpy as np
import pytest
from review.making import add_run, make_store

from napari_msunet.geometry import Window
from napari_msunet.labels.levels import coarsen
from napari_msunet.review.differences import last_difference

SHAPE = (2048, 1536)


def maps() -> tuple[np.ndarray, np.ndarray]:
    """Before and after: class 1 in a square that moves by 100 pixels, and turns into class 2 in a corner."""
    before, after = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    before[301:700, 200:600] = 1
    after[301:700, 300:700] = 1
    after[301:400, 300:400] = 2
    return before, after


def expected(before: np.ndarray, after: np.ndarray, classes: int = 2) -> np.ndarray:
    found = np.where(after > 0, after, np.where(before > 0, before + classes, 0))
    found[before == after] = 0
    return found


@pytest.fixture
def store(tmp_path):
    made = make_store(tmp_path)
    yield made
    made.close()


def test_gained_and_lost_at_every_level(store):
    before, after = maps()
    add_run(store, "a", {"labels": before})
    add_run(store, "b", {"labels": after})
    found = last_difference(store)
    assert (found.old.key, found.new.key) == ("a", "b")
    assert len(found.levels) == 2
    for array in found.levels:
        want = expected(before, after)
        assert set(np.unique(want)) == {0, 1, 2, 3}
        assert np.array_equal(array[:, :], want)
        assert np.array_equal(array[100:700:3, 205:640], want[100:700:3, 205:640])
        before, after = coarsen(before), coarsen(after)


def test_areas_are_counted_by_class(store):
    before, after = maps()
    add_run(store, "a", {"labels": before})
    add_run(store, "b", {"labels": after})
    changes = last_difference(store).changes()
    for number, change in enumerate(changes.classes, 1):
        assert change.gained == ((after == number) & (before != number)).sum() * 0.25
        assert change.lost == ((before == number) & (after != number)).sum() * 0.25
    assert [c.name for c in changes.classes] == ["gland", "stroma"]
    assert changes.exact
    assert changes.micrometres
    assert changes.share == pytest.approx((before != after).mean())


def test_only_where_both_have_computed(store):
    before, after = maps()
    add_run(store, "a", {"labels": before})
    part = Window(512, 0, 512, 1536)
    add_run(store, "b", {"labels": after}, part=part)
    found = last_difference(store)
    want = expected(before, after)
    want[:512] = want[1024:] = 0
    assert np.array_equal(found.levels[0][:, :], want)
    assert found.changes().share == pytest.approx((want > 0).sum() / (512 * 1536))


def test_classes_are_matched_by_name(store):
    values = np.zeros(SHAPE, np.uint8)
    values[:100, :100] = 1
    add_run(store, "a", {"labels": values})
    run = store.create_run("b", {}, ("nerve", "gland"), {"labels": "uint8"})
    with run.writing():
        now = values * 2
        now[:50, 100:200] = 1
        run.write(Window(0, 0, *SHAPE), {"labels": now})
        run.finish(0, Window(0, 0, *SHAPE))
        run.complete_run()
    store.merge(run)
    found = last_difference(store)
    assert found.classes == ("nerve", "gland", "stroma")
    want = np.zeros(SHAPE, np.uint8)
    want[:50, 100:200] = 1
    assert np.array_equal(found.levels[0][:, :], want)


def test_another_model_goes_before_another_setting(store):
    values = np.zeros(SHAPE, np.uint8)
    for key, models in (("a", ["one"]), ("b", ["two"]), ("c", ["two"])):
        run = store.create_run(key, {"settings": {"models": models}}, store.classes, {"labels": "uint8"})
        with run.writing():
            run.write(Window(0, 0, *SHAPE), {"labels": values})
            run.finish(0, Window(0, 0, *SHAPE))
            run.complete_run()
        store.merge(run)
        values = values + 1 if key == "a" else values
        if key == "a":
            assert last_difference(store) is None
    found = last_difference(store)
    assert (found.old.key, found.new.key) == ("a", "c")
