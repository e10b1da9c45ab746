"""Dropping and opening files, sample data, the manifest."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from napari.components import ViewerModel
from npe2 import PluginManager, PluginManifest
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent

import napari_msunet as ms
from napari_msunet.constants import OUTLINE_ENDINGS
from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.slide import open_slide
from napari_msunet.slide.slide import DOUBLE, READABLE, SLIDES
from napari_msunet.widgets import samples
from napari_msunet.widgets.layer_slides import slide_of, slide_path
from napari_msunet.widgets.paint import PyramidLabels
from napari_msunet.widgets.reader import chosen, get_slide_reader

PLUGIN = "napari-msunet"


@pytest.fixture
def plugins():
    """napari's tests run without plugins; ours is needed here."""
    manager = PluginManager.instance()
    if PLUGIN not in manager:
        manager.register(PluginManifest.from_distribution(PLUGIN))
    return manager


@pytest.fixture
def store(tmp_path):
    """An annotation store on the sample slide, with a disc of class 1, closed."""
    path = tmp_path / "annotation.ome.zarr"
    with (
        open_slide(samples.slide_path()) as slide,
        LabelStore.create(path, classes=("gland",), kind="annotation", slide=slide) as labels,
    ):
        labels.write(region(100, 100, 50, 50), 1)
    return path


def region(*values):
    from napari_msunet.geometry import Region

    return Region(*map(float, values))


