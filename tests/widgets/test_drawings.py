"""Every fusion, field of view and way to train several scales has a drawing that Qt can show."""

from importlib.resources import files
from typing import get_args

import pytest
from qtpy.QtGui import QColor, QImage, QPainter
from qtpy.QtSvg import QSvgRenderer

from napari_msunet.config import Fusion
from napari_msunet.config.training import BRANCH_LOSSES

FOLDER = files("napari_msunet.widgets") / "drawings"
LOSSES = tuple(f"loss-{name}" for name in BRANCH_LOSSES)
NAMES = (*get_args(Fusion), *LOSSES, "field-same", "field-concentric", "upscale", "stem")


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_drawn_on_dark_and_on_light(qapp, name):
    renderer = QSvgRenderer((FOLDER / f"{name}.svg").read_bytes())
    assert renderer.isValid()
    size = renderer.defaultSize()
    for ground in ("#262930", "#ffffff"):
        image = QImage(size, QImage.Format.Format_RGB32)
        image.fill(QColor(ground))
        painter = QPainter(image)
        renderer.render(painter)
        painter.end()
        colours = {image.pixel(x, y) for x in range(0, size.width(), 3) for y in range(0, size.height(), 3)}
        assert len(colours) > 10


def test_there_is_no_other():
    assert {p.name for p in FOLDER.iterdir()} == {f"{name}.svg" for name in NAMES}
