"""The row that adds models to an ensemble, which predicts the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_msunet.errors import ModelError, MsunetError
from napari_msunet.widgets.dock.model_card import model_config, model_summary
from napari_msunet.widgets.dock.show_errors import show_errors

if TYPE_CHECKING:
    from napari_msunet.widgets.state import State
TIP = (
    "Adds a model that was trained for the same classes, such as another fold: the mean of their probabilities is "
    "often better than each, and takes as many times longer."
)
SAME = (("classes", "classes"), ("resolution", "size of a pixel"), ("channels", "channels"))


class EnsembleRow(QWidget):
    """Adds models to the one that predicts, and removes them.

    Parameters
    ----------
    state : State
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self._rows = QVBoxLayout()
        self._rows.setSpacing(2)
        column.addLayout(self._rows)
        self.add_button = QPushButton("Add a model…")
        self.add_button.setToolTip(TIP)
        self.add_button.clicked.connect(show_errors(lambda *_: self._choose()))
        column.addWidget(self.add_button)
        self._shown: tuple[Path, ...] = ()

    def add(self, *paths: str | Path) -> None:
        """Let these models predict too.

        Raises
        ------
        ModelError
            If a file is no model, or its classes, pixel size or channels differ.
        """
        first = self.state.model_path
        if first is None:
            raise MsunetError("Choose a model first; others can be added to it then.")
        own = model_config(first)
        added = list(self.state.ensemble)
        for path in (Path(p).absolute() for p in paths):
            other = model_config(path)
            for name, words in SAME:
                if getattr(other, name) != getattr(own, name):
                    raise ModelError(
                        f"{path.name} has other {words} ({_plain(getattr(other, name))}) than the model "
                        f"({_plain(getattr(own, name))}); add models that were trained for the same."
                    )
            if path != first and path not in added:
                added.append(path)
        self.state.set_ensemble(tuple(added))

    def remove(self, path: Path) -> None:
        """Remove a model from the ensemble."""
        self.state.set_ensemble(tuple(p for p in self.state.ensemble if p != path))

    def _choose(self) -> None:
        project = self.state.project
        start = str(project.folder if project else Path.home())
        chosen, _ = QFileDialog.getOpenFileNames(self, "Add models", start, "Models (*.safetensors)")
        if chosen:
            self.add(*chosen)

    def refresh(self) -> None:
        """Show the models that were added."""
        self.add_button.setEnabled(self.state.model_path is not None)
        if self.state.ensemble == self._shown:
            return
        self._shown = self.state.ensemble
        while (item := self._rows.takeAt(0)) is not None:
            item.widget().hide()
            item.widget().deleteLater()
        for path in self._shown:
            self._rows.addWidget(self._row(path))

    def _row(self, path: Path) -> QWidget:
        row = QWidget()
        inside = QHBoxLayout(row)
        inside.setContentsMargins(0, 0, 0, 0)
        label = QLabel(model_name(path, self.state.model_names))
        label.setToolTip(str(path))
        away = QToolButton()
        away.setObjectName("chip")
        away.setText("×")
        away.setAccessibleName(f"Take {model_name(path)} away")
        away.setToolTip("Takes this model away.")
        away.clicked.connect(lambda *_: self.remove(path))
        inside.addWidget(label, 1)
        inside.addWidget(away)
        return row


def model_name(path: Path, given: Mapping[Path, str] | None = None) -> str:
    """The name of a model for people: the one that was given to it, else that of its file, else what it learned, when,
    and how well."""
    if given and path in given:
        return given[path]
    if path.stem != "model":
        return path.stem
    try:
        classes, scores = model_config(path).classes, model_summary(path).get("validation") or {}
        when = datetime.fromtimestamp(path.stat().st_mtime)
    except (MsunetError, OSError):
        return path.parent.name
    score = (scores.get("fused") or {}).get("iou")
    more = f", IoU {score:.2f}" if score is not None else ""
    return f"{', '.join(classes)}, {when:%d %b %H:%M}{more}"


class ChosenModel(QWidget):
    """The model that predicts, with its name, which a person can change, and a button that loads another one.

    Parameters
    ----------
    state : State

    Attributes
    ----------
    load_wanted : Signal()
        "Load model…" was pressed.
    """

    load_wanted = Signal()

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state
        self.load = QPushButton("Load model…")
        self.load.setToolTip("Loads a model file (.safetensors), such as that of another person, to predict with it.")
        self.load.clicked.connect(lambda *_: self.load_wanted.emit())
        self.title = QLabel("Predicts with")
        self.name = QLineEdit()
        self.name.setAccessibleName("Name of the model")
        self.name.setToolTip("The name of the model in this project: type another one if you like.")
        self.name.editingFinished.connect(self._renamed)
        self.title.setBuddy(self.name)
        row = QHBoxLayout()
        row.addWidget(self.title, 1)
        row.addWidget(self.load)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(row)
        column.addWidget(self.name)
        self.refresh()

    def refresh(self) -> None:
        """Show the present model."""
        path = self.state.model_path
        self.title.setText("No model yet" if path is None else "Predicts with:")
        self.name.setVisible(path is not None)
        if path is not None and not self.name.hasFocus():
            self.name.setText(model_name(path, self.state.model_names))
            self.name.setCursorPosition(0)

    def _renamed(self) -> None:
        path, text = self.state.model_path, self.name.text().strip()
        if path is None or text == model_name(path, self.state.model_names):
            return
        self.state.name_model(path, text)


def _plain(value: float | tuple[object, ...]) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
