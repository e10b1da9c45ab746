"""A label store belongs to one slide, known by its pixels, wherever the two meet."""

import json
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

import napari_msunet as ms
from napari_msunet.annotation import import_file
from napari_msunet.config import InClasses, ModelConfig, SlideSource, UNetConfig
from napari_msunet.data.sources import slide_item
from napari_msunet.errors import StoreError
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.labels.area import where_mask
from napari_msunet.slide import open_slide, slide_from_array
from napari_msunet.slide.identity import same_pixels
from napari_msunet.training.agreement import agreement

SIZE = (300, 400)
NOT_OF = r"l.ome.zarr holds labels of a.tif, not of b.tif: .* their pixels differ"


def tissue(seed):
    """Smooth blobs on white, as tissue on glass."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(80, 255, (8, 10, 3), dtype=np.uint8))
    return np.asarray(small.resize(SIZE[::-1], Image.Resampling.BICUBIC))


def save(path, pixels, **how):
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
        **{"tile": (64, 64)} | how,
    )
    return path


@pytest.fixture
def slides(tmp_path):
    return save(tmp_path / "a.tif", tissue(0)), save(tmp_path / "b.tif", tissue(1))


@pytest.fixture
def store(slides, tmp_path):
    with open_slide(slides[0]) as slide:
        made = LabelStore.create(tmp_path / "l.ome.zarr", classes=("gland",), slide=slide)
    made.write(ms.Region(10, 10, 50, 50), 1)
    return made


def test_the_same_pixels_in_other_files(store, slides, tmp_path):
    moved = shutil.copy(slides[0], tmp_path / "moved.tif")
    stripes = save(tmp_path / "stripes.tif", tissue(0), tile=None, compression="zlib")
    png = tmp_path / "a.png"
    Image.fromarray(tissue(0)).save(png)
    jpeg = tmp_path / "a.jpg"
    Image.fromarray(tissue(0)).save(jpeg, quality=80)
    zarr = tmp_path / "a.ome.zarr"
    ms.build_pyramid(slides[0], zarr)
    for path in (slides[0], moved, stripes, png, jpeg, zarr):
        with open_slide(path) as slide:
            store.check_slide(slide)
    store.check_slide(slide_from_array(tissue(0)))
    with open_slide(slides[1]) as other, pytest.raises(StoreError, match=NOT_OF):
        store.check_slide(other)
    with pytest.raises(StoreError, match="not of this image"):
        store.check_slide(slide_from_array(255 - tissue(0)))


def test_one_changed_place_is_another_slide(store):
    pixels = tissue(0).copy()
    pixels[100:200, 100:200] = 255
    with pytest.raises(StoreError, match="pixels differ"):
        store.check_slide(slide_from_array(pixels))


@pytest.mark.parametrize("dtype", ["uint16", "float32", "int16"])
def test_other_types_of_pixels(tmp_path, dtype):
    pixels = (tissue(0)[..., :1].astype(np.float64) / 255 * (1 if dtype == "float32" else 4095)).astype(dtype)
    store = LabelStore.create(tmp_path / "l.ome.zarr", classes=("a",), slide=slide_from_array(pixels, mpp=0.5))
    store.check_slide(slide_from_array(pixels.copy()))
    with pytest.raises(StoreError, match="pixels differ"):
        store.check_slide(slide_from_array(pixels[::-1]))


def test_a_store_that_does_not_know_its_slide(slides, tmp_path):
    """Those made before, and without a slide, take the first and keep it."""
    path = tmp_path / "l.ome.zarr"
    LabelStore.create(path, shape=SIZE, mpp=0.5, classes=("gland",)).close()
    text = json.loads((path / "zarr.json").read_text())
    del text["attributes"]["napari_msunet"]["fingerprint"]  # as stores were before
    (path / "zarr.json").write_text(json.dumps(text))
    with open_slide(slides[0]) as first, open_slide(slides[1]) as second:
        with open_labels(path) as store:
            store.check_slide(first)
            assert not store._lock.held  # whoever only looked does not keep others from writing
        with open_labels(path) as store:
            store.check_slide(first)
            with pytest.raises(StoreError, match=NOT_OF):
                store.check_slide(second)


def test_every_door(store, slides, tmp_path):
    shapes = tmp_path / "a.geojson"
    shapes.write_text('{"type": "Polygon", "coordinates": [[[1, 1], [50, 1], [50, 50]]]}')
    config = ModelConfig(classes=("gland",), mpp=0.5, scales=(1.0,), fusion="mean", branch=UNetConfig(depth=2, width=4))
    with open_slide(slides[1]) as other:
        with pytest.raises(StoreError, match=NOT_OF):
            where_mask(other, InClasses(labels=store.path))
        with pytest.raises(StoreError, match=NOT_OF):
            import_file(shapes, store.path, other)
        with pytest.raises(StoreError, match=NOT_OF):
            slide_item(SlideSource(slide=slides[1], labels=store.path), config, lambda level, text: None)
        theirs = LabelStore.create(tmp_path / "other.ome.zarr", classes=("gland",), slide=other)
    with pytest.raises(StoreError, match=r"belongs to a.tif and .* to b.tif"):
        agreement(store, theirs)
    before = store.read(ms.Region(0, 0, *SIZE))
    with pytest.raises(StoreError, match=rf"{NOT_OF}; give another output"):
        ms.predict(slides[1], ms.build_model(config), out=store.path, device="cpu")
    assert np.array_equal(store.read(ms.Region(0, 0, *SIZE)), before)
    assert not store.runs
    item = slide_item(SlideSource(slide=slides[0], labels=store.path), config, lambda level, text: None)
    item.release()


def test_places_that_cannot_be_read_are_not_compared():
    from napari_msunet.errors import SlideError
    from napari_msunet.slide.identity import fingerprint

    pixels = tissue(0)

    def damaged(region):
        if region.y > 150:
            raise SlideError("a damaged tile")
        y, x = int(region.y), int(region.x)
        return pixels[y : y + int(region.height), x : x + int(region.width)]

    whole = slide_from_array(pixels).fingerprint
    assert same_pixels(whole, fingerprint(damaged, pixels.shape, pixels.dtype))
    assert not same_pixels(slide_from_array(tissue(1)).fingerprint, fingerprint(damaged, pixels.shape, pixels.dtype))
    assert same_pixels("of a later version", whole)
