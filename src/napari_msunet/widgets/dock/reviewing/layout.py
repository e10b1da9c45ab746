"""What the Review step is made of, and what it says."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton

from napari_msunet.labels import review
from napari_msunet.labels.review import Survey
from napari_msunet.widgets.dock.place_list import PlaceList
from napari_msunet.widgets.dock.reviewing.ranking import RankingBox
from napari_msunet.widgets.editors import WholeField


def build(step: Any) -> None:
    """Make the step's widgets and lay them out in its body."""
    _searching(step)
    _reviewed(step)
    _tools(step)
    choice = QHBoxLayout()
    choice.addWidget(step.by, 1)
    choice.addWidget(step.size)
    last = QHBoxLayout()
    last.addWidget(step.objects)
    last.addWidget(step.csv)
    step.body.addWidget(step.needed)
    step.body.addLayout(choice)
    step.body.addWidget(step.find)
    step.body.addWidget(step.bar)
    step.body.addWidget(step.queue)
    step.body.addWidget(step.done_bar)
    step.body.addWidget(step.progress)
    step.body.addWidget(step.again)
    step.body.addWidget(step.object)
    step.body.addLayout(last)
    step.body.addWidget(step.check_truth)


def _button(text: str, tip: str = "") -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    return button


def _searching(step: Any) -> None:
    """Which places, and the queue of them."""
    step.needed = step.note()
    step.by = RankingBox()
    step.size = WholeField(32, 4096, "px", step=32)
    step.size.setValue(review.SIZE)
    step.size.setToolTip("Side of a place, in pixels of the labels.")
    step.find = _button("Find places to review", "Ranks all that is predicted and was not reviewed yet.")
    step.find.setObjectName("primary")
    step.bar = QProgressBar()
    step.bar.setTextVisible(False)
    step.bar.setMaximumHeight(4)
    step.bar.hide()
    step.queue = PlaceList()


def _reviewed(step: Any) -> None:
    """How much is reviewed."""
    step.done_bar = QProgressBar()
    step.done_bar.setRange(0, 1000)
    step.done_bar.setTextVisible(False)
    step.done_bar.setMaximumHeight(8)
    step.progress = step.note()
    step.again = _button("Offer skipped places again")


def _tools(step: Any) -> None:
    """The object under the mouse, and the panels below the canvas."""
    step.object = step.note()
    step.object.setMinimumHeight(34)
    step.object.setAlignment(Qt.AlignmentFlag.AlignTop)
    step.objects = _button(
        "Table of objects…", "All objects with their areas, linked with the view; sort, filter, delete, change class."
    )
    step.check_truth = _button(
        "Check the truth…",
        "Where the model contradicts your annotation: the likely annotation errors, and which classes are confused.",
    )
    step.csv = _button("Save places…", "Writes the queue as CSV.")


def reviewed_text(found: Survey) -> str:
    """How much is reviewed, in words."""
    skipped = f" {found.skipped} skipped." if found.skipped else ""
    left = f" {found.unpredicted:,} more windows of tissue are not predicted yet." if found.unpredicted else ""
    share = _percent(found.share)
    return f"Reviewed {found.reviewed:,} of {found.total:,} windows, {share} of what is predicted.{skipped}{left}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"