def drop(viewer, path):
    """A file falls onto the canvas, as Qt tells it."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    event = QDropEvent(
        QPointF(50, 50),
        Qt.DropAction.CopyAction,
        data,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    viewer.window._qt_viewer.dropEvent(event)


def test_a_dropped_slide_is_a_lazy_layer(make_napari_viewer, plugins, tmp_path):
    from napari.settings import get_settings

    get_settings().plugins.extension2reader = {"*.svs": PLUGIN}
    viewer = make_napari_viewer(show=True)
    drop(viewer, samples.slide_path())
    (layer,) = viewer.layers
    assert layer.multiscale
    assert slide_path(layer) == samples.slide_path()
    assert layer.source.reader_plugin == PLUGIN
    np.testing.assert_allclose(layer.scale, 0.499)


def test_a_dropped_store_can_be_painted_on(make_napari_viewer, plugins, store):
    from napari.settings import get_settings

    get_settings().plugins.extension2reader = {"*.zarr/": PLUGIN}
    viewer = make_napari_viewer(show=True)
    viewer.open(samples.slide_path(), plugin=PLUGIN)
    drop(viewer, store)
    layer = viewer.layers[-1]
    assert isinstance(layer, PyramidLabels)
    assert layer.editable
    assert layer._type_string == "labels"
    np.testing.assert_allclose(layer.scale, viewer.layers[0].scale)
    np.testing.assert_allclose(layer.translate, viewer.layers[0].translate)
    layer.brush_size = 11
    layer.paint((500, 500), 1)
    viewer.close()
    open_labels(store).close()
    again = open_labels(store)
    assert again.read(region(500, 500, 1, 1))[0, 0] == 1
    again.close()


def test_a_store_held_by_another_process_is_shown_and_says_by_whom(make_napari_viewer, plugins, store):
    from napari.utils.notifications import notification_manager

    holder = (
        "import sys; from napari_msunet.labels import open_labels\n"
        f"store = open_labels({str(store)!r}); store.hold(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        told = []
        notification_manager.notification_ready.connect(told.append)
        viewer = make_napari_viewer()
        (layer,) = viewer.open(store, plugin=PLUGIN)
        notification_manager.notification_ready.disconnect(told.append)
        assert any(f"process {process.pid}" in one.message for one in told)
        assert not layer.editable
        np.testing.assert_array_equal(layer.data[0][100:102, 99:102], [[0, 1, 1], [0, 1, 1]])
        process.stdin.close()


def test_several_files_at_once(plugins, tmp_path):
    viewer = ViewerModel()
    copy = tmp_path / "copy.svs"
    shutil.copyfile(samples.slide_path(), copy)
    viewer.open([samples.slide_path(), copy], plugin=PLUGIN)
    assert [slide_path(layer) for layer in viewer.layers] == [samples.slide_path(), copy]
    stacked = ViewerModel()
    stacked.open([samples.slide_path(), copy], plugin=PLUGIN, stack=True)
    assert len(stacked.layers) == 2


def test_what_is_not_ours_is_left_to_others(tmp_path):
    (tmp_path / "folder.zarr").mkdir()
    assert get_slide_reader(str(tmp_path / "folder.zarr")) is None
    assert get_slide_reader(str(tmp_path / "missing.svs")) is None
    assert get_slide_reader([]) is None
    assert get_slide_reader(str(samples.slide_path())) is not None


def test_a_damaged_file_is_one_sentence(plugins, tmp_path):
    path = tmp_path / "broken.svs"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="is no image that can be read"):
        ViewerModel().open(path, plugin=PLUGIN)


def test_a_zarr_chosen_by_its_metadata_is_its_folder(tmp_path):
    assert chosen(tmp_path / "a.ome.zarr" / "zarr.json") == tmp_path / "a.ome.zarr"
    assert chosen(tmp_path / "a.svs") == tmp_path / "a.svs"


def test_the_file_dialog_offers_all_that_can_be_read():
    from napari_msunet.widgets.steps.slide import FILES

    offered = FILES.partition("(")[2].partition(")")[0].split()
    assert offered == [f"*{ending}" for ending in READABLE]


def test_the_slide_sample(plugins):
    viewer = ViewerModel()
    (layer,) = viewer.open_sample(PLUGIN, "slide")
    assert slide_of(layer).shape == (2967, 2220, 3)
    assert str(layer.units[0]) == "micrometer"


def test_the_annotated_sample_can_be_painted_on(make_napari_viewer, plugins, tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_data_path", lambda *args, **options: tmp_path)
    viewer = make_napari_viewer(show=True)
    viewer.open_sample(PLUGIN, "annotated")
    slide, labels = viewer.layers
    assert slide_path(slide) == tmp_path / "sample" / samples.SLIDE
    assert isinstance(labels, PyramidLabels)
    assert labels.editable
    counts = np.bincount(labels.store.levels[0].compute().ravel(), minlength=3)
    assert (counts[1:3] > 2000).all()
    values, tissue = np.asarray(labels.store.levels[0]), ms.tissue_mask(ms.open_slide(slide_path(slide)))
    for value, share in ((1, 1), (2, 1), (255, 0)):  # on tissue, and the background on glass
        y, x = (np.nonzero(values == value)[n] // tissue.grid.pixel[n] for n in (0, 1))
        assert tissue.mask[y.astype(int), x.astype(int)].mean() == pytest.approx(share, abs=0.02)
    labels.store.write(region(10, 10, 20, 20), 2)
    viewer.layers.clear()
    labels.store.close()
    viewer.open_sample(PLUGIN, "annotated")
    assert viewer.layers[1].data[0][15, 15] == 2, "what the user painted is kept"


def test_the_manifest_names_what_is_there(plugins):
    manifest = plugins.get_manifest(PLUGIN)
    from importlib import import_module

    for command in manifest.contributions.commands:
        module, name = command.python_name.split(":")
        assert callable(getattr(import_module(module), name)), command.id
    assert [w.display_name for w in manifest.contributions.widgets] == ["Multi-scale U-Net"]
    patterns = {p for r in manifest.contributions.readers for p in r.filename_patterns}
    known = {f"*{ending}" for ending in (*SLIDES, *DOUBLE, ".zarr", *OUTLINE_ENDINGS, ".msunet")}
    assert patterns == known | {"project.json"}
    assert not {"*.png", "*.jpg"} & patterns, "napari's own reader opens these without asking"


def test_reading_the_manifest_imports_nothing_heavy():
    code = (
        "import sys; from npe2 import PluginManifest; PluginManifest.from_distribution('napari-msunet')\n"
        "import napari_msunet, napari_msunet.widgets.reader\n"
        "print([m for m in ('torch', 'qtpy', 'lightning', 'napari', 'zarr') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
