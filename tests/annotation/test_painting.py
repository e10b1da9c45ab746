"""Drawn shapes as pixels: the same in every window, holes cut out, small ones not missed, into a store and back."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Point, Polygon, box
from skimage.draw import polygon2mask

from napari_msunet.annotation import DrawnShape, import_shapes
from napari_msunet.annotation.painting import ShapePainter, class_numbers
from napari_msunet.errors import ShapeFileError
from napari_msunet.geometry import Window
from napari_msunet.objects.polygons import label_polygons

WHOLE = Window(0, 0, 60, 80)


def star(y, x, radius, corners=9):
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    r = radius * (0.6 + 0.4 * (np.arange(corners) % 2))
    return Polygon(np.stack([x + r * np.cos(angle), y + r * np.sin(angle)], 1))


def test_pixels_by_their_centres():
    shape = star(30.3, 41.7, 20)
    found = ShapePainter([(3, DrawnShape("a", shape))]).read(WHOLE, 0)
    y, x = np.mgrid[:60, :80] + 0.5
    assert np.array_equal(found == 3, shapely.contains_xy(shape, x, y))
    expected = polygon2mask((60, 80), np.array(shape.exterior.coords)[:, ::-1] - 0.5)
    assert ((found == 3) != expected).mean() < 0.01


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), y=st.integers(-10, 50), x=st.integers(-10, 60))
def test_any_window_is_the_crop_of_the_whole(seed, y, x):
    rng = np.random.default_rng(seed)
    shapes = [
        (int(rng.integers(1, 4)), DrawnShape("a", star(*rng.uniform(0, 70, 2), rng.uniform(3, 30)), hole=i == 5))
        for i in range(6)
    ]
    painting = ShapePainter(shapes)
    large = painting.read(Window(-20, -20, 120, 140), 255)
    window = Window(y, x, 17, 23)
    assert np.array_equal(painting.read(window, 255), large[window.slices((-20, -20))])


def test_order_holes_and_other_shapes():
    shapes = [
        (1, DrawnShape("a", box(0, 0, 40, 40))),
        (0, DrawnShape("", box(10, 10, 15, 15), hole=True)),
        (2, DrawnShape("b", box(5, 5, 20, 20))),
        (2, DrawnShape("b", Point(50, 50))),
        (2, DrawnShape("b", box(60, 0, 70, 10).difference(box(62, 2, 64, 4)))),
    ]
    found = ShapePainter(shapes).read(WHOLE, 255)
    assert found[0, 0] == 1
    assert found[6, 6] == 2
    assert found[12, 12] == 255  # a hole is cut out of both, also of what comes later in the file
    assert found[50, 50] == 255
    assert (found[1, 61], found[3, 63]) == (2, 255)


def test_small_shapes_are_in_the_overview():
    painting = ShapePainter([(1, DrawnShape("a", box(103, 207, 106, 210))), (2, DrawnShape("b", box(0, 0, 64, 64)))])
    found = painting.read(Window(0, 0, 20, 20), 255, step=16)
    assert found[208 // 16, 104 // 16] == 1
    assert (found[:4, :4] == 2).all()
    assert (found == 255).sum() == 400 - 17


def test_names_of_classes():
    shapes = [DrawnShape(n, box(0, 0, 1, 1)) for n in ("Gland", "stroma", "", "x")]
    numbered, unknown = class_numbers(shapes, ("gland", "stroma"))
    assert [n for n, _ in numbered] == [1, 2]
    assert unknown == {"": 1, "x": 1}
    numbered, unknown = class_numbers(shapes, ("gland",), {"stroma": "gland", "x": "background", "": "ignored"})
    assert [n for n, _ in numbered] == [1, 255, 0]
    assert unknown == {"Gland": 1}
    with pytest.raises(ShapeFileError, match="said to be tree"):
        class_numbers(shapes, ("gland",), {"x": "tree"})


@pytest.mark.parametrize("kind", ["labels", "annotation"])
def test_into_a_store_and_back(make_store, kind):
    store = make_store(np.zeros((300, 400), np.uint8), kind=kind)
    shapes = [DrawnShape("gland", star(100, 100, 60)), DrawnShape("background", box(200, 200, 220, 230))]
    assert import_shapes([*shapes, DrawnShape("other", box(0, 0, 5, 5))], store).unknown == {"other": 1}
    values = store.read(Window(0, 0, 300, 400))
    assert np.array_equal(values == 1, ShapePainter([(1, shapes[0])]).read(Window(0, 0, 300, 400), 0) == 1)
    assert values[210, 210] == (255 if kind == "annotation" else 0)
    assert store.read_edited(Window(200, 200, 30, 20)).all()
    assert not store.read_edited(Window(0, 0, 10, 10)).any()
    (back,) = label_polygons((values == 1).astype(np.uint8))
    assert back.polygon.symmetric_difference(shapes[0].geometry).area < 0.05 * back.polygon.area
    store.undo()
    assert not store.read(Window(0, 0, 300, 400)).any()


def test_a_coarser_store(make_store):
    from napari_msunet.slide import slide_from_array

    slide = slide_from_array(np.zeros((200, 200, 3), np.uint8), mpp=0.5)
    store = make_store(np.zeros((50, 50), np.uint8), slide=slide, mpp=2.0)
    import_shapes([DrawnShape("gland", box(40, 80, 120, 160))], store)
    values = store.read(Window(0, 0, 50, 50))
    assert (values[20:40, 10:30] == 1).all()
    assert values.sum() == 400


def test_nothing_fits(make_store):
    store = make_store(np.zeros((20, 20), np.uint8))
    with pytest.raises(ShapeFileError, match="called x"):
        import_shapes([DrawnShape("x", box(0, 0, 5, 5))], store)
