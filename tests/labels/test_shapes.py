"""Brushes and polygons a window at a time, and one stroke of them in a store."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from labels.reference import Reference, assert_same

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import Brush, LabelStore, Polygon
from napari_msunet.labels.levels import tiles
from napari_msunet.labels.shape_masks import LARGEST_SHAPE, Shape

numbers = st.floats(-20, 140, width=32)
lines = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4)


def in_pieces(shape: Shape, window: Window, side: int) -> np.ndarray:
    out = np.zeros(window.shape, bool)
    for tile in tiles(window, side):
        out[tile.slices((window.y, window.x))] = shape.on(tile)
    return out


def centres(window: Window) -> tuple[np.ndarray, np.ndarray]:
    return np.meshgrid(
        np.arange(window.y, window.stop[0]) + 0.5, np.arange(window.x, window.stop[1]) + 0.5, indexing="ij"
    )


@settings(max_examples=60, deadline=None)
@given(points=lines, radius=st.floats(0.3, 60), side=st.sampled_from([7, 32, 200]))
def test_a_brush_is_all_within_its_radius(points: list[tuple[float, float]], radius: float, side: int) -> None:
    window = Window(0, 0, 100, 120)
    mask = in_pieces(Brush(points, radius), window, side)
    line = shapely.LineString(points) if len(set(points)) > 1 else shapely.Point(points[0])
    distance = shapely.distance(shapely.points(*centres(window)), line)
    sure = abs(distance - radius) > 1e-3
    np.testing.assert_array_equal(mask[sure], (distance < radius)[sure])


@settings(max_examples=60, deadline=None)
@given(corners=st.lists(st.tuples(numbers, numbers), min_size=3, max_size=7), side=st.sampled_from([7, 32, 200]))
def test_a_polygon_has_the_pixels_whose_centre_is_inside(corners: list[tuple[float, float]], side: int) -> None:
    window = Window(0, 0, 100, 120)
    mask = in_pieces(Polygon(corners), window, side)
    y, x = centres(window)
    inside, ring = np.zeros(window.shape, bool), [*corners, corners[0]]
    near = np.full(window.shape, np.inf)
    for (ay, ax), (by, bx) in pairwise(ring):
        if ay != by:
            inside ^= ((y >= ay) != (y >= by)) & (x > ax + (y - ay) / (by - ay) * (bx - ax))
        edge = shapely.LineString([(ay, ax), (by, bx)]) if (ay, ax) != (by, bx) else shapely.Point(ay, ax)
        near = np.minimum(near, shapely.distance(shapely.points(y, x), edge))
    np.testing.assert_array_equal(mask[near > 1e-3], inside[near > 1e-3])


@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
def test_a_shape_is_one_stroke(tmp_path: Path, dtype: str) -> None:
    shape = (2100, 1700)
    reference = Reference(shape, dtype)
    noise = np.random.default_rng(0).integers(0, 3, (700, 900)).astype(dtype)
    star = [(300, 300), (1900, 700), (400, 1200), (1500, 200), (1000, 1650)]
    steps = [
        (Brush([(900, 800)], 850.5), 1, None),
        (Polygon(star), 2, 1),
        (Brush([(0, 0), (2000, 1000)], 300), 0, None),
    ]
    with LabelStore.create(tmp_path / "a.ome.zarr", shape, 0.5, ("a", "b"), dtype=dtype) as store:
        store.write(Region(600, 300, 700, 900), noise)
        reference.stroke(Window(600, 300, 700, 900), noise, None)
        whole = Window(0, 0, *shape)
        for drawn, value, over in steps:
            mask = np.broadcast_to(drawn.on(whole), shape)
            mask = mask if over is None else mask & (reference.labels == over)
            assert store.write_shape(drawn, value, over) > 0
            reference.stroke(whole, value, mask)
            assert_same(store, reference)
        for _ in steps:
            store.undo()
            reference.undo()
        assert_same(store, reference)
        for _ in steps:
            store.redo()
            reference.redo()
        assert_same(store, reference)


def test_refused_shapes(tmp_path: Path) -> None:
    with LabelStore.create(tmp_path / "a.ome.zarr", (50_000, 50_000), 0.5, ("a",)) as store:
        with pytest.raises(StoreError, match=f"one stroke can have {LARGEST_SHAPE} a side"):
            store.write_shape(Brush([(20_000, 20_000)], 17_000), 1)
        with pytest.raises(StoreError, match="outside"):
            store.write_shape(Brush([(-500, -500)], 20), 1)
        with pytest.raises(StoreError, match="no class"):
            store.write_shape(Brush([(500, 500)], 20), 2)
        assert store.write_shape(Brush([(500, 500)], 20), 1, over=1) == 0
        assert store.undo() is None
    for points, radius in (([], 5), ([(0, 0, 0)], 5), ([(0, 0)], 0), ([(0, np.nan)], 5), ([(0, 0)], np.inf)):
        with pytest.raises(StoreError, match="finite"):
            Brush(points, radius)
    with pytest.raises(StoreError, match="three corners"):
        Polygon([(0, 0), (1, 1)])
