"""Objects as COCO and ASAP: what is written is what those programs know, and is read back as the same objects."""

import json

import numpy as np
import pytest
import shapely
from defusedxml import ElementTree
from scipy.ndimage import gaussian_filter
from shapely.geometry.polygon import orient

import napari_msunet as ms
from napari_msunet.annotation import read_shape_file
from napari_msunet.objects.polygons import bridged, label_polygons, without_holes

CLASSES = ("a & <b>", "Drüse")


def blobs(seed, size=(150, 200)):
    """Objects of two classes with holes, and holes and islands in these, many of which touch at corners."""
    noise = gaussian_filter(np.random.default_rng(seed).random(size), 2)
    return np.where(noise > np.quantile(noise, 0.45), 1 + (noise > np.quantile(noise, 0.8)), 0).astype(np.uint8)


@pytest.fixture
def store(tmp_path):
    values = blobs(0)
    with ms.LabelStore.create(tmp_path / "s.ome.zarr", values.shape, 0.5, CLASSES) as labels:
        labels.write(ms.Region(0, 0, *values.shape), values)
    return tmp_path / "s.ome.zarr"


@pytest.mark.parametrize("ending", [".geojson", ".json", ".xml"])
def test_the_same_objects_come_back(store, tmp_path, ending):
    ms.export(ms.ExportJob(labels=store, out=tmp_path / f"o{ending}"))
    expected = label_polygons(blobs(0))
    file = read_shape_file(tmp_path / f"o{ending}")
    assert (file.left_out, file.notes, {s.repaired for s in file.shapes}) == ((), (), {""})
    assert len(file.shapes) == len(expected)
    found = [(s.name, s.geometry) for s in file.shapes]
    assert sum(len(p.polygon.interiors) for p in expected) > 50
    assert sum(g.area for _, g in found) == pytest.approx(sum(p.polygon.area for p in expected))
    for name, value in zip(CLASSES, (1, 2), strict=True):
        both = [shapely.union_all([g for n, g in found if n == name])]
        both.append(shapely.union_all([p.polygon for p in expected if p.value == value]))
        assert both[0].symmetric_difference(both[1]).area < 1e-6


def test_coco_is_what_its_tools_expect(store, tmp_path):
    ms.export(ms.ExportJob(labels=store, out=tmp_path / "o.json"))
    found = json.loads((tmp_path / "o.json").read_text(encoding="utf8"))
    assert found["images"] == [{"id": 1, "file_name": "s.ome.zarr", "height": 150, "width": 200}]
    assert [(c["id"], c["name"]) for c in found["categories"]] == [(1, CLASSES[0]), (2, CLASSES[1])]
    assert [a["id"] for a in found["annotations"]] == list(range(1, len(found["annotations"]) + 1))
    for one in found["annotations"]:
        parts = [np.reshape(part, (-1, 2)) for part in one["segmentation"]]
        assert all(len(part) >= 3 for part in parts)
        assert sum(shapely.Polygon(part).area for part in parts) == pytest.approx(one["area"])
        low, high = np.concatenate(parts).min(0), np.concatenate(parts).max(0)
        assert one["bbox"] == pytest.approx([*low, *(high - low)])
        assert (one["image_id"], one["iscrowd"]) == (1, 0)


def test_asap_has_groups_and_names_that_xml_can_hold(store, tmp_path):
    ms.export(ms.ExportJob(labels=store, out=tmp_path / "o.xml"))
    root = ElementTree.parse(tmp_path / "o.xml").getroot()
    groups = {group.get("Name"): group.get("Color") for group in root.iter("Group")}
    assert set(groups) == set(CLASSES)
    for item in root.iter("Annotation"):
        assert item.get("Type") == "Polygon"
        assert item.get("Color") == groups[item.get("PartOfGroup")]
        order = [int(corner.get("Order")) for corner in item.iter("Coordinate")]
        assert order == list(range(len(order)))


@pytest.mark.parametrize("seed", range(6))
def test_an_outline_without_holes_covers_the_same_area(seed):
    for shape in label_polygons(blobs(seed)):
        ring = bridged(orient(shape.polygon))
        x, y = (ring - ring[0]).T
        assert (ring[0] == ring[-1]).all()
        assert abs((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2) == pytest.approx(shape.polygon.area)
        pieces = without_holes(shape.polygon)
        assert not any(piece.interiors for piece in pieces)
        assert shapely.union_all(pieces).symmetric_difference(shape.polygon).area < 1e-6


def test_damaged_parts_are_not_counted(store, tmp_path):
    chunks = sorted((store / "0").rglob("c/*/*"), key=lambda path: path.stat().st_size)
    data = bytearray(chunks[-1].read_bytes())
    data[len(data) // 2] ^= 255
    chunks[-1].write_bytes(data)
    job = ms.ExportJob(labels=store, out=tmp_path / "o.json", damaged="skip")
    ms.export(job)
    found = json.loads((tmp_path / "o.json").read_text(encoding="utf8"))
    assert found["categories"][-1]["name"] == "Ignore*"
    assert [a["iscrowd"] for a in found["annotations"] if a["category_id"] == found["categories"][-1]["id"]] == [1]
    ms.export(job.model_copy(update={"out": tmp_path / "o.xml"}))
    assert [s.name for s in read_shape_file(tmp_path / "o.xml").shapes] == ["Ignore*"]
