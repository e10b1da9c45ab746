"""Kind and range of a slide's values in the Slide step: shown, given by a person, kept, told to jobs."""

import numpy as np
import pytest
import tifffile

from napari_msunet.app.project import Project
from napari_msunet.widgets.layer_slides import slide_of


@pytest.fixture
def slide(tmp_path):
    """A dim fluorescence image of 12 bits in 16, which does not say so."""
    values = (np.random.default_rng(0).gamma(1, 200, (300, 260))).clip(0, 3000).astype(np.uint16)
    path = tmp_path / "dim.tif"
    tifffile.imwrite(path, values, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    return path


def test_kind_and_range_are_shown_and_given(dock, slide, messages, tmp_path):
    layer = dock.open_slide(slide)
    step, record = dock.step("slide"), dock.state.active
    step.refresh()
    assert step.kind.itemText(0) == "fluorescence (a guess from the pixels)"
    assert step.values.placeholderText() == "0-4095 (a guess from the pixels)"
    assert layer.contrast_limits[1] < 3000  # what is there, not the range of the type
    step.values.setText("0-16383")
    step.values.editingFinished.emit()
    step.kind.setCurrentIndex(step.kind.findData("brightfield"))
    step.kind.activated.emit(step.kind.currentIndex())
    assert (record.kind, record.value_range) == ("brightfield", (0, 16383))
    shown = slide_of(layer)
    assert (shown.kind, shown.value_range, shown.numbers.range_from) == ("brightfield", (0, 16383), "person")
    assert layer.contrast_limits == [0, 16383]
    assert 'kind="brightfield"' in step.as_python()
    assert "value_range=(0.0, 16383.0)" in step.as_python()
    dock.state.make_project()
    step.open_project(dock.state.project.folder)
    note = Project.open(dock.state.project.folder).note.slides[0]
    assert (note.kind, note.value_range) == ("brightfield", (0, 16383))
    step.values.setText("many")
    step.values.editingFinished.emit()
    assert "no range of values" in messages[-1].message
    assert record.value_range == (0, 16383)
