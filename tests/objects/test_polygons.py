"""Labels to polygons: exact, with their holes, and the same for every window size."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from skimage.draw import polygon2mask
from skimage.measure import label, regionprops

from napari_msunet.geometry import Window
from napari_msunet.objects.polygons import LabelShape, label_polygons, walk_polygons


def windowed(values: np.ndarray, side: int, whole: Window | None = None) -> list[LabelShape]:
    whole = whole or Window(0, 0, *values.shape)
    return [s for step in walk_polygons(lambda w: values[w.slices()], whole, side) for s in step.shapes]


def key(shapes: list[LabelShape]) -> list[tuple[int, bytes]]:
    return sorted((s.value, s.polygon.wkb) for s in shapes)


def check_against_skimage(values: np.ndarray, shapes: list[LabelShape]) -> None:
    """Value, area, bounding box, centroid and holes of every object, against an independent labelling."""
    numbers = label(values, connectivity=1, background=0)
    expected = []
    for props in regionprops(numbers):
        filled = np.pad(props.image, 1)
        # Outside of a 4-connected object is 4-connected too where corners do not count: so are its holes.
        holes = label(~filled, connectivity=1).max() - 1
        box = tuple(float(v) for v in props.bbox)
        centre = tuple(np.round(np.array(props.centroid) + 0.5, 6))
        expected.append((int(values[tuple(props.coords[0])]), float(props.area), box, centre, int(holes)))
    got = []
    for shape in shapes:
        x0, y0, x1, y1 = shape.polygon.bounds
        centre = shape.polygon.centroid
        place = tuple(np.round(np.array([centre.y, centre.x]), 6))
        got.append((shape.value, shape.polygon.area, (y0, x0, y1, x1), place, len(shape.polygon.interiors)))
    assert sorted(got) == sorted(expected)


def test_a_ring_with_an_island_and_a_diagonal_touch():
    values = np.zeros((8, 9), np.uint8)
    values[1:6, 1:6] = 1
    values[2:5, 2:5] = 0
    values[3, 3] = 2
    values[6, 6] = 1  # touches the ring at a corner only
    shapes = sorted(label_polygons(values, origin=(10, 100)), key=lambda s: -s.polygon.area)
    assert sorted((s.value, s.polygon.area, len(s.polygon.interiors)) for s in shapes) == [
        (1, 1, 0),
        (1, 16, 1),
        (2, 1, 0),
    ]
    assert shapes[0].polygon.equals(shapely.box(101, 11, 106, 16) - shapely.box(102, 12, 105, 15))
    assert shapely.get_num_coordinates(shapes[0].polygon) == 10


def test_no_object_gives_no_polygon():
    assert label_polygons(np.zeros((5, 4), np.uint8)) == []
    assert windowed(np.zeros((5, 4), np.uint8), 2) == []


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 3)),
    st.integers(1, 15),
)
def test_any_window_size_gives_the_same_polygons(values: np.ndarray, side: int):
    one = label_polygons(values)
    check_against_skimage(values, one)
    many = windowed(values, side)
    assert key(many) == key(one)
    assert all(s.polygon.is_valid and s.polygon.geom_type == "Polygon" for s in many)


def test_a_shape_over_many_windows_keeps_its_holes_and_has_no_needless_vertex():
    yy, xx = np.mgrid[:150, :170]
    radius = np.hypot(yy - 75, xx - 85)
    values = ((radius < 70) & (np.sin(yy / 6) * np.sin(xx / 6) > -0.7)).astype(np.uint16) * 700
    one, many = label_polygons(values), windowed(values, 16)
    assert key(one) == key(many)
    check_against_skimage(values, many)
    assert max(len(s.polygon.interiors) for s in many) > 5
    assert all(s.value == 700 for s in many)


def test_a_window_of_the_whole_cuts_at_its_edge_and_keeps_the_coordinates():
    values = np.ones((20, 20), np.uint8)
    (shape,) = windowed(values, 4, Window(3, 5, 10, 7))
    assert shape.polygon.equals(shapely.box(5, 3, 12, 13))


def test_rasterising_gives_the_pixels_back():
    rng = np.random.default_rng(3)
    values = rng.integers(0, 3, (24, 30)).astype(np.uint8)
    back = np.zeros_like(values)
    for shape in windowed(values, 7):
        outline = np.array(shape.polygon.exterior.coords)[:, ::-1]
        inside = polygon2mask(values.shape, outline - 0.5)
        for hole in shape.polygon.interiors:
            inside &= ~polygon2mask(values.shape, np.array(hole.coords)[:, ::-1] - 0.5)
        back[inside] = shape.value
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize(
    ("folder", "count"), [("glas-dev/masks", 3), ("consep-train/masks", 3), ("monuseg-train/masks", 1)]
)
def test_real_masks(shared_data: Path, folder: str, count: int):
    files = sorted((shared_data / folder).glob("*.png"))[:count]
    assert files
    for file in files:
        values = np.array(Image.open(file))
        one = label_polygons(values)
        check_against_skimage(values, one)
        assert key(windowed(values, 100)) == key(one)
        assert one
