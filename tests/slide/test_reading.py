"""Reading windows of slides: places, averages, edges, and the same pixel in two windows."""

import pickle
import threading

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_msunet.errors import MissingMppError, SlideError
from napari_msunet.geometry import Grid, Region, Window
from napari_msunet.slide import open_slide, slide_from_array
from napari_msunet.slide.plane import DecodedChunks

RNG = np.random.default_rng(0)
FULL = RNG.integers(0, 256, (611, 547, 3), dtype=np.uint8)
HALF = RNG.integers(0, 256, (305, 273, 3), dtype=np.uint8)  # rounded down, as Aperio does
QUARTER = RNG.integers(0, 256, (153, 137, 3), dtype=np.uint8)  # rounded up
WIDE = RNG.integers(0, 65536, (300, 1201), dtype=np.uint16)
SLIDES = {
    "pyramid": slide_from_array([FULL, HALF, QUARTER], mpp=0.25),
    "odd ratio": slide_from_array([FULL, RNG.integers(0, 256, (210, 190, 3), dtype=np.uint8)], mpp=0.25),
    "uint16": slide_from_array(WIDE, mpp=(0.5, 0.3)),
    "float": slide_from_array(WIDE.astype(np.float32) / 7, mpp=1.0),
}

pixels = st.tuples(st.floats(0.3, 9), st.floats(0.3, 9)) | st.sampled_from(
    [
        (1.0, 1.0),
        (2.0, 2.0),
        (4.0, 4.0),
        (3.0, 6.0),
        (0.5, 0.5),
        (2.9999999999999996, 2.0005),
        (1.0004, 0.9996),
        (8 / 3, 4 / 3),
    ]
)
corners = st.tuples(st.floats(-0.2, 1.1), st.floats(-0.2, 1.1))
sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))
shifts = st.tuples(st.integers(-40, 40), st.integers(-40, 40))


def check_same_in_two_windows(slide, grid, corner, size, shift):
    """The pixels that two windows share are equal to the bit."""
    one = Window(int(corner[0] * grid.shape[0]), int(corner[1] * grid.shape[1]), *size)
    two = Window(one.y + shift[0], one.x + shift[1], size[1], size[0])
    both = one.intersection(two)
    assume(not both.empty)
    a = slide.read_window(grid, one)[both.slices((one.y, one.x))]
    b = slide.read_window(grid, two)[both.slices((two.y, two.x))]
    np.testing.assert_array_equal(a, b)


def pixel_by_definition(image, background, grid, y, x):
    """The mean of level-0 pixels over a grid pixel's footprint, background outside."""
    total = np.zeros(image.shape[2])
    height, width = grid.pixel
    for row in range(int(np.floor(y * height)), int(np.ceil((y + 1) * height))):
        tall = max(0.0, min((y + 1) * height, row + 1) - max(y * height, row))
        for column in range(int(np.floor(x * width)), int(np.ceil((x + 1) * width))):
            wide = max(0.0, min((x + 1) * width, column + 1) - max(x * width, column))
            inside = 0 <= row < image.shape[0] and 0 <= column < image.shape[1]
            total += tall * wide * (image[row, column] if inside else background)
    return total / (height * width)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(SLIDES)), pixels, corners, sizes, shifts)
def test_a_pixel_is_the_same_in_every_window(name, pixel, corner, size, shift):
    slide = SLIDES[name]
    check_same_in_two_windows(slide, Grid(slide.shape[:2], pixel), corner, size, shift)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["tcga-no-mpp.svs", "fluorescence-dapi.ndpi"]),
    ratio=st.floats(0.4, 40),
    corner=corners,
    size=sizes,
    shift=shifts,
)
@example("tcga-no-mpp.svs", 2.0, (0.9, 0.95), (60, 60), (7, -11))
def test_a_pixel_is_the_same_in_every_window_of_a_real_pyramid(real_slides, name, ratio, corner, size, shift):
    slide = real_slides[name]
    check_same_in_two_windows(slide, Grid(slide.shape[:2], (ratio, ratio)), corner, size, shift)


@pytest.fixture(scope="module")
def real_slides(shared_data):
    names = ("tcga-no-mpp.svs", "fluorescence-dapi.ndpi")
    return {name: open_slide(shared_data / "slides" / name) for name in names}


