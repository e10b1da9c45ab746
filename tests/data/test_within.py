"""Background that nobody marked comes from inside the tissue only; what a person marked counts anywhere."""

from pathlib import Path

import numpy as np
import pytest
from data.making import CONFIG

from napari_msunet.config import SlideSource
from napari_msunet.config.prediction import Drawn, InClasses
from napari_msunet.constants import IGNORED
from napari_msunet.data import Item, load_sources
from napari_msunet.data.sampling import Sampler, validation_spots
from napari_msunet.errors import MsunetError, SourceError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore
from napari_msunet.slide import Slide, build_pyramid, open_slide

SIDE = 1024
TISSUE = (slice(0, 512), slice(0, 256))
"""Level-0 pixels of the slide that are stained: an eighth of it."""


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    pixels = np.full((SIDE, SIDE, 3), 244, np.uint8)
    pixels[TISSUE] = (200, 120, 170)
    pixels += rng.integers(0, 4, pixels.shape, dtype=np.uint8)
    return build_pyramid(pixels, tmp_path_factory.mktemp("slide") / "s.ome.zarr", mpp=2.0)


@pytest.fixture
def slide(slide_path: Path) -> Slide:
    return open_slide(slide_path)


def item(slide_path: Path, labels: Path, **options: object) -> Item:
    (one,) = load_sources(
        [SlideSource(slide=slide_path, labels=labels, **options)], CONFIG.model_copy(update={"mpp": 2.0})
    )
    return one


def whole(one: Item) -> np.ndarray:
    return one.truth.read(one.truth.grid.whole)


def test_labels_are_background_inside_the_tissue_only(tmp_path: Path, slide_path: Path, slide: Slide):
    store = LabelStore.create(tmp_path / "l.ome.zarr", classes=("disc",), slide=slide)
    store.write(Region(100, 100, 20, 20), 1)
    store.write(Region(900, 900, 20, 20), 1)  # on glass, but somebody says so
    one = item(slide_path, store.path, within="tissue")
    values = whole(one)
    expected = np.full((SIDE, SIDE), IGNORED)
    expected[TISSUE] = 0
    expected[100:120, 100:120] = expected[900:920, 900:920] = 1
    assert (values != expected).mean() < 0.01  # the mask's pixels are 8 µm: the tissue's edge may be one off
    assert (values[expected == 1] == 1).all()
    plain = whole(item(slide_path, store.path))
    assert (plain == 0).mean() > 0.99


def test_windows_come_from_the_tissue(tmp_path: Path, slide_path: Path, slide: Slide):
    store = LabelStore.create(tmp_path / "l.ome.zarr", classes=("disc",), slide=slide)
    store.write(Region(100, 100, 20, 20), 1)

    def shares(one: Item) -> float:
        windows = [spot.window for spot in Sampler([one], 64, 4, 0).epoch(0, 200)]
        return float(np.mean([(one.truth_on_target(w) != IGNORED).any() and w.y < 512 and w.x < 256 for w in windows]))

    assert shares(item(slide_path, store.path, within="tissue")) == 1
    assert shares(item(slide_path, store.path)) < 0.7
    cells = [s.core for s in validation_spots([item(slide_path, store.path, within="tissue")], 64, 4, 1000)]
    assert all(c is not None and c.y < 520 and c.x < 264 for c in cells)
    assert len(cells) >= 32


def test_of_an_annotation_only_unmarked_background_is_left_out(tmp_path: Path, slide_path: Path, slide: Slide):
    store = LabelStore.create(tmp_path / "a.ome.zarr", classes=("disc",), kind="annotation", slide=slide)
    store.mark_annotated([(0, 0), (0, SIDE), (SIDE, SIDE), (SIDE, 0)])
    store.write(Region(800, 800, 40, 40), 255)  # glass, painted as background
    store.write(Region(10, 10, 40, 40), 1)
    values = whole(item(slide_path, store.path, within="tissue"))
    assert (values[800:840, 800:840] == 0).all()
    assert (values[860:, 300:] == IGNORED).all()
    assert (values[60:500, 10:240] == 0).all()
    assert (values[10:50, 10:50] == 1).all()


def test_corrections_count_wherever_they_are(tmp_path: Path, slide_path: Path, slide: Slide):
    store = LabelStore.create(tmp_path / "l.ome.zarr", classes=("disc",), slide=slide)
    store.write(Region(800, 800, 40, 40), 0)
    values = whole(item(slide_path, store.path, within="tissue", edited_only=True))
    assert (values[800:840, 800:840] == 0).all()
    assert (values == 0).sum() == 1600


def test_polygons_and_stores_too(tmp_path: Path, slide_path: Path, slide: Slide):
    store = LabelStore.create(tmp_path / "l.ome.zarr", classes=("disc",), slide=slide)
    square = Drawn(polygons=(((0, 0), (0, 64), (64, 64), (64, 0)),))
    values = whole(item(slide_path, store.path, within=square))
    assert (values[:64, :64] == 0).all()
    assert (values == 0).sum() == 64 * 64
    other = LabelStore.create(tmp_path / "t.ome.zarr", classes=("tissue",), slide=slide, mpp=8)
    other.write(Window(0, 0, 10, 20), 1)
    values = whole(item(slide_path, store.path, within=InClasses(labels=other.path, classes=("tissue",))))
    assert (values[:40, :80] == 0).all()
    assert (values == 0).sum() == 40 * 80


def test_what_cannot_be(tmp_path: Path, slide_path: Path, slide: Slide):
    store = LabelStore.create(tmp_path / "l.ome.zarr", classes=("disc",), slide=slide)
    empty = LabelStore.create(tmp_path / "t.ome.zarr", classes=("tissue",), slide=slide, mpp=8)
    with pytest.raises(SourceError, match="within"):
        item(slide_path, store.path, within=InClasses(labels=empty.path))
    with pytest.raises(MsunetError, match="no class stroma; it has tissue"):
        item(slide_path, store.path, within=InClasses(labels=empty.path, classes=("stroma",)))
