"""Strokes in memory and on their way to the store: what is shown, in which order, and that nobody waits."""

from __future__ import annotations

import resource
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.layers import Labels
from napari.utils.notifications import notification_manager
from scipy.ndimage import binary_dilation, binary_erosion
from widgets import mouse

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels import LabelStore, open_labels, session
from napari_msunet.labels.levels import coarsen
from napari_msunet.widgets import brush
from napari_msunet.widgets.brush import Disc
from napari_msunet.widgets.paint import PyramidLabels, add_labels, lifetime
from napari_msunet.widgets.paint.canvas import Canvas
from napari_msunet.widgets.paint.stroke import Stroke

SHAPE = (3001, 2507)
WHOLE = Window(0, 0, *SHAPE)


@pytest.fixture
def store(tmp_path):
    store = LabelStore.create(tmp_path / "a.ome.zarr", SHAPE, 0.5, ("gland", "tumour", "stroma"))
    yield store
    store.close()


@pytest.fixture
def said():
    """The notifications since the test began."""
    start = len(notification_manager.records)
    return lambda: [str(record.message) for record in notification_manager.records[start:]]


def slowed(store, monkeypatch, seconds):
    """A disk that takes its time."""
    write = store.write_parts
    threads = []

    def slow(parts):
        threads.append(threading.current_thread())
        time.sleep(seconds)
        return write(parts)

    monkeypatch.setattr(store, "write_parts", slow)
    return threads


def levels_of(values, count):
    found = [values]
    for _ in range(count - 1):
        found.append(coarsen(found[-1]))
    return found