@settings(max_examples=60, deadline=None)
@given(pixel=pixels, corner=corners, name=st.sampled_from(["plain", "uint16"]))
def test_a_pixel_is_the_area_average_of_its_footprint(pixel, corner, name):
    image = FULL if name == "plain" else WIDE[..., None]
    slide = slide_from_array(image)
    grid = Grid(slide.shape[:2], pixel)
    y, x = int(corner[0] * grid.shape[0]), int(corner[1] * grid.shape[1])
    window = Window(y - 1, x - 2, 4, 5)
    values = slide.read_window(grid, window)
    tolerance = 0.51 + np.iinfo(image.dtype).max * 4e-3  # a corner within 1e-3 px of a line is on it
    for row in range(4):
        for column in range(5):
            place = window.y + row, window.x + column
            inside = 0 <= place[0] < grid.shape[0] and 0 <= place[1] < grid.shape[1]
            expected = pixel_by_definition(image, slide.background, grid, *place) if inside else slide.background
            np.testing.assert_allclose(values[row, column], expected, atol=tolerance)


def test_whole_ratios_are_exact():
    slide = slide_from_array(FULL)
    values = slide.read_window(Grid(slide.shape[:2], (3.0, 2.0)), Window(5, 7, 20, 30))
    blocks = FULL[15:75, 14:74].reshape(20, 3, 30, 2, 3).astype(float).mean((1, 3))
    np.testing.assert_array_equal(values, np.rint(blocks))


def test_level_0_is_a_copy_and_outside_is_background():
    slide = SLIDES["pyramid"]
    values = slide.read(Region(-5, -7, 621, 561))
    np.testing.assert_array_equal(values[5:616, 7:554], FULL)
    values[5:616, 7:554] = 255
    assert values.min() == 255
    assert slide_from_array(FULL).read(Region(0, 0, 2, 2)).flags.writeable
    assert SLIDES["uint16"].read(Region(-9, 0, 5, 5)).max() == 0
    assert slide.read(Region(-1e6, -1e6, 3, 3)).tolist() == np.full((3, 3, 3), 255).tolist()


def test_the_nearest_finer_level_is_read():
    slide = SLIDES["pyramid"]
    np.testing.assert_array_equal(slide.read(Region(0, 0, 80, 80), mpp=0.5), HALF[:40, :40])
    near = slide.read(Region(0, 0, 80, 80), mpp=0.4996)  # within the tolerance of level 1
    np.testing.assert_allclose(near[:2, :2].astype(float), HALF[:2, :2], atol=1)
    np.testing.assert_array_equal(slide.read(Region(0, 0, 80, 80), mpp=1.0), QUARTER[:20, :20])
    finer = slide.read(Region(0, 0, 80, 80), mpp=0.75)  # from level 1, in 1.5 of its pixels, not from level 2
    weights = np.array([[1, 0.5, 0], [0, 0.5, 1]]) / 1.5
    expected = np.einsum("ai,bj,ijc->abc", weights, weights, HALF[:3, :3].astype(float))
    np.testing.assert_allclose(finer[:2, :2], expected, atol=0.51)


def test_a_level_that_was_rounded_down_is_continued_by_its_last_pixel():
    slide = SLIDES["pyramid"]  # 611 rows are 305.5 of level 1, which has 305
    values = slide.read_window(slide.grid(0.5), Window(303, 0, 5, 20))
    np.testing.assert_array_equal(values[:2], HALF[303:305, :20])
    np.testing.assert_array_equal(values[2], np.rint(HALF[304, :20] / 2 + 255 / 2))
    assert values[3:].min() == 255
    assert slide.grid(0.5).shape == (306, 274)


def test_large_windows_are_read_in_blocks(monkeypatch):
    slide = SLIDES["pyramid"]
    for pixel in ((1.7, 1.3), (2.0, 2.0), (1.0, 1.0)):
        grid = Grid(slide.shape[:2], pixel)
        whole = slide.read_window(grid, grid.whole.padded(3))
        monkeypatch.setattr("napari_msunet.slide.slide.BLOCK_BYTES", 20_000)
        monkeypatch.setattr("napari_msunet.slide.slide.BLOCK_WIDTH", 130)
        np.testing.assert_array_equal(slide.read_window(grid, grid.whole.padded(3)), whole)
        monkeypatch.undo()


