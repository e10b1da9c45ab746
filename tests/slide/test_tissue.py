"""Tissue: real slides, all of one kind, pen marks, fat, fluorescence; and the mask on other grids."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import disk, line

import napari_msunet as ms
from napari_msunet.errors import MissingMppError, MsunetError, SlideError
from napari_msunet.geometry import Grid, Window
from napari_msunet.slide import Slide, open_slide, slide_from_array, tissue_mask
from napari_msunet.slide.placed import Held
from napari_msunet.slide.tissue import found_tissue

CMU = Path(ms.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"
MPP = 2.0
GLASS = (244, 243, 244)
INKS = {"blue": (40, 60, 170), "green": (30, 130, 80), "red": (215, 35, 40), "black": (35, 33, 36)}

Pixels = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


@pytest.fixture(scope="module")
def cmu() -> Slide:
    return open_slide(CMU)


@pytest.fixture(scope="module")
def real(cmu: Slide) -> Pixels:
    """Real tissue with glass around it, 2 µm/px."""
    grid = cmu.grid(MPP)
    return cmu.read_window(grid, grid.whole)


def found(pixels: npt.NDArray[np.generic], mpp: float | None = MPP, **options: object) -> Bools:
    return tissue_mask(slide_from_array(pixels, mpp=mpp), **options).mask


def glass(shape: tuple[int, int], seed: int = 0) -> Pixels:
    return (np.array(GLASS) + np.random.default_rng(seed).integers(-2, 3, (*shape, 1))).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------- real slides


def test_the_real_slide(cmu: Slide):
    mask = tissue_mask(cmu)
    assert mask.grid.mpp == (8.0, 8.0)
    assert mask.mask.shape == mask.grid.shape == (186, 139)
    assert 0.36 < mask.share < 0.41
    level = cmu.grid()
    strip = mask.on(level, Window(2400, 0, 500, 2220)).mean(0)
    assert strip[:400].max() == 0  # glass
    assert strip[800:1100].min() == 1  # epithelium and stroma


def test_real_slide_without_mpp(shared_data: Path):
    slide = open_slide(shared_data / "slides" / "tcga-no-mpp.svs")
    mask = tissue_mask(slide)
    assert mask.grid.mpp is None
    assert mask.grid.pixel == (8.0, 8.0)
    assert 0.60 < mask.share < 0.65  # the scanner's own seams in the glass are not tissue
    mm = tissue_mask(open_slide(slide.path, mpp=0.5))
    assert mm.share == pytest.approx(mask.share, abs=0.02)


def test_real_images_that_are_all_tissue(shared_data: Path):
    paths = sorted((shared_data / "monuseg-train" / "images").iterdir())
    shares = [tissue_mask(open_slide(path, mpp=0.25)).share for path in paths]
    assert min(shares) > 0.98  # one has a vessel at its edge
    assert np.median(shares) == 1


def test_real_fluorescence(shared_data: Path):
    mask = tissue_mask(open_slide(shared_data / "slides" / "fluorescence-dapi.ndpi"))
    assert 0.75 < mask.share < 0.9
    assert not mask.mask[-6:].any()  # below the section
    assert mask.mask[95:115].mean() > 0.98  # the dense layer, between its nuclei, too
    spot = tissue_mask(open_slide(shared_data / "slides" / "vectra-3channel.qptiff"))
    assert 0.45 < spot.share < 0.6
    assert not spot.mask[:, -25:].any()


def test_it_is_looked_for_once_in_an_open_slide(cmu: Slide):
    found = found_tissue(cmu)
    assert found_tissue(cmu) is found
    np.testing.assert_array_equal(found.mask, tissue_mask(cmu).mask)
    other = slide_from_array(np.full((64, 64, 3), 255, np.uint8), mpp=8.0)
    assert not found_tissue(other).mask.any()


def test_it_is_the_same_each_time(cmu: Slide):
    first, second = tissue_mask(cmu), tissue_mask(open_slide(CMU))
    np.testing.assert_array_equal(first.mask, second.mask)
    assert first.key == second.key != tissue_mask(cmu, pen=False).key


# ------------------------------------------------------------------------------------------------------- all or nothing


def test_all_tissue_comes_out_whole(real: Pixels):
    inner = np.tile(real[568:680, 200:296], (4, 6, 1))
    assert found(inner).all()
    assert found(inner, mpp=None).all()
    pale = (255 - (255 - inner.astype(float)) * 0.5).astype(np.uint8)
    assert found(pale).mean() > 0.98  # empty cracks in it are glass


def test_glass_comes_out_empty():
    assert not found(glass((400, 500))).any()
    assert not found(np.full((400, 500, 3), 255, np.uint8)).any()
    shade = (glass((400, 500)) * np.linspace(1, 0.85, 500)[None, :, None]).astype(np.uint8)
    assert not found(shade).any()


def test_black_that_was_never_scanned_is_no_tissue(real: Pixels):
    pixels = real.copy()
    pixels[:300] = 0
    mask = found(pixels, pen=False)
    assert not mask[:75].any()
    assert (mask[78:] != found(real)[78:]).mean() < 0.02


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_fluorescence(kind: type):
    rng = np.random.default_rng(0)
    light = rng.uniform(0.005, 0.02, (400, 400))
    light[100:300, 150:350] += 0.02
    for y, x in rng.integers((100, 150), (300, 350), (500, 2)):
        light[y : y + 3, x : x + 3] += 0.3
    top = 1 if kind is np.float32 else np.iinfo(kind).max
    mask = found((light * top).astype(kind), mpp=4)
    expected = np.zeros((200, 200), bool)
    expected[50:150, 75:175] = True
    assert (mask & expected).sum() > 0.97 * expected.sum()
    assert (mask & ~expected).sum() < 0.15 * expected.sum()
    noise = rng.uniform(0, 0.02, (400, 400)) * top
    assert not found(noise.astype(kind)).any()
    lit = rng.uniform(0.3, 0.6, (400, 400)) * top
    assert found(lit.astype(kind)).all()


# ---------------------------------------------------------------------------------------------------- pen, fat, islands


@pytest.mark.parametrize("colour", INKS)
def test_pen_marks_are_taken_out(real: Pixels, colour: str):
    """A pen line of 0.4 mm on glass and over the tissue's edge, its edge soft, its ink thinner in places."""
    clean = found(real)
    ink = np.zeros(real.shape[:2])
    for shift in range(200):
        rows, columns = line(60, 10 + shift, 660, 80 + shift)
        ink[rows, columns] = 1
    from scipy import ndimage

    strength = ndimage.gaussian_filter(ink, 2) * np.random.default_rng(0).uniform(0.75, 1.0, ink.shape)
    colours = np.array(INKS[colour]) / 255
    marked = (real * colours ** strength[..., None]).astype(np.uint8)
    mask = found(marked)
    under = slide_from_array(ink.astype(np.float32)[..., None], mpp=MPP)
    under = under.read_window(under.grid(8.0), under.grid(8.0).whole)[..., 0] > 0.5
    assert mask[under & ~clean].mean() < 0.02
    assert mask[under].mean() < 0.2  # over dark tissue the colours are mixed
    assert found(marked, pen=False)[under].mean() > 0.9
    # The rest stays as it was, but what the mark's own border touches.
    away = ~ndimage.binary_dilation(under, iterations=6)
    assert (mask[away] != clean[away]).mean() < 0.02
    assert clean[away].sum() > 1000


