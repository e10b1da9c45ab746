"""A slide that has no size in µm, used in its own pixels."""

import numpy as np
import pytest
from PIL import Image
from widgets.dock.making import click, settle
from widgets.mouse import drag

from napari_msunet.errors import SlideError
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.project_sync import recall, remember
from napari_msunet.widgets.state import State


@pytest.fixture
def photo(dock, tmp_path):
    """A photograph in the dock."""
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return dock.open_slide(tmp_path / "photo.png")


def test_pixels_are_chosen_with_the_mouse_and_kept(dock, photo, qtbot):
    state, step = dock.state, dock.step("slide")
    assert "choose pixels" in resolve.advice(state)
    step.pixels.click()
    record = state.active
    assert (record.in_pixels, record.mpp, record.job_mpp, record.sized) == (True, None, "px", True)
    assert (tuple(map(str, photo.units)), tuple(photo.scale)) == (("pixel", "pixel"), (1.0, 1.0))
    qtbot.waitUntil(lambda: "Its own pixels" in step.mpp_note.text(), timeout=5000)
    assert not step.mpp.isEnabled()
    assert 'mpp="px"' in step.as_python()
    assert (state.model.mpp, resolve.wanted_model(state).mpp) == (None, "px")
    state.set_model(state.model)
    assert dock.step("model").summary() == "to train: 1 px · 1"
    dock.step("model").refresh()
    assert dock.step("model").form.editors["mpp"].text() == "image pixels"
    assert dock.step("model").form.value().mpp is None
    dock.step("model").toggle_fields(True)
    dock.step("model").toggle_fields(False)
    project = state.make_project()
    remember(state)
    again = State()
    assert recall(again, project) == []
    assert (again.active.in_pixels, again.active.job_mpp, again.model.mpp) == (True, "px", None)


def test_a_size_in_micrometres_takes_their_place_again(dock, photo, qtbot):
    step, record = dock.step("slide"), dock.state.active
    step.pixels.click()
    step.pixels.click()
    assert (record.in_pixels, record.mpp, record.sized) == (False, None, False)
    qtbot.waitUntil(step.mpp.isEnabled, timeout=5000)
    step.mpp.setValue(0.5)
    assert (record.mpp, record.job_mpp, tuple(photo.scale)) == ((0.5, 0.5), (0.5, 0.5), (0.5, 0.5))
    assert dock.state.model.mpp == 0.5
    with pytest.raises(SlideError, match="above zero"):
        step.set_mpp(float("nan"))


def test_a_known_length_gives_the_size_and_one_slide_without_it_blocks_no_other(dock, photo, qtbot, tmp_path):
    step, record = dock.step("slide"), dock.state.active
    settle()
    known = step.known_length
    assert not known.isVisible()
    click(qtbot, step.measure)
    settle(0.3)
    assert not known.use.isEnabled()
    drag(dock.viewer, [photo.data_to_world(p) for p in ((20, 10), (20, 60), (20, 110))])
    qtbot.waitUntil(known.use.isEnabled, timeout=5000)
    drag(dock.viewer, [photo.data_to_world(p) for p in ((40, 20), (60, 20), (80, 20))])  # the later one counts
    qtbot.waitUntil(lambda: known.pixels < 70, timeout=5000)
    known.length.setValue(20)
    click(qtbot, known.use)
    assert record.mpp[0] == pytest.approx(0.5, abs=0.02)
    assert (record.mpp_given, known.active, known.isVisible()) == (True, False, False)
    assert [layer.name for layer in dock.viewer.layers] == ["photo"]
    assert "kept in the project" in resolve.pixel_size(record)

    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(tmp_path / "other.png")
    dock.open_slide(tmp_path / "other.png")
    assert "other.png does not say" in resolve.missing(dock.state, "annotate")
    dock.state.activate(record)
    assert resolve.missing(dock.state, "annotate") is None
    assert "Start annotating" in resolve.advice(dock.state)


def test_labelled_images_can_be_in_pixels(dock, qtbot):
    from napari_msunet.widgets.dock.training_data import MppField

    field = MppField()
    qtbot.addWidget(field)
    for value in (None, 0.25, (0.25, 0.5), "px", None):
        field.setValue(value)
        assert field.value() == value
