"""Where a prediction is computed: polygons, classes of another store, tissue; and which cells that touches."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from shapely import Point, Polygon

import napari_msunet as ms
from napari_msunet.config.prediction import Drawn, InClasses
from napari_msunet.errors import MsunetError, SlideError, StoreError
from napari_msunet.geometry import Grid, Region, Window
from napari_msunet.inference.plan import coverage
from napari_msunet.labels import LabelStore
from napari_msunet.labels.area import Polygons, tissue_labels, where_mask
from napari_msunet.slide import Slide, build_pyramid, open_slide, slide_from_array
from napari_msunet.slide.placed import Held

CMU = Path(ms.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"
HEIGHT, WIDTH = 301, 403


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Slide:
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return open_slide(build_pyramid(pixels, tmp_path_factory.mktemp("slide") / "s.ome.zarr", mpp=0.5))


# ------------------------------------------------------------------------------------------------------------ polygons

number = st.integers(-200, 1200).map(lambda n: n / 1000)  # nobody draws corners 1e-38 px apart
rings = st.lists(st.lists(st.tuples(number, number), min_size=3, max_size=9), min_size=1, max_size=3)
windows = st.builds(Window, st.integers(-30, 50), st.integers(-30, 50), st.integers(1, 90), st.integers(1, 90))
pixels = st.floats(0.4, 9)


def polygons(given_rings: list[list[tuple[float, float]]], extent: tuple[int, int] = (120, 170)) -> Polygons | None:
    try:
        return Polygons(extent, [[(y * extent[0], x * extent[1]) for y, x in ring] for ring in given_rings])
    except SlideError:
        return None


@settings(max_examples=60, deadline=None)
@given(rings, pixels, pixels, windows)
def test_windows_of_polygons_agree(given_rings, py, px, window):
    mask = polygons(given_rings)
    if mask is None:
        return
    grid = Grid((120, 170), (py, px))
    whole, part = mask.on(grid, grid.whole), mask.on(grid, window)
    inside = window.intersection(grid.whole)
    expected = np.zeros(window.shape, bool)
    if not inside.empty:
        expected[inside.slices((window.y, window.x))] = whole[inside.slices()]
    np.testing.assert_array_equal(part, expected)


@settings(max_examples=40, deadline=None)
@given(rings, pixels, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=5, max_size=20))
def test_a_pixel_is_in_if_its_centre_is(given_rings, pixel, places):
    mask = polygons(given_rings)
    if mask is None:
        return
    grid = Grid((120, 170), (pixel, pixel))
    on = mask.on(grid, grid.whole)
    shapes = [Polygon([(x * 170, y * 120) for y, x in ring]) for ring in given_rings]
    for place in places:
        y, x = (p % n for p, n in zip(place, grid.shape, strict=True))
        centre = Point((x + 0.5) * pixel, (y + 0.5) * pixel)
        if all(shape.is_valid and shape.boundary.distance(centre) > 1e-6 for shape in shapes):
            assert on[y, x] == any(shape.contains(centre) for shape in shapes)


def test_a_ring_that_crosses_itself_is_even_odd_and_rings_add_up(slide: Slide):
    angles = np.arange(5) * 4 * np.pi / 5
    star = [(150 + 100 * np.sin(a), 200 + 100 * np.cos(a)) for a in angles]
    square = [(0, 0), (0, 40), (40, 40), (40, 0)]
    grid = slide.grid()
    mask = where_mask(slide, Drawn(polygons=(star, square, square)))
    on = mask.on(grid, grid.whole)
    assert not on[150, 200]
    assert on[150, 260]
    assert on[:40, :40].all()  # twice the same is not nothing
    assert on[:40].sum() == 1600


def test_shared_edges_leave_no_gap_and_do_not_overlap():
    rng = np.random.default_rng(0)
    corners = rng.uniform(20, 80, (9, 2))
    left = [(0, 0), *corners, (100, 0)]
    right = [(0, 0), (0, 100), (100, 100), (100, 0), *corners[::-1]]
    grid = Grid((100, 100), (0.37, 0.81))
    one, other = (Polygons((100, 100), [r]).on(grid, grid.whole) for r in (left, right))
    # both are even-odd inside one square, cut by the same line
    np.testing.assert_array_equal(
        one ^ other, Polygons((100, 100), [[(0, 0), (0, 100), (100, 100), (100, 0)]]).on(grid, grid.whole)
    )


# ---------------------------------------------------------------------------------------------------------------- cells


@settings(max_examples=100, deadline=None)
@given(rings, st.integers(0, 9), pixels, pixels, pixels, windows, st.integers(1, 13))
def test_coverage_is_what_looking_says(given_rings, seed, own, py, px, window, cell):
    extent = (120, 170)
    drawn = polygons(given_rings)
    held = Held(Grid(extent, (own, own)), np.zeros((1, 1), bool))
    held.mask = np.random.default_rng(seed).random(held.grid.shape) < 0.05 * seed
    grid = Grid(extent, (py, px))
    for mask in [held, *([drawn] if drawn else [])]:
        counts = -(-window.height // cell), -(-window.width // cell)
        padded = np.zeros((counts[0] * cell, counts[1] * cell), bool)
        padded[: window.height, : window.width] = mask.on(grid, window)
        expected = padded.reshape(counts[0], cell, counts[1], cell).any((1, 3))
        np.testing.assert_array_equal(coverage(mask, grid, window, cell), expected)


def test_a_ring_around_twice_is_nothing_for_cells_too():
    ring = [(10.0, 10.0), (10.0, 90.0), (90.0, 50.0)]
    mask, grid = Polygons((120, 170), [ring + ring]), Grid((120, 170), (1.0, 1.0))
    assert not mask.on(grid, grid.whole).any()
    assert not coverage(mask, grid, grid.whole, 7).any()


def test_corners_a_hair_apart():
    """GEOS cannot make the union of these."""
    rings = [
        [(1e-38, 1e-38), (40.5, 3.0), (3.0, 1e-38), (3.0, 1e-38)],
        [(40.5, 3.0), (1e-9, 0.0), (0.0, 40.5), (3.0, 1e-16)],
    ]
    with np.errstate(all="ignore"):
        mask = Polygons((50, 50), rings)
        grid = Grid((50, 50), (1.0, 1.0))
        cells = coverage(mask, grid, grid.whole, 5)
    np.testing.assert_array_equal(cells, mask.on(grid, grid.whole).reshape(10, 5, 10, 5).any((1, 3)))


def test_without_a_mask_all_cells_on_the_slide_count():
    grid = Grid((100, 100), (1.0, 1.0))
    found = coverage(None, grid, Window(-16, 90, 32, 33), 8)
    assert found.tolist() == [[False] * 5, [False] * 5, [True, True, *[False] * 3], [True, True, *[False] * 3]]
    with pytest.raises(ValueError, match="at least one pixel"):
        coverage(None, grid, grid.whole, 0)


def test_a_very_large_slide_takes_a_moment():
    extent = (100_000, 100_000)
    own = Grid(extent, (32.0, 32.0))
    mask = Held(own, np.zeros(own.shape, bool))
    mask.mask[500:1500, 700:2000] = True
    angle = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    ring = np.stack([50_000 + 30_000 * np.sin(angle), 50_000 + 30_000 * np.cos(angle)], 1)
    grid = Grid(extent, (1.0, 1.0))
    for one, share, most in ((mask, 1000 * 1300 / 3125**2, 1), (Polygons(extent, [ring]), np.pi * 0.09, 3)):
        start = time.process_time()
        found = coverage(one, grid, grid.whole, 256)
        assert time.process_time() - start < most
        assert found.mean() == pytest.approx(share, abs=0.01)


# -------------------------------------------------------------------------------------------------------- label stores


def test_another_store_at_its_own_resolution(tmp_path: Path, slide: Slide):
    store = LabelStore.create(tmp_path / "l.ome.zarr", classes=("gland", "fat", "tissue"), slide=slide, mpp=1.3)
    values = np.random.default_rng(0).integers(0, 4, store.shape, dtype=np.uint8)
    store.write(Region(0, 0, *store.shape), values)
    for mpp in (0.4, 0.9, 1.3, 3.7):
        grid = slide.grid(mpp)
        mask = where_mask(slide, InClasses(labels=store.path, classes=("gland", "tissue")))
        found = mask.on(grid, grid.whole)
        rows = np.minimum(((np.arange(grid.shape[0]) + 0.5) * mpp / 1.3 + 1e-6).astype(int), store.shape[0] - 1)
        columns = np.minimum(((np.arange(grid.shape[1]) + 0.5) * mpp / 1.3 + 1e-6).astype(int), store.shape[1] - 1)
        np.testing.assert_array_equal(found, np.isin(values, (1, 3))[rows[:, None], columns])
    everything = where_mask(slide, InClasses(labels=store.path))
    np.testing.assert_array_equal(everything.read(store.grid.whole), values > 0)


def test_a_large_store_is_read_where_it_is_asked(tmp_path: Path, slide: Slide, monkeypatch: pytest.MonkeyPatch):
    store = LabelStore.create(tmp_path / "l.ome.zarr", classes=("tissue",), slide=slide)
    store.write(Region(100, 120, 50, 60), 1)
    where = InClasses(labels=store.path)
    small = where_mask(slide, where)
    monkeypatch.setattr("napari_msunet.labels.area.HELD", 0)
    large = where_mask(slide, where)
    grid = slide.grid(0.7)
    np.testing.assert_array_equal(large.on(grid, grid.whole), small.on(grid, grid.whole))
    np.testing.assert_array_equal(coverage(large, grid, grid.whole, 16), coverage(small, grid, grid.whole, 16))
    assert large.key == small.key


def test_the_key_follows_the_content(tmp_path: Path, slide: Slide):
    store = LabelStore.create(tmp_path / "l.ome.zarr", classes=("a", "b"), slide=slide, mpp=2)
    store.write(Region(10, 10, 20, 20), 1)
    one = where_mask(slide, InClasses(labels=store.path, classes=("a",)))
    key = one.key
    assert where_mask(slide, InClasses(labels=store.path)).key == key  # the same pixels
    store.write(Region(40, 40, 2, 2), 2)
    assert where_mask(slide, InClasses(labels=store.path, classes=("a",))).key == key
    assert where_mask(slide, InClasses(labels=store.path)).key != key
    assert not one.read(Window(40, 40, 2, 2)).any()  # as it was when the prediction began
    assert where_mask(slide, "all") is None
    square = ((0, 0), (0, 9), (9, 9))
    keys = [where_mask(slide, Drawn(polygons=p)).key for p in ((square,), (square, square), (square,))]
    assert keys[0] == keys[2] != keys[1]


def test_instances_and_annotations_count_too(tmp_path: Path, slide: Slide):
    objects = LabelStore.create(tmp_path / "i.ome.zarr", slide=slide, dtype="uint32")
    objects.write(Region(0, 0, 10, 10), 70_000)
    assert where_mask(slide, InClasses(labels=objects.path)).read(objects.grid.whole).sum() == 100
    with pytest.raises(StoreError, match="numbers of objects"):
        where_mask(slide, InClasses(labels=objects.path, classes=("gland",)))
    marks = LabelStore.create(tmp_path / "a.ome.zarr", classes=("gland",), kind="annotation", slide=slide)
    marks.write(Region(0, 0, 10, 10), 255)
    marks.write(Region(20, 0, 5, 5), 1)
    assert where_mask(slide, InClasses(labels=marks.path)).read(marks.grid.whole).sum() == 25


# --------------------------------------------------------------------------------------------------------------- tissue


def test_a_corrected_tissue_mask_stays_corrected(tmp_path: Path):
    slide = open_slide(CMU)
    mask = ms.tissue_mask(slide)
    store = tissue_labels(slide, tmp_path / "t.ome.zarr", mask)
    where = InClasses(labels=store.path, classes=("tissue",))
    grid = slide.grid(0.9)
    np.testing.assert_array_equal(where_mask(slide, where).on(grid, grid.whole), mask.on(grid, grid.whole))
    np.testing.assert_array_equal(where_mask(slide, "tissue").on(grid, grid.whole), mask.on(grid, grid.whole))
    assert not store.read_edited(Region(0, 0, *store.shape)).any()
    assert store.undo() is None  # finding is no stroke: undoing cannot take it away
    store.write(Region(0, 0, 10, 10), 1)
    store.write(Region(150, 60, 10, 10), 0)
    other = ms.tissue_mask(slide, holes=200_000)
    assert tissue_labels(slide, store.path, other) is store
    expected = other.mask.copy()
    expected[:10, :10], expected[150:160, 60:70] = True, False
    np.testing.assert_array_equal(where_mask(slide, where).read(store.grid.whole), expected)
    assert (other.mask != mask.mask).any()


# ------------------------------------------------------------------------------------------------------------ bad input


def test_bad_input(tmp_path: Path, slide: Slide):
    outside = ((500, 0), (500, 9), (600, 9))
    with pytest.raises(SlideError, match=rf"Polygon 1 .*outside the slide of {HEIGHT} x {WIDTH} .*all 2;"):
        where_mask(slide, Drawn(polygons=(outside, outside)))
    assert where_mask(slide, Drawn(polygons=(outside, ((0, 0), (0, 9), (9, 9))))).outside == [1]  # said, and left out
    with pytest.raises(SlideError, match="finite"):
        where_mask(slide, Drawn(polygons=(((0, 0), (0, float("nan")), (9, 9)),)))
    with pytest.raises(ValidationError):
        Drawn(polygons=(((0, 0), (1, 1)),))
    store = LabelStore.create(tmp_path / "l.ome.zarr", classes=("gland",), slide=slide)
    with pytest.raises(StoreError, match="no class fat; it has gland"):
        where_mask(slide, InClasses(labels=store.path, classes=("fat",)))
    other = slide_from_array(np.zeros((10, 12, 3), np.uint8), mpp=0.5)
    with pytest.raises(StoreError, match=rf"{HEIGHT} x {WIDTH} .* has 10 x 12; give this slide's own"):
        where_mask(other, InClasses(labels=store.path))
    with pytest.raises(MsunetError, match="nowhere"):
        where_mask(slide, InClasses(labels=tmp_path / "nowhere"))
    with pytest.raises(StoreError, match="no tissue of this slide"):
        tissue_labels(slide, store.path)
    unknown = slide_from_array(np.zeros((10, 12, 3), np.uint8))  # without µm, in pixels of the image
    assert tissue_labels(unknown, tmp_path / "t.ome.zarr").mpp is None