def test_stains_are_no_ink(real: Pixels, shared_data: Path):
    np.testing.assert_array_equal(found(real), found(real, pen=False))
    for folder, mpp in (("glas-dev", 0.62), ("monuseg-train", 0.25)):
        for path in sorted((shared_data / folder / "images").iterdir())[::6]:
            slide = open_slide(path, mpp=mpp)
            np.testing.assert_array_equal(tissue_mask(slide).mask, tissue_mask(slide, pen=False).mask)


def test_brown_and_blue_stain_is_no_ink():
    """DAB and haematoxylin (colours after Ruifrok and Johnston 2001), from faint to dark."""
    vectors = np.array([(0.65, 0.70, 0.29), (0.27, 0.57, 0.78)])
    strengths = np.repeat(np.linspace(0.1, 1.6, 400), 2)[None, :, None]
    for vector in vectors:
        pixels = np.broadcast_to(244 * 10 ** -(strengths * vector), (400, 800, 3)).astype(np.uint8)
        assert found(pixels).all()


def test_empty_fat_is_left_out_and_holes_are_filled(real: Pixels):
    rng = np.random.default_rng(1)
    block = np.tile(real[568:680, 200:296], (6, 4, 1))  # 672 x 384 px
    pixels = np.concatenate([block, glass(block.shape[:2])], 1)
    fat = pixels[:, block.shape[1] :]
    # Cells of 80 µm with walls of 1 µm: half the colour of stroma at 2 µm/px.
    fat[::40] = fat[:, ::40] = (226, 196, 218)
    fat += rng.integers(0, 3, fat.shape, dtype=np.uint8)
    hole = disk((300, 200), 20)  # 80 µm across
    pixels[hole] = GLASS
    vessel = disk((500, 200), 80)  # 320 µm across
    pixels[vessel] = GLASS
    mask = found(pixels)
    solid, empty = mask[:, : block.shape[1] // 4], mask[:, block.shape[1] // 4 + 8 :]
    assert empty.mean() < 0.02
    assert solid[75, 50]
    assert not solid[125, 50]
    assert solid.mean() > 0.9
    assert found(pixels, holes=200_000)[125, 50]
    assert not found(pixels, holes=0)[75, 50]


def test_small_islands_are_dropped(real: Pixels):
    pixels = glass((500, 500))
    pixels[100:132, 100:132] = real[600:632, 220:252]  # 64 µm: 4,096 µm²
    pixels[300:400, 300:400] = real[600:700, 190:290]  # 200 µm: 40,000 µm²
    mask = found(pixels)
    assert not mask[:50].any()
    assert mask[76:99, 76:99].all()
    assert found(pixels, smallest=1000)[26:32, 26:32].all()
    assert not found(pixels, smallest=50_000).any()


# ------------------------------------------------------------------------------------------------------------- bounded


def test_large_slides_get_larger_pixels():
    import dask.array as da

    for side, mpp, expected in ((100_000, 0.25, 8.0), (100_000, 0.5, 15.625), (20_000, 0.25, 8.0)):
        array = da.zeros((side, side, 3), np.uint8, chunks=(4096, 4096, 3))
        from napari_msunet.slide.tissue import coarse_grid

        assert coarse_grid(slide_from_array(array, mpp=mpp)).mpp == (expected, expected)
    assert coarse_grid(slide_from_array(array)).shape == (2000, 2000)
    assert coarse_grid(slide_from_array(np.zeros((50, 60, 3), np.uint8), mpp=20)).shape == (50, 60)


def test_progress_counts_and_ends(cmu: Slide):
    steps: list[tuple[int, int]] = []
    tissue_mask(slide_from_array(np.zeros((5000, 40, 3), np.uint8), mpp=4), progress=lambda *a: steps.append(a))
    assert steps == [(n, 10) for n in range(1, 11)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tissue_mask(cmu, progress=stop)


def test_bad_input(cmu: Slide):
    unknown = slide_from_array(np.zeros((50, 60, 3), np.uint8))
    with pytest.raises(MissingMppError, match=r"smallest=500 is in µm².*leave out smallest"):
        tissue_mask(unknown, smallest=500)
    for area in (-1, float("nan"), float("inf")):
        with pytest.raises(SlideError, match="no area"):
            tissue_mask(cmu, holes=area)
    with pytest.raises(MsunetError, match=r"slide of 2967 x 2220 .* 10 x 10"):
        tissue_mask(cmu).on(Grid((10, 10), (1, 1)), Window(0, 0, 5, 5))


# --------------------------------------------------------------------------------------------------------- other grids

pixel = st.floats(0.3, 12)
corner = st.integers(-40, 60)
side = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 300), st.integers(5, 300), pixel, pixel, pixel, corner, corner, side, side, st.integers(0, 99))
def test_windows_agree_and_follow_the_centres(
    height: int, width: int, own: float, py: float, px: float, y: int, x: int, h: int, w: int, seed: int
):
    mask = Held(Grid((height, width), (own, own)), np.zeros((1, 1), bool))
    mask.mask = np.random.default_rng(seed).random(mask.grid.shape) < 0.5
    grid = Grid((height, width), (py, px))
    whole = mask.on(grid, grid.whole)
    window = Window(y, x, h, w)
    part = mask.on(grid, window)
    inside = window.intersection(grid.whole)
    expected = np.zeros(window.shape, bool)
    if not inside.empty:
        expected[inside.slices((y, x))] = whole[inside.slices()]
    np.testing.assert_array_equal(part, expected)
    for row, column in np.random.default_rng(seed).integers(0, grid.shape, (5, 2)).tolist():
        at = int((row + 0.5) * (py / own) + 1e-3), int((column + 0.5) * (px / own) + 1e-3)
        limit = mask.grid.shape
        assert whole[row, column] == mask.mask[min(at[0], limit[0] - 1), min(at[1], limit[1] - 1)]


def test_a_large_window_is_read_in_parts(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    grid = Grid((3000, 3000), (1.0, 1.0))
    mask = Held(grid, rng.random(grid.shape) < 0.1)
    coarse = Grid((3000, 3000), (3.3, 2.7))
    before, cells = mask.on(coarse, coarse.whole), mask.cells(coarse, coarse.whole, 9)
    sizes: list[int] = []
    read = mask.read
    monkeypatch.setattr("napari_msunet.slide.placed._READ", 100_000)
    monkeypatch.setattr(mask, "read", lambda window: (sizes.append(window.height * window.width), read(window))[1])
    np.testing.assert_array_equal(mask.on(coarse, coarse.whole), before)
    np.testing.assert_array_equal(mask.cells(coarse, coarse.whole, 9), cells)
    assert len(sizes) > 100
    assert max(sizes) < 110_000
