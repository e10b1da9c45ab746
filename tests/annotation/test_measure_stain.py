"""Measuring with the slide: stain, rings, positive objects, regions, tissue, densities; and what the files say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import binary_dilation, distance_transform_edt, label

import napari_msunet as ms
from napari_msunet import LabelStore
from napari_msunet.annotation import measure, measure_events, read_shape_file
from napari_msunet.config import MeasureJob
from napari_msunet.errors import MsunetError, OutputError, SlideError, StoreError
from napari_msunet.events import Result
from napari_msunet.objects.density import density_map, hotspots, neighbours
from napari_msunet.objects.stain import COLOURS, h_score, stain_densities

from .conftest import blobs
from .test_measure import rows

Make = Callable[..., LabelStore]


def ran(**job: object) -> Result:
    result = list(measure_events(MeasureJob(**job)))[-1]
    assert isinstance(result, Result)
    return result


def stained(first: np.ndarray, second: np.ndarray, name: str) -> np.ndarray:
    """Pixels with these densities of haematoxylin and another stain, on glass of 240."""
    mixed = sum(
        d[..., None] * np.array(COLOURS[n]) / np.linalg.norm(COLOURS[n])
        for d, n in ((first, "haematoxylin"), (second, name))
    )
    return np.rint(240 * 10 ** -np.asarray(mixed)).astype(np.uint8)


def ihc(tmp_path: Path, shape: tuple[int, int] = (400, 500)) -> tuple[np.ndarray, np.ndarray, Path]:
    """Labels, the density of DAB in each pixel, and a slide of them with 0.5 µm per pixel."""
    values = blobs(shape, 3)
    values[:100] = 0  # glass
    numbers, count = label(values > 0)
    strength = np.r_[0, np.random.default_rng(0).uniform(0, 0.8, count)]
    density = strength[numbers]
    around = binary_dilation(values > 0, iterations=6) & (values == 0)
    density[around] = 0.3
    pixels = stained(0.25 * (values > 0), density, "dab")
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, pixels, resolution=(20000, 20000), resolutionunit="CENTIMETER", photometric="rgb")
    return values, density, path


def test_stains_are_parted():
    rng = np.random.default_rng(0)
    for other in ("eosin", "dab"):
        first, second = rng.uniform(0, 0.6, (2, 30, 40))
        found = stain_densities(stained(first, second, other), np.full(3, 240.0), ("haematoxylin", other))
        assert np.abs(found - [first, second]).max() < 0.02


@pytest.mark.parametrize("side", [64, 2048])
def test_stain_of_each_object_and_its_ring(
    make_store: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
):
    walk = measure.walk_polygons
    monkeypatch.setattr(measure, "walk_polygons", lambda read, window, planes: walk(read, window, side, planes))
    values, density, path = ihc(tmp_path)
    store = make_store(values, mpp=0.5)
    job = {"labels": store.path, "out": tmp_path / "o.csv", "slide": path, "stain": "haematoxylin-dab", "ring": 2.0}
    ran(**job)
    distance, (y, x) = distance_transform_edt(values == 0, sampling=0.5, return_indices=True)
    found = rows(tmp_path / "o.csv")
    for row in found:
        top, left = int(float(row["box_y_px"])), int(float(row["box_x_px"]))
        box = np.s_[top : top + int(float(row["box_height_px"])), left : left + int(float(row["box_width_px"]))]
        kind = store.classes.index(row["class"]) + 1
        parts, count = label(values[box] == kind)
        pixels = round(float(row["area_um2"]) / 0.25)
        mean = float(row["dab_od"])
        fits = (n for n in range(1, count + 1) if (parts == n).sum() == pixels)
        inside = next(n for n in fits if abs(density[box][parts == n].mean() - mean) < 0.02)
        own = np.zeros(values.shape, bool)
        own[box] = parts == inside
        ring = (distance > 0) & (distance <= 2) & own[y, x]
        assert float(row["haematoxylin_od"]) == pytest.approx(0.25, abs=0.02)
        if ring.any():
            assert float(row["ring_dab_od"]) == pytest.approx(density[ring].mean(), abs=0.02)
        else:
            assert row["ring_dab_od"] == ""
    assert len(found) > 50


def test_positive_objects_and_the_h_score(make_store: Make, tmp_path: Path):
    values, _, path = ihc(tmp_path)
    store = make_store(values, mpp=0.5)
    job = {"labels": store.path, "out": tmp_path / "o.csv", "slide": path, "stain": "haematoxylin-dab"}
    result = ran(**job, thresholds=(0.1, 0.3, 0.5))
    found = rows(tmp_path / "o.csv")
    for table in result.values["classes"]:
        dab = np.array([float(row["dab_od"]) for row in found if row["class"] == table["class"]])
        counts = [int((g == np.digitize(dab, (0.1, 0.3, 0.5))).sum()) for g in range(4)]
        assert [table[n] for n in ("negative", "weak", "moderate", "strong")] == counts
        assert table["h_score"] == pytest.approx(100 * (counts[1] + 2 * counts[2] + 3 * counts[3]) / sum(counts))
        assert table["positive_share"] == pytest.approx(sum(counts[1:]) / sum(counts))
    by_ring = ran(**job, ring=2.0, positive_by="ring").values["classes"]
    assert by_ring != ran(**job, ring=2.0).values["classes"]
    assert h_score([0, 0, 0, 2]) == 300
    assert h_score([0, 0, 0, 0]) is None


def test_share_of_tissue_and_regions(make_store: Make, tmp_path: Path):
    values, _, path = ihc(tmp_path, (600, 700))
    store = make_store(values, mpp=0.5)
    square = [[100.5, 80.25], [400, 80.25], [400, 300], [100.5, 300], [100.5, 80.25]]
    far = [[9000, 9000], [9010, 9000], [9010, 9010], [9000, 9000]]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"name": name}}
        for name, ring in (("core", square), ("far", far))
    ]
    file = tmp_path / "regions.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    events = list(measure_events(MeasureJob(labels=store.path, out=tmp_path / "o.csv", slide=path, regions=file)))
    assert any("lie outside" in event.text for event in events if hasattr(event, "text"))
    whole = events[-1].values["classes"]
    (tissue,) = {round(row["objects"] * 1e6 / row["per_mm2_of_tissue"]) for row in whole}
    assert 0.5 < tissue / (values.size * 0.25) < 1
    with ms.open_slide(path) as slide:
        mask = ms.tissue_mask(slide).on(store.grid, store.grid.whole)
    for value, row in enumerate(whole, 1):
        assert row["share_of_tissue"] == pytest.approx((mask & (values == value)).sum() / mask.sum(), abs=0.02)
    fine = np.zeros((2400, 2800), bool)
    fine[321:1200, 402:1600] = True  # the square, in quarters of pixels
    enlarged = np.kron(values, np.ones((4, 4), np.uint8))
    table = rows(tmp_path / "o.regions.csv")
    assert [(row["name"], row["class"]) for row in table] == [("core", "gland"), ("core", "nucleus")]
    found = rows(tmp_path / "o.csv")
    for value, row in enumerate(table, 1):
        area = (fine & (enlarged == value)).sum() / 64
        assert float(row["area_um2"]) == pytest.approx(area)
        assert float(row["share"]) == pytest.approx(area / (fine.sum() / 64))
        centres = [(float(r["centroid_y_px"]), float(r["centroid_x_px"])) for r in found if r["class"] == row["class"]]
        count = sum(80.25 < y < 300 and 100.5 < x < 400 for y, x in centres)
        assert int(row["objects"]) == count
        assert float(row["per_mm2"]) == pytest.approx(count * 1e6 / (fine.sum() / 64))
        assert 0 < float(row["share_of_tissue"]) <= 1


def test_what_was_labelled_beside_the_tissue_is_no_share_of_it(make_store: Make, tmp_path: Path):
    """Labels that are wider than the tissue covered 113 % of it."""
    values, _, path = ihc(tmp_path, (600, 700))
    store = make_store(np.ones_like(values), mpp=0.5)
    (row, *_) = ran(labels=store.path, out=tmp_path / "o.csv", slide=path).values["classes"]
    assert row["share_of_tissue"] == pytest.approx(1)
    assert row["share"] == 1


def test_neighbours_density_and_hotspots(make_store: Make, tmp_path: Path):
    values = np.zeros((1000, 1200), np.uint8)
    values[20:1000:50, 20:1200:50] = 1
    values[400:500:8, 600:700:8] = 1  # a crowd
    store = make_store(values, mpp=0.5)
    result = ran(labels=store.path, out=tmp_path / "o.csv", neighbours=10, density=60, hotspots=2)
    found = rows(tmp_path / "o.csv")
    centres = np.array([[float(row["centroid_y_um"]), float(row["centroid_x_um"])] for row in found])
    apart = np.hypot(*(centres[:, None] - centres).T)
    np.fill_diagonal(apart, np.inf)
    assert [int(row["neighbours"]) for row in found] == (apart <= 10).sum(0).tolist()
    np.testing.assert_allclose([float(row["nearest_um"]) for row in found], apart.min(0))
    first, second = result.values["hotspots"]
    assert first["objects"] > second["objects"] > 0
    assert 200 < first["centre_y_um"] < 250
    assert 300 < first["centre_x_um"] < 350
    inside = np.hypot(centres[:, 0] - first["centre_y_um"], centres[:, 1] - first["centre_x_um"]) <= 30
    assert first["objects"] == inside.sum()
    assert first["per_mm2"] == pytest.approx(inside.sum() / (np.pi * 0.03**2))
    with tifffile.TiffFile(tmp_path / "o.density.ome.tif") as tiff:
        image = tiff.asarray()
        assert 'PhysicalSizeX="3.75"' in tiff.ome_metadata
    image = image.reshape(-1, *image.shape[-2:])[0]
    y, x = np.unravel_index(image.argmax(), image.shape)
    assert abs(y * 3.75 - first["centre_y_um"]) < 8
    assert abs(x * 3.75 - first["centre_x_um"]) < 8
    assert len(rows(tmp_path / "o.hotspots.csv")) == 2


def test_no_objects_have_no_neighbours():
    assert len(neighbours(np.zeros((0, 2)), 5).count) == 0
    assert np.isnan(neighbours(np.zeros((1, 2)), 5).nearest).all()
    assert hotspots(np.zeros((0, 2)), (10, 10), 2, 3) == []
    assert density_map(np.zeros((0, 2)), (10, 10), 2).values.max() == 0
    spots = hotspots(np.random.default_rng(0).uniform(0, 100, (50, 2)), (100, 100), 10, 100)
    assert sum(spot.objects for spot in spots) <= 50


def test_each_file_says_where_it_comes_from(make_store: Make, tmp_path: Path):
    store = make_store(blobs((60, 80)), mpp=1.0)
    ran(labels=store.path, out=tmp_path / "o.csv", neighbours=20, header=True)
    for name in ("o.csv", "o.classes.csv"):
        lines = (tmp_path / name).read_text(encoding="utf8").splitlines()
        said = dict(line[2:].split(": ", 1) for line in lines if line.startswith("#"))
        assert {"slide", "model", "run", "settings", "version"} <= said.keys()
        assert said["labels"] == store.path.name
        assert json.loads(said["settings"])["neighbours"] == 20
        assert str(tmp_path) not in "".join(said.values())
    ran(labels=store.path, out=tmp_path / "plain.csv", neighbours=20)
    assert (tmp_path / "plain.csv").read_text(encoding="utf8").startswith("id,")
    beside = json.loads((tmp_path / "plain.csv-metadata.json").read_text(encoding="utf8"))
    assert beside["tables"] == [{"url": "plain.csv"}, {"url": "plain.classes.csv"}]
    assert {"slide", "model", "run", "settings", "version"} <= beside["napari_msunet"].keys()
    ran(labels=store.path, out=tmp_path / "o.geojson")
    found = json.loads((tmp_path / "o.geojson").read_text(encoding="utf8"))
    assert found["napari_msunet"]["version"].startswith("napari-msunet ")
    table = rows(tmp_path / "o.csv")
    assert [f["id"] for f in found["features"]] == [row["id"] for row in table]
    measured = [f["properties"]["measurements"]["area_um2"] for f in found["features"]]
    np.testing.assert_allclose(measured, [float(row["area_um2"]) for row in table])
    assert len(read_shape_file(tmp_path / "o.geojson").shapes) == len(table)


def test_parquet(make_store: Make, tmp_path: Path):
    pq = pytest.importorskip("pyarrow.parquet")
    store = make_store(blobs((200, 300)), mpp=1.0)
    ran(labels=store.path, out=tmp_path / "o.csv")
    ran(labels=store.path, out=tmp_path / "o.parquet")
    table = pq.read_table(tmp_path / "o.parquet")
    found = rows(tmp_path / "o.csv")
    assert table.column_names == list(found[0])
    assert table["id"].to_pylist() == [row["id"] for row in found]
    np.testing.assert_allclose(table["perimeter_um"].to_numpy(), [float(row["perimeter_um"]) for row in found])
    assert json.loads(table.schema.metadata[b"napari_msunet"])["labels"] == store.path.name
    assert pq.read_table(tmp_path / "o.classes.parquet")["class"].to_pylist() == list(store.classes)


def test_parquet_without_its_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(OutputError, match=r"napari-msunet\[parquet\]"):
        ran(labels=tmp_path / "none", out=tmp_path / "o.parquet")


def test_what_cannot_be_measured_on_a_slide_is_said(make_store: Make, tmp_path: Path):
    values, _, _ = ihc(tmp_path, (220, 150))
    store = make_store(values, mpp=0.5)
    job = {"labels": store.path, "out": tmp_path / "o.csv"}
    with pytest.raises(StoreError, match="give it"):
        ran(**job, stain="haematoxylin-dab")
    with pytest.raises(StoreError, match="give it"):
        ran(**job, tissue=tmp_path / "tissue.ome.zarr")
    tifffile.imwrite(tmp_path / "grey.tif", np.zeros((220, 150), np.uint16))
    with pytest.raises(SlideError, match="bright-field"):
        ran(**job, slide=tmp_path / "grey.tif", slide_mpp=0.5, stain="haematoxylin-eosin")
    other = tmp_path / "other.tif"
    tifffile.imwrite(other, np.full((50, 50, 3), 200, np.uint8), photometric="rgb")
    with pytest.raises(StoreError):
        ran(**job, slide=other, slide_mpp=0.5)
    with pytest.raises(OutputError, match="too small"):
        ran(**job, density=0.01)
    for wrong in ({"positive_by": "ring"}, {"thresholds": (0.5, 0.4, 0.6)}):
        with pytest.raises((ValueError, MsunetError)):
            ran(**job, **wrong)
    assert not list(tmp_path.glob("o.*"))
