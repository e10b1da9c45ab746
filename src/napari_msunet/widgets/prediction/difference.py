"""The changes since the last prediction: a layer that is computed where it is in view, and the areas in words."""

from __future__ import annotations

import colorsys
from html import escape
from typing import TYPE_CHECKING

from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtWidgets import QCheckBox, QLabel, QVBoxLayout, QWidget

from napari_msunet.labels import LabelStore, open_labels
from napari_msunet.review.differences import Changes, Differences, last_difference
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.layer_slides import KEY
from napari_msunet.widgets.layers import add_to_look_at
from napari_msunet.widgets.objects.table import area_text
from napari_msunet.widgets.placement import over

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel
    from napari.layers import Layer
    from napari.utils.events import Event

    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import SlideRecord, State
NAME = "Changed since the last prediction"
_OPACITY = 0.75
_WHITE, _LEAST_SATURATION = 1.0, 0.25

Colour = tuple[float, float, float, float]


def lost_colour(colour: tuple[int, int, int]) -> Colour:
    """The colour for the loss of a class: the opposite hue, as bright as possible; for a grey class, black or white."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
    if saturation < _LEAST_SATURATION:
        level = 0.0 if value > 0.5 else _WHITE
        return level, level, level, 1.0
    return (*colorsys.hsv_to_rgb((hue + 0.5) % 1, saturation, 1.0), 1.0)


def change_colours(store: LabelStore, classes: tuple[str, ...]) -> dict[int | None, Colour]:
    """The colour of each value of a difference: the gain of a class in its own colour, its loss in the opposite one."""
    known = dict(zip(store.classes, store.colours, strict=True))
    colours: dict[int | None, Colour] = {None: (0, 0, 0, 0), 0: (0, 0, 0, 0)}
    for number, name in enumerate(classes, 1):
        red, green, blue = known.get(name, (255, 255, 255))
        colours[number] = (red / 255, green / 255, blue / 255, 1.0)
        colours[number + len(classes)] = lost_colour((red, green, blue))
    return colours


def add_difference(viewer: ViewerModel, found: Differences, store: LabelStore, slide_layer: Layer) -> Labels:
    """Show where two runs differ, over the slide; each window is computed when it comes into view.

    Parameters
    ----------
    viewer : napari.Viewer
    found : Differences
    store : LabelStore
        The store that gives the colours of the classes.
    slide_layer : Layer

    Returns
    -------
    Labels
        A layer that is not for painting; its status shows the change under the mouse.
    """
    names = {n: f"now {name}" for n, name in enumerate(found.classes, 1)}
    names |= {n + len(found.classes): f"no longer {name}" for n, name in enumerate(found.classes, 1)}
    levels = found.levels
    layer = Labels(
        levels if len(levels) > 1 else levels[0],
        multiscale=len(levels) > 1,
        name=NAME,
        colormap=DirectLabelColormap(color_dict=change_colours(store, found.classes)),
        features={"index": [0, *names], "change": ["no change", *names.values()]},
        opacity=_OPACITY,
        metadata={KEY: {"map": "difference", "old": found.old.key, "new": found.new.key, "labels": str(store.path)}},
        **over(slide_layer, store.pixel),
    )
    add_to_look_at(viewer, layer)
    return layer


class DifferenceRow(QWidget):
    """A tick box that shows the changes by the newest prediction; hidden until there are two predictions.

    Parameters
    ----------
    state : State
    layers : Layers
    """

    def __init__(self, state: State, layers: Layers) -> None:
        super().__init__()
        self.state, self.layers = state, layers
        self.layer: Labels | None = None
        self.found: Differences | None = None
        self._of: tuple[Path, Path | None] | None = None
        self._record: SlideRecord | None = None
        self._background = Background("msunet-difference", self)
        self.tick = QCheckBox("Show what changed since the last prediction")
        self.tick.setToolTip(
            "Colours what the newest prediction labels otherwise than the one before it, by another model where there "
            "is one. Both as the machine made them, without your corrections."
        )
        self.tick.toggled.connect(show_errors(self._toggled))
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.words.hide()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.tick)
        column.addWidget(self.words)
        self.hide()
        state.changed.connect(self._changed)
        layers.viewer.layers.events.removed.connect(self._removed)

    def refresh(self) -> None:
        """Find out in the background whether the active slide's labels have two predictions."""
        record = self.state.active
        path = None if record is None else record.labels
        if path is None or resolve.blocked_by(self.state, "predict") is not None or not path.exists():
            self.setVisible(self.layer is not None)
            return
        if (path, self.state.model_path) != self._of:
            self._of = (path, self.state.model_path)
            self._look(record)

    def _changed(self, what: str) -> None:
        if what == "results":
            self._of = None
            self.refresh()

    def _look(self, record: SlideRecord) -> None:
        path = record.labels
        self._background.run(lambda: last_difference(open_labels(path)), lambda found: self._known(record, found))

    def _known(self, record: SlideRecord, found: Differences | None) -> None:
        """Offer the tick box and update the layer; called on the GUI thread."""
        if record is not self.state.active:
            return
        before = None if self.found is None else (self.found.old.path, self.found.new.path)
        self.found, self._record = found, record
        self.setVisible(found is not None)
        if found is None and record.labels in self.state.predicted:  # labels of their own, with nothing before them
            self._looked()
        if found is None or (found.old.path, found.new.path) != before:
            self._drop()
            self.words.hide()
            if found is not None and self.tick.isChecked():
                self.show_difference()

    def _toggled(self, on: bool) -> None:
        if on:
            self.show_difference()
        else:
            self._drop()
            self.words.hide()

    def show_difference(self) -> None:
        """Add the layer, and count the areas in the background."""
        found, record = self.found, self._record
        if found is None or record is None or record.labels is None or self.layer is not None:
            return
        store = open_labels(record.labels)
        self.layer = add_difference(self.layers.viewer, found, store, self.layers.need_slide(record))
        if not self.tick.isChecked():
            self.tick.setChecked(True)
        self._looked()
        self.words.setText("Counting what changed…")
        self.words.show()
        self._background.run(found.changes, lambda changes: self._say(found, store, changes))

    def _looked(self) -> None:
        """Advise no longer to look at what changed."""
        if self.state.retrained:
            self.state.retrained = False
            self.state.emit("review")

    def _say(self, found: Differences, store: LabelStore, changes: Changes) -> None:
        if found is self.found and self.layer is not None:
            self.words.setText(change_words(changes, change_colours(store, found.classes)))

    def _drop(self) -> None:
        layer, self.layer = self.layer, None
        if layer is not None and layer in self.layers.viewer.layers:
            self.layers.viewer.layers.remove(layer)

    def _removed(self, event: Event) -> None:
        """Clear the tick box when the user has deleted the layer."""
        if event.value is self.layer and self.layer is not None:
            self.layer = None
            self.tick.setChecked(False)

    def closing(self) -> None:
        """Let go of the viewer and end the thread."""
        self.state.changed.disconnect(self._changed)
        self.layers.viewer.layers.events.removed.disconnect(self._removed)
        self._background.close()


def change_words(changes: Changes, colours: dict[int | None, Colour]) -> str:
    """The areas as rich text: gain and loss of each class, with their colours."""
    count = len(changes.classes)
    about = "" if changes.exact else "about "
    rows = []
    for number, change in enumerate(changes.classes, 1):
        if not (change.gained or change.lost):
            continue
        parts = [
            f"{_swatch(colours[value])} {area_text(area, changes.micrometres)} {word}"
            for value, area, word in ((number, change.gained, "more"), (number + count, change.lost, "less"))
        ]
        rows.append(f"{escape(change.name)}: {about}{', '.join(parts)}")
    if not rows:
        return "Nothing changed."
    share = f"{changes.share:.2%}" if changes.share < 0.01 else f"{changes.share:.1%}"
    return "<br>".join([*rows, f"{share} of what both predictions cover changed."])


def _swatch(colour: Colour) -> str:
    red, green, blue = (round(255 * c) for c in colour[:3])
    return f'<span style="color:rgb({red},{green},{blue})">■</span>'
