"""The dock takes up a project that earlier code saved (see ``tests/app/test_made_before.py``)."""

import shutil
from pathlib import Path

MADE = Path(__file__).parents[2] / "made_before"


def test_the_dock_goes_on_with_it(dock, qtbot, tmp_path):
    folder = Path(shutil.copytree(MADE, tmp_path / "made_before"))
    dock.open_project(folder / "case.msunet")
    assert dock.state.classes == ("cell",)
    assert dock.state.active.path == (folder / "slide.png").resolve()
    dock.show_step("annotate")
    qtbot.waitUntil(lambda: dock.state.count(1) > 0)
