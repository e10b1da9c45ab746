"""A slide that is unlike the training slides: said in the Predict step, and the model adapted to it by one click."""

import numpy as np
import pytest
from PIL import Image
from widgets.dock.making import LONG, click, settle, truth

import napari_msunet as ms
from napari_msunet.models import load_model


@pytest.mark.slow
def test_an_unlike_slide_is_said_and_adapted_to_and_taken_back(ready, tmp_path, qtbot, messages):
    row = ready.steps["predict"].likeness
    ready.show_step("predict")
    settle(0.2)
    qtbot.waitUntil(lambda: row.words.text() != "", timeout=LONG)
    assert "is like the training slides" in row.words.text()
    assert not row.isVisible()

    rng = np.random.default_rng(0)
    image = np.where(truth(500)[..., None], (90, 120, 40), (140, 160, 90)) + rng.normal(0, 8, (500, 500, 3))
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / "green.png")
    ready.open_slide(ms.build_pyramid(tmp_path / "green.png", tmp_path / "green.ome.zarr", mpp=0.5))
    before = ready.state.model_path
    qtbot.waitUntil(row.isVisible, timeout=LONG)
    assert "unlike the training slides" in row.words.text()
    assert not row.picture.pixmap().isNull()
    click(qtbot, row.adapt)
    qtbot.waitUntil(lambda: ready.state.model_path != before, timeout=LONG)
    settle(0.3)
    assert row.words.text() == "The model is adapted to green.ome.zarr."
    made = load_model(ready.state.model_path)
    assert made.summary["recalibrated"]["slide"] == "green.ome.zarr"
    click(qtbot, row.back)
    settle(0.2)
    assert ready.state.model_path == before
    assert not [m for m in messages if m.severity.value == "error"]