def test_levels_are_lazy_and_show_what_is_read():
    slide = SLIDES["pyramid"]
    assert [level.shape for level in slide.levels] == [FULL.shape, HALF.shape, QUARTER.shape]
    np.testing.assert_array_equal(slide.levels[1].compute(), HALF)
    np.testing.assert_array_equal(slide.levels[0][3:600:7, 5:9, 1].compute(), FULL[3:600:7, 5:9, 1])
    np.testing.assert_array_equal(slide.levels[0][::-3, 7, 2:].compute(), FULL[::-3, 7, 2:])
    np.testing.assert_array_equal(slide.levels[0][-1, 5:5].compute(), FULL[-1, 5:5])
    assert slide.levels[0].name == slide_from_array([FULL, HALF]).levels[0].name
    assert slide.levels[0].name != slide_from_array([255 - FULL, HALF]).levels[0].name


def test_unknown_mpp_is_missed_only_when_it_is_needed():
    slide = slide_from_array(FULL)
    assert slide.mpp is None
    np.testing.assert_array_equal(slide.read(Region(3, 4, 5, 6)), FULL[3:8, 4:10])
    with pytest.raises(MissingMppError, match=r"open_slide\(path, mpp=0.5\)"):
        slide.grid(0.5)


@pytest.mark.parametrize("mpp", [0, -1, float("nan"), "wide", (1, 2, 3), (0.5, 0)])
def test_bad_mpp(mpp):
    with pytest.raises(SlideError, match="no µm per pixel"):
        slide_from_array(FULL, mpp=mpp)
    with pytest.raises(SlideError, match="no µm per pixel"):
        SLIDES["pyramid"].grid(mpp)


def test_a_grid_of_another_slide_is_refused():
    with pytest.raises(SlideError, match="own grid"):
        SLIDES["pyramid"].read_window(SLIDES["uint16"].grid(), Window(0, 0, 5, 5))


def test_a_closed_slide_says_so():
    slide = slide_from_array(FULL)
    with slide:
        slide.read(Region(0, 0, 5, 5))
    with pytest.raises(SlideError, match="closed"):
        slide.read(Region(0, 0, 5, 5))


def test_the_cache_keeps_to_its_limit_and_decodes_once():
    cache = DecodedChunks(limit=10_000)
    made = []

    def make(name):
        made.append(name)
        return np.zeros(3000, np.uint8)

    for name in "abcd":
        cache.get((0, name), lambda name=name: make(name))
    assert cache.nbytes == 9000
    cache.get((0, "d"), lambda: make("again"))
    assert made == list("abcd")
    cache.get((0, "a"), lambda: make("a"))
    assert made == list("abcda")
    cache.get((1, "big"), lambda: np.zeros(20_000, np.uint8))
    assert cache.nbytes == 20_000
    cache.forget(1)
    cache.purge()
    assert cache.nbytes == 0

    started, calls = threading.Barrier(4), []

    def ask():
        started.wait()
        cache.get((2, 0), lambda: calls.append(1) or np.zeros(1000, np.uint8))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]


def test_a_chunk_that_fails_is_asked_for_again():
    cache = DecodedChunks()
    with pytest.raises(RuntimeError):
        cache.get((0, 0), lambda: (_ for _ in ()).throw(RuntimeError("damaged")))
    assert cache.get((0, 0), lambda: np.ones(3)).sum() == 3


def test_threads_read_the_same():
    slide = slide_from_array([FULL, HALF], mpp=0.25)
    grid = slide.grid(0.6)
    expected, wrong = slide.read_window(grid, grid.whole), []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            window = Window(int(rng.integers(0, 200)), int(rng.integers(0, 150)), 40, 50)
            if not np.array_equal(slide.read_window(grid, window), expected[window.slices()]):
                wrong.append(window)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_slide_goes_to_other_processes(tmp_path):
    Image.fromarray(FULL).save(tmp_path / "image.png")
    with open_slide(tmp_path / "image.png", mpp=0.3) as slide:
        with pickle.loads(pickle.dumps(slide)) as again:
            assert (again.mpp, again.shape) == ((0.3, 0.3), FULL.shape)
            np.testing.assert_array_equal(again.read(Region(0, 0, 50, 60)), FULL[:50, :60])
        slide._process = -1  # as after a fork
        np.testing.assert_array_equal(slide.read(Region(0, 0, 50, 60)), FULL[:50, :60])
    with pytest.raises(TypeError, match="send the array"):
        pickle.dumps(slide_from_array(FULL))