DABS = st.lists(
    st.tuples(
        st.integers(-300, 1200),
        st.integers(-300, 1100),
        st.sampled_from((3, 41, 500, 1500)),
        st.integers(0, 3),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25, deadline=None)
@given(DABS)
def test_a_stroke_is_what_was_painted_at_any_place(dabs):
    shape = (1003, 901)
    whole = Window(0, 0, *shape)
    stroke, values, painted = Stroke(shape, np.dtype(np.uint8)), np.zeros(shape, np.uint8), np.zeros(shape, bool)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for y, x, size, label, round_ in dabs:
        inside = (
            (rows - y) ** 2 + (columns - x) ** 2 <= (size // 2 + 0.5) ** 2
            if round_
            else (rows >= y) & (rows < y + size) & (columns >= x) & (columns < x + size)
        )
        shape_ = Disc((y, x), size // 2 + 0.5, (1.0, 1.0), whole) if round_ else None
        stroke.paint(shape_.window if shape_ else Window(y, x, size, size), label, shape_)
        values[inside], painted[inside] = label, True
    out = np.full(shape, 9, np.uint8)
    stroke.lay_over(whole, out)
    np.testing.assert_array_equal(out, np.where(painted, values, 9))
    stored, count = np.full(shape, 9, np.uint8), np.zeros(shape, int)
    for window, part, mask in stroke.parts():
        np.copyto(stored[window.slices()], part, where=True if mask is None else mask)
        count[window.slices()] += 1
    np.testing.assert_array_equal(stored, out)
    assert count.max(initial=0) <= 1


def test_a_dab_that_paints_nothing_leaves_the_stroke_empty():
    stroke = Stroke((100, 100), np.dtype(np.uint8))
    stroke.paint(Window(10, 10, 20, 20), 1, np.zeros((20, 20), bool))
    stroke.paint(Window(200, 10, 20, 20), 1)
    beyond = np.zeros((20, 20), bool)
    beyond[15:] = True
    stroke.paint(Window(90, 10, 20, 20), 1, beyond)
    stroke.paint(Window(500, 500, 901, 901), 1, Disc((950, 950), 450.5, (1.0, 1.0), Window(0, 0, 2000, 2000)))
    assert stroke.empty
    assert list(stroke.parts()) == []
    stroke.paint(Window(98, 98, 4, 4), 2)
    assert stroke.window == Window(98, 98, 2, 2)


def test_what_waits_and_what_is_painted_show_at_every_level(store):
    rng = np.random.default_rng(0)
    content = np.kron(rng.integers(0, 4, (31, 26)), np.ones((100, 100))).astype(np.uint8)[: SHAPE[0], : SHAPE[1]]
    store.write(WHOLE, content)
    canvas = Canvas(store)
    for stroke, (y, x, size, label) in ((canvas.stroke, (900, 800, 1500, 2)), (canvas.stroke, (2900, 2400, 700, 0))):
        disc = Disc((y, x), size // 2 + 0.5, (1.0, 1.0), WHOLE)
        stroke.paint(disc.window, label, disc)
    canvas.stroke.paint(Window(40, 60, 33, 500), rng.integers(0, 4, (33, 500)).astype(np.uint8))
    expected = content.copy()
    canvas.stroke.lay_over(WHOLE, expected)
    levels = levels_of(expected, len(canvas.shapes))
    for level, values in enumerate(levels):
        np.testing.assert_array_equal(canvas.read(level, Window(0, 0, *values.shape)), values)
    quick = canvas.read(1, Window(0, 0, *levels[1].shape), quick=True)
    np.testing.assert_array_equal(quick, levels[1])


def test_samples_of_a_huge_brush_are_near_and_then_right(make_napari_viewer, tmp_path):
    viewer = make_napari_viewer(show=True)
    with LabelStore.create(tmp_path / "b.ome.zarr", (40_000, 40_000), 0.25, ("gland",)) as store:
        layer = add_labels(viewer, store)
        layer.brush_size = 5000
        mouse.look_at(viewer, (5000, 5000), 0.03)
        level = layer.data_level
        assert level >= 5
        with layer.block_history():
            layer.paint((20_000, 20_000), 1)
            shown = layer._slice.image.raw.copy()
            _, area = layer._shown()
            right = layer.read_level(level, area)
        assert 0 < (shown != right).sum() <= 0.02 * right.sum()
        np.testing.assert_array_equal(layer._slice.image.raw, right)
        viewer.layers.clear()


def test_a_brush_larger_than_a_mask_may_be_is_napari_s(store):
    theirs, ours = Labels(np.zeros(SHAPE, np.uint8), scale=(1, 2)), PyramidLabels(store, scale=(1, 2))
    for layer in (theirs, ours):
        layer.brush_size = brush.LARGE + 101
        layer.paint((1000, 1200), 1)
        layer.paint((3000, -100), 2)
    np.testing.assert_array_equal(store.read(WHOLE), theirs.data)


@pytest.mark.parametrize("level", [1, 3, 5])
def test_a_dab_at_a_coarser_level_is_about_what_its_pixels_vote(level):
    y, x = np.ogrid[-90:91, -90:91]
    window, mask = Window(1001, 703, 181, 181), y**2 + x**2 <= 90.5**2
    voted = np.zeros((2048, 1024), np.uint8)
    voted[window.slices((0, 0))] = mask
    for _ in range(level):
        voted = coarsen(voted)
    place, dab = brush.coarser(window, mask, level, 1)
    drawn = np.zeros(voted.shape, bool)
    drawn[place.slices((0, 0))] = dab
    rim = binary_dilation(voted > 0) & ~binary_erosion(voted > 0)
    assert drawn.any()
    assert not ((drawn != voted) & ~rim).any()
    assert (brush.coarser(window, mask, level, 0)[1] <= dab).all()
    assert not brush.spans(np.ones((1, 500), bool), level)


def test_the_mouse_does_not_wait_for_the_disk(make_napari_viewer, store, monkeypatch):
    viewer = make_napari_viewer(show=True)
    layer = add_labels(viewer, store)
    threads = slowed(store, monkeypatch, 0.6)
    layer.mode, layer.brush_size = "paint", 61
    told = []
    layer.events.stroke.connect(lambda event: told.append(event.number))
    mouse.look_at(viewer, (750.0, 600.0), 0.3)
    for label, y in ((1, 700.0), (2, 710.0)):
        layer.selected_label = label
        mouse.move(viewer, (y, 500.0), mouse.NONE)
        mouse.press(viewer, (y, 500.0))
        mouse.move(viewer, (y, 600.0))
        start = time.perf_counter()
        mouse.release(viewer, (y, 600.0))
        assert time.perf_counter() - start < 0.4
    assert not store.read(WHOLE).any()
    level, area = layer._shown()
    shown = layer._slice.image.raw.copy()
    assert shown.any()
    assert (shown != layer.read_level(level, area)).sum() <= 0.01 * shown.astype(bool).sum()  # the rim, until then
    layer.undo(0)  # goes behind the strokes that wait
    store.flush()  # waits for all of them
    assert threads
    assert threading.main_thread() not in threads
    assert store.read(Window(1400, 1100, 1, 1))[0, 0] == 1
    assert not (store.read(WHOLE) == 2).any()
    mouse.settle()
    assert told == [1, 2, 0]
    np.testing.assert_array_equal(layer._slice.image.raw, layer.read_level(level, area))
    viewer.layers.clear()


def test_a_layer_deleted_while_its_stroke_is_on_the_way(make_napari_viewer, store, monkeypatch):
    viewer = make_napari_viewer(show=True)
    layer = add_labels(viewer, store)
    slowed(store, monkeypatch, 0.3)
    layer.mode, layer.brush_size = "paint", 61
    mouse.look_at(viewer, (750.0, 600.0), 0.3)
    mouse.drag(viewer, [(700.0, 500.0), (700.0, 600.0)])
    mouse.press(viewer, (800.0, 500.0))
    mouse.move(viewer, (800.0, 520.0))
    mouse.settle()
    viewer.layers.remove(layer)
    path = store.path
    store.close()
    with open_labels(path) as again:
        assert again.read(Window(1400, 1100, 1, 1))[0, 0] == again.read(Window(1600, 1010, 1, 1))[0, 0] == 1


@contextmanager
def no_larger_files(size):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_disk_that_refuses_while_painting(store, said, monkeypatch):
    monkeypatch.setattr(session, "SYNC_SECONDS", 0.02)
    monkeypatch.setattr(session, "RETRY_SECONDS", 0.05)
    layer = PyramidLabels(store)
    layer.brush_size = 61
    layer.paint((500, 500), 1)
    store.flush()
    with no_larger_files((store.path / "journal" / "00000001.log").stat().st_size + 20):
        layer.paint((900, 900), 2)
        layer.paint((1200, 900), 2)
        assert store.unsaved == 2
        assert store.read(Window(900, 900, 1, 1))[0, 0] == 2
        assert [text.split(":")[0] for text in said()] == ["NOT SAVED"]
    deadline = time.monotonic() + 10
    while store.unsaved or len(said()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        layer.wait()
    assert said()[1:] == ["What was painted is saved now."]
    path = store.path
    store.close()
    with open_labels(path) as again:
        assert again.read(Window(1200, 900, 1, 1))[0, 0] == 2


def test_a_chunk_that_does_not_decode_is_framed(make_napari_viewer, store, said):
    store.write(Window(0, 0, 1600, 1600), np.random.default_rng(0).integers(0, 4, (1600, 1600)).astype(np.uint8))
    path = store.path
    store.close()
    chunk = next(file for file in sorted((path / "0").rglob("*")) if file.is_file() and file.name != "zarr.json")
    chunk.write_bytes(b"nothing that decodes")
    viewer = make_napari_viewer()
    layer = add_labels(viewer, path)
    layer.store.read(WHOLE)
    lifetime.look(viewer.layers, [layer])
    lifetime.look(viewer.layers, [layer])
    marks = viewer.layers[f"{layer.name}: damaged"]
    assert len(marks.data) == 1
    assert [text for text in said() if chunk.name in text and "red frame" in text]
    layer.paint((1500, 1500), 2)
    assert layer.store.read(Window(1500, 1500, 1, 1))[0, 0] == 2
    viewer.layers.clear()
    layer.store.close()


def test_painting_over_one_class_only(store, said):
    store.write(Window(0, 0, 500, 1000), 1)
    store.write(Window(500, 0, 500, 1000), 2)
    before = store.read(WHOLE)
    layer = PyramidLabels(store)
    layer.paint_over = 2
    for size, centre in ((101, (500, 300)), (brush.LARGE + 1, (500, 700))):
        layer.brush_size = size
        layer.paint(centre, 3)
    after = store.read(WHOLE)
    assert set(np.unique(before[before != after])) == {2}
    np.testing.assert_array_equal(store.read_edited(Window(1000, 0, 2001, 2507)), False)
    layer.fill((100, 100), 3)
    np.testing.assert_array_equal(store.read(WHOLE), after)
    layer.paint_over = 9
    assert layer.paint_over == 2
    assert "9 is no class" in said()[0]
    layer.paint_over = None
    layer.fill((100, 100), 3)
    assert store.read(Window(100, 100, 1, 1))[0, 0] == 3


def test_a_fill_with_the_mouse_stays_in_view(make_napari_viewer, store, said):
    viewer = make_napari_viewer(show=True)
    layer = add_labels(viewer, store)
    for label, window in ((1, Window(800, 800, 1200, 1200)), (2, Window(1000, 1000, 200, 200))):
        store.write(window, label)
    layer.refresh_window(WHOLE)
    layer.mode, layer.selected_label = "fill", 3
    mouse.look_at(viewer, (550.0, 550.0), 3.0)
    mouse.click(viewer, (530.0, 530.0))
    layer.wait()
    assert (store.read(WHOLE) == 3).sum() == 200 * 200
    mouse.look_at(viewer, (450.0, 450.0), 3.0)
    mouse.click(viewer, (450.0, 450.0))
    layer.wait()
    assert (store.read(WHOLE) == 3).sum() == 200 * 200
    assert [text for text in said() if "beyond what is in view" in text]
    mouse.look_at(viewer, (700.0, 700.0), 0.4)
    mouse.click(viewer, (450.0, 450.0))
    layer.wait()
    assert (store.read(WHOLE) == 3).sum() == 1200 * 1200
    level, area = layer._shown()
    np.testing.assert_array_equal(layer._slice.image.raw, layer.read_level(level, area))
    layer.undo()
    assert (store.read(WHOLE) == 3).sum() == 200 * 200
    viewer.layers.clear()


def test_the_brush_in_pixels_of_the_screen_and_in_um(make_napari_viewer, tmp_path, store):
    viewer = make_napari_viewer(show=True)
    layer = add_labels(viewer, store)
    mouse.look_at(viewer, (750, 600), 0.5)  # screen pixels per µm, and 0.5 µm a pixel
    layer.brush_size = 40
    layer.brush_in = "screen"
    assert layer.brush_width == pytest.approx(10)
    mouse.look_at(viewer, (750, 600), 0.05)
    assert (layer.brush_size, layer.brush_width) == (400, pytest.approx(10))
    mouse.look_at(viewer, (750, 600), 3.0)
    assert layer.brush_size == 7
    mouse.look_at(viewer, (750, 600), 0.5)
    assert layer.brush_size == 40
    layer.brush_size = 80
    assert layer.brush_width == pytest.approx(20)
    layer.brush_in = "um"
    assert layer.brush_width == pytest.approx(40)
    layer.brush_width = 10
    mouse.look_at(viewer, (750, 600), 0.05)
    assert layer.brush_size == 20
    with pytest.raises(StoreError, match="not 'cm'"):
        layer.brush_in = "cm"
    viewer.layers.clear()
    with LabelStore.create(tmp_path / "c.ome.zarr", SHAPE, classes=("gland",)) as bare:
        layer = PyramidLabels(bare)
        with pytest.raises(StoreError, match="no µm per pixel"):
            layer.brush_in = "um"


def test_a_brush_beyond_the_limit_says_so_once_a_stroke(make_napari_viewer, store, said):
    viewer = make_napari_viewer(show=True)
    layer = add_labels(viewer, store)
    layer.mode, layer.brush_size = "paint", brush.LARGEST_BRUSH + 1
    mouse.look_at(viewer, (750.0, 600.0), 0.3)
    mouse.drag(viewer, [(700.0, 500.0), (700.0, 600.0), (720.0, 640.0)])
    assert len([text for text in said() if "wide" in text]) == 1
    assert not store.read(WHOLE).any()
    viewer.layers.clear()


def test_objects_get_fresh_numbers_with_the_key_m(make_napari_viewer, tmp_path, qtbot, said):
    from qtpy.QtCore import Qt

    viewer = make_napari_viewer(show=True)
    with LabelStore.create(tmp_path / "d.ome.zarr", SHAPE, 0.5, dtype="uint32") as store:
        store.write(Window(0, 0, 10, 10), 70_000)
        layer = add_labels(viewer, store)
        viewer.layers.selection.active = layer
        widget = mouse.canvas(viewer)
        widget.setFocus()
        numbers = []
        for _ in range(2):
            qtbot.keyClick(widget, Qt.Key.Key_M)
            numbers.append(layer.selected_label)
            layer.paint((1000 + 300 * len(numbers), 1000), layer.selected_label)
        assert numbers == [70_001, 70_002]
        assert store.read(Window(1300, 1000, 1, 1))[0, 0] == 70_001
        assert (layer.get_color(70_001) != layer.get_color(70_002)).any()  # napari's cyclic colours
        layer.selected_label = 2**32
        assert layer.selected_label == 70_002
        assert "no number of an object" in said()[-1]
        viewer.layers.clear()


def test_what_is_no_store_of_this_slide_is_refused(make_napari_viewer, store):
    viewer = make_napari_viewer()
    with pytest.raises(StoreError, match="not an array of float64"):
        add_labels(viewer, np.zeros(SHAPE))
    slide = viewer.add_image(np.zeros((300, 200, 3), np.uint8), name="small")
    with pytest.raises(StoreError, match="'small' has 300 x 200"):
        add_labels(viewer, store, slide)
    assert list(viewer.layers) == [slide]


def test_the_picture_in_the_layer_list_follows_a_moment_later(make_napari_viewer, store, qtbot):
    layer = add_labels(make_napari_viewer(show=True), store)
    before = layer.thumbnail.copy()
    layer.selected_label, layer.brush_size = 2, 900
    layer.paint((1500, 1200), 2)
    layer.end_stroke()
    qtbot.waitUntil(lambda: not np.array_equal(layer.thumbnail, before), timeout=5000)
    layer.undo()
    layer.redo()
    layer.undo()
    qtbot.waitUntil(lambda: np.array_equal(layer.thumbnail, before), timeout=5000)
    layer.redo()
    store.close()  # before it is drawn: nothing is raised
    qtbot.wait(400)


def test_labels_of_another_slide_of_the_same_size(make_napari_viewer, tmp_path):
    """Labels open beside their own slide only, which is known by its pixels."""
    from napari_msunet.slide import slide_from_array

    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 255, (80, 90, 3), dtype=np.uint8) for _ in range(2))
    viewer = make_napari_viewer(show=False)
    own, wrong = viewer.add_image(one, name="one"), viewer.add_image(other, name="other")
    store = LabelStore.create(tmp_path / "a.ome.zarr", classes=("a",), slide=slide_from_array(one, mpp=0.5))
    with pytest.raises(StoreError, match="their pixels differ; open the labels of this slide"):
        add_labels(viewer, store, wrong)
    assert add_labels(viewer, store, own) in viewer.layers
