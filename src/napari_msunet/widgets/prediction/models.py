"""The row that adds models to an ensemble, which predicts the mean of their probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QPushButton, QToolButton, QVBoxLayout, QWidget

from napari_msunet.errors import ModelError, MsunetError
from napari_msunet.widgets.dock.model_card import model_config
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
        label = QLabel(model_name(path))
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


def model_name(path: Path) -> str:
    """The name of a model for people: that of its file, or of the folder of its training."""
    return path.parent.name if path.stem == "model" else path.stem


def _plain(value: float | tuple[object, ...]) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
