"""Areas, perimeters, centroids and boxes of polygons along pixel edges."""

import numpy as np
import pytest
import shapely
from skimage.draw import polygon2mask

from napari_msunet.objects.polygons import label_polygons
from napari_msunet.objects.table import measure_polygons, perimeters

SIDE = 260


def outlines(mask: np.ndarray) -> list:
    return [shape.polygon for shape in label_polygons(mask.astype(np.uint8))]


def disc(radius: float, y: float, x: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    return np.hypot(rows - y, columns - x) <= radius


@pytest.mark.parametrize("radius", [3, 5, 8, 13, 20, 50, 120])
def test_the_perimeter_of_discs_is_within_5_per_cent(radius: float):
    rng = np.random.default_rng(radius)
    ratios = []
    for _ in range(10):
        (outline,) = outlines(disc(radius, *(SIDE / 2 + rng.random(2))))
        ratios.append(perimeters([outline], (1, 1))[0] / (2 * np.pi * radius))
        assert outline.length / (2 * np.pi * radius) > 1.2  # what the correction is for
    assert min(ratios) > 0.95
    assert max(ratios) < 1.05


@pytest.mark.parametrize("angle", [0, 10, 22.5, 30, 45, 60, 80])
@pytest.mark.parametrize("side", [20, 60, 150])
def test_the_perimeter_of_squares_at_any_angle_is_within_5_per_cent(angle: float, side: float):
    turn = np.deg2rad(angle + np.array([45, 135, 225, 315]))
    corners = SIDE / 2 + side / np.sqrt(2) * np.stack([np.sin(turn), np.cos(turn)], 1)
    (outline,) = outlines(polygon2mask((SIDE, SIDE), corners))
    assert perimeters([outline], (1, 1))[0] == pytest.approx(4 * side, rel=0.05)


def test_holes_count_in_the_perimeter_and_not_in_the_area():
    ring = disc(50, 130, 130) & ~disc(20, 130, 130)
    (outline,) = outlines(ring)
    found = measure_polygons([outline], (1, 1))
    assert found.perimeter[0] == pytest.approx(2 * np.pi * 70, rel=0.05)
    assert found.area[0] == ring.sum()


def test_units_and_pixels_that_are_not_square():
    values = np.zeros((40, 60), np.uint8)
    values[4:24, 10:50] = 1
    found = measure_polygons(outlines(values), (0.5, 0.25))
    assert found.area[0] == 20 * 40 * 0.5 * 0.25
    assert found.perimeter[0] == pytest.approx(2 * (20 * 0.5 + 40 * 0.25), rel=0.05)
    np.testing.assert_array_equal(found.centroid, [[14, 30]])
    np.testing.assert_array_equal(found.box, [[4, 10, 20, 40]])


def test_no_object_and_the_smallest_object():
    nothing = measure_polygons([], (1, 1))
    assert nothing.area.shape == nothing.perimeter.shape == (0,)
    assert nothing.centroid.shape == (0, 2)
    assert nothing.box.shape == (0, 4)
    pixel = measure_polygons([shapely.box(3, 5, 4, 6)], (1, 1))
    assert pixel.area[0] == 1
    assert pixel.perimeter[0] == pytest.approx(2 * np.sqrt(np.pi))


def test_nothing_is_rounder_than_a_disc():
    rng = np.random.default_rng(0)
    found = measure_polygons(outlines(rng.random((60, 60)) < 0.4), (0.5, 0.5))
    assert len(found.area) > 100
    assert (4 * np.pi * found.area / found.perimeter**2 <= 1 + 1e-9).all()
