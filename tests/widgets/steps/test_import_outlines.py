"""Outlines of another program in the dock: the button, a file that is dropped, points, several images."""

import json

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent
from widgets.dock.making import make_slide

import napari_msunet as ms
from napari_msunet.errors import MsunetError
from napari_msunet.widgets.dock.training_data import SHAPES, PathField
from napari_msunet.widgets.reader import get_slide_reader, read_outlines

RING = [[10, 20], [30, 20], [30, 40], [10, 40]]


@pytest.fixture
def slide(tmp_path):
    return make_slide(tmp_path, 300)


def labelme(folder, slide, *more):
    shapes = [{"label": "blob", "points": RING, "shape_type": "polygon"}, *more]
    path = folder / "drawn.json"
    path.write_text(json.dumps({"version": "5.7.0", "imagePath": slide.name, "shapes": shapes}))
    return path


def drop(widget, path):
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    event = QDropEvent(
        QPointF(5, 5), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    )
    widget.dropEvent(event)


def pixels(dock):
    store = dock.layers.annotation(dock.state.active).store
    return store.read(ms.Region(0, 0, *store.shape))


def test_a_file_on_the_step_becomes_strokes_of_the_annotation(dock, qtbot, slide, tmp_path):
    dock.open_slide(slide)
    step = dock.steps["annotate"]
    point = {"label": "cell", "points": [[60, 60]], "shape_type": "point"}
    step._asked_radius = lambda name, points: 4.0  # the question is a window of its own
    drop(step, labelme(tmp_path, slide, point))
    qtbot.waitUntil(lambda: dock.state.active.annotation is not None and pixels(dock).any(), timeout=20_000)
    qtbot.waitUntil(lambda: not step._background.busy, timeout=20_000)
    assert dock.state.classes == ("blob", "cell")
    values = pixels(dock)
    assert (values[20:40, 10:30] == 1).all()
    assert (values == 1).sum() == 400
    radius = 4.0 / dock.state.active.mpp[0]
    assert (values == 2).sum() == pytest.approx(np.pi * radius**2, rel=0.15)
    assert values[60, 60] == 2
    layer = dock.layers.annotation(dock.state.active)
    layer.undo()
    assert layer.wait()
    assert not pixels(dock).any()


def test_a_file_on_the_canvas(dock, qtbot, slide, tmp_path):
    path = labelme(tmp_path, slide)
    assert get_slide_reader(str(path)) is read_outlines
    (tmp_path / "settings.json").write_text('{"colour": 1}')
    assert get_slide_reader(str(tmp_path / "settings.json")) is not read_outlines
    with pytest.raises(MsunetError, match="Choose a slide"):
        read_outlines(str(path))
    dock.open_slide(slide)
    assert read_outlines(str(path)) == [(None,)]
    qtbot.waitUntil(lambda: dock.state.active.annotation is not None and pixels(dock).sum() == 400, timeout=20_000)


def test_a_file_of_several_images_asks_which(dock, qtbot, slide, tmp_path):
    dock.open_slide(slide)
    points = ";".join(f"{x},{y}" for x, y in RING)
    drawn = f'<polygon label="blob" points="{points}"/></image>'
    path = tmp_path / "cvat.xml"
    path.write_text(f'<annotations><image name="x.png">{drawn}<image name="y.png">{drawn}</annotations>')
    step, asked = dock.steps["annotate"], []
    step._asked_image = lambda name, images: asked.append((name, images)) or "y.png"  # a window of its own
    step.import_outlines(path)
    qtbot.waitUntil(lambda: dock.state.active.annotation is not None and pixels(dock).sum() == 400, timeout=20_000)
    assert asked == [("cvat.xml", ("x.png", "y.png"))]


def test_a_path_field_takes_a_dropped_file(qtbot, tmp_path):
    field = PathField("The outlines", SHAPES)
    qtbot.addWidget(field)
    heard = []
    field.valueChanged.connect(heard.append)
    drop(field, tmp_path / "a b.ndjson")
    assert field.value() == tmp_path / "a b.ndjson"
    assert heard == [tmp_path / "a b.ndjson"]
    assert "*.ndjson" in SHAPES


def test_a_file_of_regions_to_predict(dock, qtbot, slide, tmp_path):
    dock.open_slide(slide)
    row = dock.steps["predict"].where
    drop(row, labelme(tmp_path, slide, {"label": "", "points": [[100, 100], [103, 104]], "shape_type": "circle"}))
    assert row.kind == "drawn"
    first, second = row.value(dock.state.active).polygons
    assert np.array(first) == pytest.approx(np.array(RING)[:, ::-1], abs=0.01)
    assert np.array(second).mean(0) == pytest.approx([100, 100], abs=0.1)
    with pytest.raises(MsunetError, match="has no image called x"):
        row.load(tmp_path / "drawn.json", "x")
