"""The first button of the window: nuclei by the model that comes with the package."""

import numpy as np
import pytest
from widgets.dock.making import LONG, click, idle, settle

from napari_msunet.app.shipped import shipped_model
from napari_msunet.errors import ModelError
from napari_msunet.geometry import Region
from napari_msunet.slide import slide_from_array
from napari_msunet.widgets.slides.first_try import SIDE, piece_to_try


def test_of_a_large_view_the_square_with_the_most_tissue_is_tried():
    pixels = np.full((3000, 4000, 3), 240, np.uint8)
    pixels[1800:2600, 2900:3700] = (150, 60, 140)
    with slide_from_array(pixels, mpp=1.0) as slide:
        piece = piece_to_try(slide, Region(0, 0, 3000, 4000))
        assert (piece.height, piece.width) == (SIDE, SIDE)
        assert abs(piece.y - 1800) < 40
        assert abs(piece.x - 2900) < 40
        small = Region(10, 20, 300, 400)
        assert piece_to_try(slide, small) == small


def no_model_ships() -> bool:
    try:
        shipped_model()
    except ModelError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(no_model_ships(), reason="no model ships yet")
def test_one_click_in_an_empty_window_gives_labels_of_nuclei(dock, qtbot, monkeypatch, tmp_path):
    monkeypatch.setattr("platformdirs.user_data_path", lambda *names, **more: tmp_path)
    dock.show_step("slide")
    settle()
    trying = dock.steps["slide"].first_try
    assert trying.button.text() == "Try it on a sample slide"
    click(qtbot, trying.button)
    qtbot.waitUntil(lambda: dock.state.active is not None and dock.state.active.labels is not None, timeout=LONG)
    idle(qtbot, dock)
    layer = dock.layers.of_store(dock.state.active.labels)
    assert layer.store.classes == ("nucleus",)
    assert sum(layer.store.count().values()) > 1000
    assert not trying.isVisible()


def test_without_a_shipped_model_there_is_no_button(dock, monkeypatch):
    def none():
        raise ModelError("none")

    monkeypatch.setattr("napari_msunet.widgets.slides.first_try.shipped_model", none)
    dock.show_step("slide")
    dock.steps["slide"].refresh()
    assert not dock.steps["slide"].first_try.isVisible()


def test_a_slide_without_a_pixel_size_is_told_so(dock, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_msunet.widgets.slides.first_try.shipped_model", shipped_model)
    from PIL import Image

    Image.fromarray(np.full((200, 200, 3), 200, np.uint8)).save(tmp_path / "plain.png")
    dock.open_slide(tmp_path / "plain.png")
    dock.show_step("slide")
    settle()
    trying = dock.steps["slide"].first_try
    assert not trying.button.isEnabled()
    assert "pixel size" in trying.words.text()
