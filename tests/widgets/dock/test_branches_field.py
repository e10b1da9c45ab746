"""The rows of the networks: what they do not show stays as it was given."""

import pytest

from napari_msunet.config import HRNetConfig, LinkNetConfig, UNetConfig
from napari_msunet.widgets.dock.model_form import BranchesField


@pytest.mark.parametrize(
    "given",
    [
        UNetConfig(depth=3, width=8, stem="space_to_depth", residual=True, norm="slide"),
        (LinkNetConfig(depth=3, width=8), HRNetConfig(depth=2, width=8)),
    ],
    ids=["one", "each"],
)
def test_options_that_are_not_shown_stay(qtbot, given):
    field = BranchesField()
    qtbot.addWidget(field)
    field.set_scales((1.0, 0.5))
    field.setValue(given)
    assert field.value() == given
    field._rows[0][1].setValue(16)
    first = given[0] if isinstance(given, tuple) else given
    changed = field.value()[0] if isinstance(given, tuple) else field.value()
    assert changed == first.model_copy(update={"width": 16})
