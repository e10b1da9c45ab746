"""Exports, read back by the programs that others use: PIL, tifffile, zarr, shapely, our own readers."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from PIL import Image
from shapely.geometry import shape as geometry_of

from napari_msunet._io import output_aside
from napari_msunet.annotation import export, export_events
from napari_msunet.annotation import export as pyramids
from napari_msunet.config import ExportJob
from napari_msunet.errors import OutputError
from napari_msunet.events import Message, Result
from napari_msunet.labels import LabelStore
from napari_msunet.labels.levels import coarsen
from napari_msunet.objects.polygons import label_polygons
from napari_msunet.slide import ngff, open_slide, slide_from_array

from .conftest import blobs

Make = Callable[..., LabelStore]
ENDINGS = (".geojson", ".ome.tif", ".ome.tiff", ".ome.zarr", ".png")


def exported(store: LabelStore, out: Path, region: tuple[float, float, float, float] | None = None) -> Result:
    *_, result = export_events(ExportJob(labels=store.path, out=out, region=region))
    assert isinstance(result, Result)
    assert result.files == {"export": str(out)}
    assert not list(out.parent.glob(".*partial*"))
    return result


def pyramid_of(values: np.ndarray) -> list[np.ndarray]:
    levels = [values]
    while max(levels[-1].shape) > 1024:
        levels.append(coarsen(levels[-1]))
    return levels


# ------------------------------------------------------------------------------------------------------------- GeoJSON


def test_geojson_is_what_qupath_reads(make_store: Make, tmp_path: Path):
    values = blobs((220, 300))
    store = make_store(values, mpp=0.5, colours=("#ff8000", (0, 10, 200)))
    result = exported(store, tmp_path / "labels.geojson")
    collection = json.loads((tmp_path / "labels.geojson").read_text(encoding="utf8"))
    assert collection["type"] == "FeatureCollection"
    features = collection["features"]
    expected = {(s.value, s.polygon.wkb) for s in label_polygons(values)}
    assert len(features) == len(expected) == result.values["objects"] > 30
    got = set()
    for feature in features:
        assert feature["type"] == "Feature"
        UUID(feature["id"])
        assert feature["properties"]["objectType"] == "annotation"
        look = feature["properties"]["classification"]
        value = store.classes.index(look["name"]) + 1
        assert look["color"] == [[255, 128, 0], [0, 10, 200]][value - 1]
        assert all(type(v) is int for ring in feature["geometry"]["coordinates"] for place in ring for v in place)
        got.add((value, shapely.normalize(geometry_of(feature["geometry"])).wkb))
    assert got == expected
    assert len({feature["id"] for feature in features}) == len(features)
    assert any(len(feature["geometry"]["coordinates"]) > 1 for feature in features)  # holes


def test_geojson_is_the_same_for_any_window(make_store: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = make_store(blobs((220, 300)), mpp=0.5)
    exported(store, tmp_path / "one.geojson")
    whole = export.walk_polygons
    monkeypatch.setattr(export, "walk_polygons", lambda read, window: whole(read, window, side=64))
    exported(store, tmp_path / "many.geojson")
    one, many = (json.loads((tmp_path / f"{n}.geojson").read_text()) for n in ("one", "many"))
    assert sorted(one["features"], key=lambda f: f["id"]) == sorted(many["features"], key=lambda f: f["id"])


@pytest.mark.parametrize(("mpp", "whole"), [(1.0, True), (0.62, False), (0.25, False)])
def test_geojson_is_in_level_0_pixels_of_the_slide(make_store: Make, tmp_path: Path, mpp: float, whole: bool):
    slide = slide_from_array(np.zeros((401, 503, 3), np.uint8), mpp=0.5)
    shape = slide.grid(mpp).shape
    values = np.zeros(shape, np.uint8)
    values[5:9, 3:7] = 1
    values[-2:, -3:] = 2  # the last pixels stick out of the slide
    store = make_store(values, slide=slide, mpp=mpp)
    exported(store, tmp_path / "labels.geojson")
    features = json.loads((tmp_path / "labels.geojson").read_text())["features"]
    first, last = sorted((geometry_of(f["geometry"]) for f in features), key=lambda g: g.bounds)
    factor = mpp / 0.5
    np.testing.assert_allclose(first.bounds, np.array([3, 5, 7, 9]) * factor, atol=1e-3)
    np.testing.assert_allclose(last.bounds[2:], [503, 401])
    numbers = [type(v) for f in features for ring in f["geometry"]["coordinates"] for place in ring for v in place]
    assert (set(numbers) == {int}) == whole


def test_geojson_of_a_region_keeps_its_place(make_store: Make, tmp_path: Path):
    store = make_store(np.ones((40, 50), np.uint8), mpp=0.5)
    exported(store, tmp_path / "labels.geojson", region=(10.0, 20.0, 5.0, 100.0))
    (feature,) = json.loads((tmp_path / "labels.geojson").read_text())["features"]
    assert geometry_of(feature["geometry"]).bounds == (20, 10, 50, 15)


# --------------------------------------------------------------------------------------------------- OME-TIFF, OME-Zarr


@pytest.mark.parametrize("region", [None, (101, 203, 1900, 1811), (3, 1000, 700, 600)])
def test_ome_tiff(make_store: Make, tmp_path: Path, region: tuple[int, int, int, int] | None):
    values = blobs((2100, 2600))
    store = make_store(values, mpp=(0.5, 0.25))
    exported(store, tmp_path / "labels.ome.tif", region)
    y, x, height, width = region or (0, 0, *values.shape)
    levels = pyramid_of(values[y : y + height, x : x + width])
    with tifffile.TiffFile(tmp_path / "labels.ome.tif") as tiff:
        assert tiff.is_ome
        assert not tiff.is_bigtiff
        assert len(tiff.pages) == 1
        assert len(tiff.series[0].levels) == len(levels)
        for level, expected in zip(tiff.series[0].levels, levels, strict=True):
            np.testing.assert_array_equal(level.asarray(), expected)
            assert level.pages[0].tile == (512, 512)
            assert level.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        for part in ('PhysicalSizeX="0.25"', 'PhysicalSizeY="0.5"', 'PhysicalSizeXUnit="µm"', ">nucleus<"):
            assert part in tiff.ome_metadata
    with open_slide(tmp_path / "labels.ome.tif") as slide:
        assert slide.mpp == (0.5, 0.25)
        assert slide.shape == (*levels[0].shape, 1)


def test_a_large_tiff_is_a_bigtiff(make_store: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pyramids, "CLASSIC_TIFF", 1000)
    exported(make_store(blobs((600, 600))), tmp_path / "labels.ome.tif")
    with tifffile.TiffFile(tmp_path / "labels.ome.tif") as tiff:
        assert tiff.is_bigtiff


@pytest.mark.parametrize("region", [None, (101, 203, 1900, 1811)])
def test_ome_zarr_is_a_plain_copy(make_store: Make, tmp_path: Path, region: tuple[int, int, int, int] | None):
    values = blobs((2100, 2600))
    store = make_store(values, mpp=0.5)
    out = tmp_path / "copy.ome.zarr"
    exported(store, out, region)
    ngff.validate(out)
    y, x, height, width = region or (0, 0, *values.shape)
    levels = pyramid_of(values[y : y + height, x : x + width])
    group = zarr.open_group(out, mode="r")
    assert sorted(group) == [str(i) for i in range(len(levels))]
    for number, expected in enumerate(levels):
        np.testing.assert_array_equal(group[str(number)][:], expected)
    ome = dict(group.attrs)["ome"]
    assert [p["name"] for p in ome["image-label"]["properties"]] == ["gland", "nucleus"]
    transforms = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert transforms[0]["scale"] == [0.5, 0.5]
    assert [t["translation"] for t in transforms[1:]] == ([] if region is None else [[50.5, 101.5]])
    assert not (out / "journal").exists()
    with pytest.raises(OutputError, match="exists already"):
        exported(store, out, region)
    with pytest.raises(OutputError, match="exists already"):
        exported(store, store.path)
    np.testing.assert_array_equal(store.read(store.grid.whole), values)


# ----------------------------------------------------------------------------------------------------------------- PNG


def test_png_holds_numbers_and_shows_colours(make_store: Make, tmp_path: Path):
    values = blobs((60, 80))
    values[:5] = 255
    store = make_store(values, kind="annotation", mpp=0.5)
    events = list(export_events(ExportJob(labels=store.path, out=tmp_path / "a.png", region=(0, 10, 40, 50))))
    assert any(isinstance(e, Message) and "255 is background" in e.text for e in events)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), values[:40, 10:60])
        shown = np.asarray(image.convert("RGB"))
    for value, colour in ((0, (0, 0, 0)), (1, store.colours[0]), (2, store.colours[1]), (255, (128, 128, 128))):
        assert (shown[values[:40, 10:60] == value] == colour).all()


def test_a_huge_png_is_refused(make_store: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = make_store(blobs((60, 80)))
    monkeypatch.setattr(export, "MAX_PNG", 4000)
    with pytest.raises(OutputError, match=r"smaller region, or export \.ome\.tif"):
        exported(store, tmp_path / "a.png")
    exported(store, tmp_path / "a.png", region=(0, 0, 40, 100))


# ----------------------------------------------------------------------------------------------------------- bad input


def test_an_unknown_ending_lists_the_endings(make_store: Make, tmp_path: Path):
    store = make_store(blobs((20, 20)))
    for name in ("labels.xyz", "labels", "labels.tif", ".png"):
        with pytest.raises(OutputError, match=r"\.geojson, \.json, \.xml, \.ome\.tif, \.ome\.tiff, \.ome\.zarr, \.png"):
            exported(store, tmp_path / name)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_parent_that_is_a_file_is_said_and_nothing_is_left(make_store: Make, tmp_path: Path, ending: str):
    store = make_store(blobs((20, 20)))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        exported(store, tmp_path / "file" / "deeper" / f"x{ending}")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_error_on_the_way_leaves_nothing(
    make_store: Make, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
):
    store = make_store(blobs((1200, 1100)))
    read, calls = LabelStore.read, []

    def failing(self: LabelStore, *arguments: object, **more: object) -> np.ndarray:
        calls.append(arguments)
        if len(calls) > (0 if ending in (".png", ".geojson", ".ome.zarr") else 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        return read(self, *arguments, **more)

    monkeypatch.setattr(LabelStore, "read", failing)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match="disk is full"):
        exported(store, tmp_path / "new" / f"x{ending}")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("ending", [".geojson", ".ome.tif", ".ome.zarr"])
def test_closing_leaves_nothing(make_store: Make, tmp_path: Path, ending: str):
    store = make_store(blobs((2100, 2200)))
    before = sorted(tmp_path.iterdir())
    events = export_events(ExportJob(labels=store.path, out=tmp_path / f"x{ending}"))
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_is_replaced_whole_and_a_failure_keeps_the_old_one(tmp_path: Path):
    path = tmp_path / "x.csv"
    path.write_text("old")

    def fail() -> None:
        with output_aside(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    with output_aside(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
