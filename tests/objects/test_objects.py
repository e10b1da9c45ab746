"""Objects one by one: measured, found, kept up to date after edits, changed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from shapely.geometry import Point

import napari_msunet as ms
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.objects.table import ObjectTable, object_at, object_mask, set_objects, updated, walk_objects

SHAPE = (400, 500)
SMALL = (150, 180)


def blobs(seed=0, shape=SHAPE, classes=2):
    rng = np.random.default_rng(seed)
    values = np.zeros(shape, np.uint8)
    for value in range(1, classes + 1):
        values[ndimage.gaussian_filter(rng.normal(size=shape), 5) > 0.06] = value
    return values


def make(folder, values, name="l.ome.zarr", **options):
    store = ms.LabelStore.create(folder / name, shape=values.shape, mpp=0.5, **options)
    store.write(Window(0, 0, *values.shape), values)
    return store


@pytest.fixture
def store(tmp_path):
    with make(tmp_path, blobs(), classes=("a", "b")) as made:
        yield made


def measured(store):
    return ObjectTable.joined(part for _, part in walk_objects(store))


def rows(table):
    """All objects as comparable rows."""
    order = np.lexsort(table.first.T)
    own = table.take(order)
    columns = (own.first, own.kind[:, None], own.box, own.area[:, None], own.perimeter[:, None], own.centroid)
    return np.concatenate(columns, 1)


def test_the_table_says_what_measure_says(store, tmp_path):
    table = measured(store)
    result = ms.measure(ms.MeasureJob(labels=store.path, out=tmp_path / "o.csv"))
    assert len(table) == sum(row["objects"] for row in result.classes)
    for value, row in enumerate(result.classes, 1):
        assert table.area[table.kind == value].sum() == pytest.approx(row["area_um2"])
    assert (store.read(Window(0, 0, *SHAPE))[tuple(table.first.T)] == table.kind).all()
    assert len(np.unique(table.first, axis=0)) == len(table)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, SMALL[0] - 1),
    st.integers(0, SMALL[1] - 1),
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(0, 2),
)
def test_after_an_edit_the_table_is_as_measured_anew(tmp_path_factory, seed, y, x, height, width, value):
    folder = tmp_path_factory.mktemp("edit")
    with make(folder, blobs(seed, SMALL), classes=("a", "b")) as store:
        before = measured(store)
        window = Window(y, x, height, width)
        mask = np.random.default_rng(seed).random(window.shape) < 0.9
        store.write(window, value, mask)
        np.testing.assert_allclose(rows(updated(before, store, window)), rows(measured(store)))


def test_an_edit_over_too_much_is_said(tmp_path):
    values = np.zeros((5000, 300), np.uint8)
    values[10:4900, 100:103] = 1
    with make(tmp_path, values, classes=("a",)) as store:
        table = measured(store)
        store.write(Window(2000, 100, 5, 5), 0)
        assert updated(table, store, Window(2000, 100, 5, 5)) is None
        store.write(Window(2000, 200, 5, 5), 1)
        assert len(updated(table, store, Window(2000, 200, 5, 5))) == 2


def test_the_object_at_a_point(store):
    table = measured(store)
    for row in (0, len(table) // 2, len(table) - 1):
        y, x = table.first[row]
        found = object_at(store, int(y), int(x))
        assert found.exact
        assert found.first == (y, x)
        assert found.kind == table.kind[row]
        assert found.area == pytest.approx(table.area[row])
        assert found.perimeter == pytest.approx(table.perimeter[row])
        assert found.polygon.covers(Point(x + 0.5, y + 0.5))
    values = store.read(Window(0, 0, *SHAPE))
    y, x = np.argwhere(values == 0)[500]
    assert object_at(store, int(y), int(x)) is None
    assert object_at(store, -1, 5) is None
    assert object_at(store, *SHAPE) is None


def test_a_huge_object_is_measured_coarsely(tmp_path):
    values = np.zeros((4000, 3000), np.uint8)
    values[100:3900, 100:2900] = 1
    with make(tmp_path, values, classes=("a",)) as store:
        found = object_at(store, 2000, 1500)
        assert found.about == "about"
        assert found.area == pytest.approx(3800 * 2800 / 4, rel=0.01)
        assert found.perimeter == pytest.approx(2 * (3800 + 2800) / 2, rel=0.02)
        assert found.polygon.bounds == pytest.approx((100, 100, 2900, 3900), abs=8)


def test_a_huge_thin_object_is_said_to_be_larger_than_what_was_seen(tmp_path):
    values = np.zeros((4000, 3000), np.uint8)
    values[::40, 10:2990], values[:, 10:12] = 1, 1  # a comb that coarse levels tear
    values[::40, 500:504] = 1
    with make(tmp_path, values, classes=("a",)) as store:
        for y, x in ((2000, 1500), (2000, 11)):
            found = object_at(store, y, x)
            assert found.about == "more than"
            assert 1024 / 4 <= found.area < values.sum() / 4


def test_changing_and_deleting_are_one_step_of_undo_each(store):
    table, before = measured(store), store.read(Window(0, 0, *SHAPE))
    chosen = np.flatnonzero(table.kind == 1)[[0, 5, 9]].tolist()
    expected = before.copy()
    for row in chosen:
        box, mask = object_mask(store, table, row)
        assert mask.sum() * 0.25 == pytest.approx(table.area[row])
        expected[box.slices()][mask] = 2
    set_objects(store, table, chosen, 2)
    np.testing.assert_array_equal(store.read(Window(0, 0, *SHAPE)), expected)
    np.testing.assert_array_equal(store.read_edited(Window(0, 0, *SHAPE)).all(), True)
    with pytest.raises(StoreError, match="no longer as it was measured"):
        set_objects(store, table, chosen, 0)
    store.undo()
    np.testing.assert_array_equal(store.read(Window(0, 0, *SHAPE)), before)
    set_objects(store, table, range(len(table)), 0)
    assert not store.read(Window(0, 0, *SHAPE)).any()
    store.undo()
    np.testing.assert_array_equal(store.read(Window(0, 0, *SHAPE)), before)


def test_instances_side_by_side_are_two(tmp_path):
    values = np.zeros((300, 300), np.uint32)
    values[50:100, 50:100], values[50:100, 100:160] = 70_000, 70_001
    with make(tmp_path, values, dtype="uint32") as store:
        table = measured(store)
        assert sorted(table.kind.tolist()) == [70_000, 70_001]
        assert sorted(table.area.tolist()) == [50 * 50 / 4, 50 * 60 / 4]
        assert object_at(store, 60, 120).kind == 70_001
        set_objects(store, table, [table.kind.tolist().index(70_000)], 0)
        assert np.unique(store.read(Window(0, 0, 300, 300))).tolist() == [0, 70_001]


def test_background_of_an_annotation_is_no_object(tmp_path):
    values = np.zeros((300, 300), np.uint8)
    values[10:50, 10:50], values[100:200, 100:200] = 1, 255
    with make(tmp_path, values, classes=("a",), kind="annotation") as store:
        assert measured(store).kind.tolist() == [1]
        assert object_at(store, 150, 150) is None
