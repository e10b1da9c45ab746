"""napari's File > Save writes labels that QuPath, NGFF readers and TIFF viewers open."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from napari.layers import Labels
from npe2 import PluginManager, PluginManifest

import napari_msunet as ms
from napari_msunet.errors import MsunetError
from napari_msunet.widgets.paint import PyramidLabels
from napari_msunet.widgets.writer import write_labels

PLUGIN = "napari-msunet"


@pytest.fixture
def layer(tmp_path: Path) -> PyramidLabels:
    store = ms.LabelStore.create(tmp_path / "store.ome.zarr", (300, 200), 0.5, ("gland", "vessel"))
    store.write(ms.Region(10, 20, 40, 30), 2)
    layer = PyramidLabels(store)
    layer.paint((100, 100), 1)
    return layer


@pytest.fixture(autouse=True)
def plugins() -> None:
    """napari's tests run without plugins; ours is needed here."""
    manager = PluginManager.instance()
    if PLUGIN not in manager:
        manager.register(PluginManifest.from_distribution(PLUGIN))


def saved(path: Path, layer: Labels) -> Path:
    """What File > Save writes with our plugin."""
    (found,) = layer.save(str(path), plugin=PLUGIN)
    return Path(found)


def test_painted_labels_are_saved_as_they_are_shown(layer: PyramidLabels, tmp_path: Path) -> None:
    shown = np.asarray(layer.data[0])
    features = json.loads(saved(tmp_path / "out.geojson", layer).read_text())["features"]
    assert sorted(f["properties"]["classification"]["name"] for f in features) == ["gland", "vessel"]
    assert saved(tmp_path / "out.tif", layer) == tmp_path / "out.ome.tif"
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.ome.tif"), shown)
    assert saved(tmp_path / "out.zarr", layer) == tmp_path / "out.ome.zarr"
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "out.ome.zarr", mode="r")["0"][:], shown)


def test_labels_of_another_plugin_are_saved_too(tmp_path: Path) -> None:
    values = np.zeros((64, 80), np.int32)
    values[5:20, 7:30] = 3
    path = saved(tmp_path / "plain.geojson", Labels(values, scale=(0.5, 0.5), units="um"))
    (feature,) = json.loads(path.read_text())["features"]
    assert feature["properties"]["classification"]["name"] == "class 3"
    assert np.array(feature["geometry"]["coordinates"][0]).max(0).tolist() == [30, 20]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain.geojson"]
    for values in (np.zeros((3, 8, 8), int), np.full((8, 8), 300)):
        with pytest.raises(MsunetError, match=r"can be saved as labels|classes are 1 to 254"):
            write_labels(str(tmp_path / "no.geojson"), values, {"name": "bad"})
