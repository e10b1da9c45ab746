"""Editors of config objects: `value()` gives the object, `setValue(object)` shows it, `valueChanged` tells changes."""

from __future__ import annotations

from functools import reduce
from typing import Any

from pydantic import BaseModel, ValidationError
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFormLayout, QGridLayout, QLabel, QVBoxLayout, QWidget

from napari_msunet.config import Fusion, ModelConfig, UNetConfig, explain
from napari_msunet.errors import MsunetError
from napari_msunet.geometry import as_scale
from napari_msunet.widgets.dock.fields import (
    CheckField,
    ChoiceField,
    Fold,
    NumberField,
    ScalesField,
    WholeField,
)

FUSIONS: dict[Fusion, tuple[str, str]] = {
    "attention": ("Attention", "At each pixel it learns which scale to trust."),
    "weighted": ("Weighted", "One learned weight per scale, the same everywhere: easy to read off."),
    "mean": ("Mean", "All scales count the same; nothing to learn."),
    "max": ("Maximum", "The most confident scale decides at each pixel."),
    "concat": ("Concatenate", "Learns one decision from the features of all scales together."),
    "multihead": ("Multi-head attention", "At each pixel several heads learn which scale to trust, each for itself."),
    "inject": ("Context injection", "What the coarse scales find enters the finest one's network where it is deepest."),
    "pyramid": ("Image pyramid", "One network; copies of the image at all scales enter its levels."),
}

DEVICES = {"auto": "automatic", "cpu": "processor", "cuda": "graphics card (CUDA)", "mps": "graphics (Apple)"}
DEVICE_TIP = "Where it computes. Automatic takes a graphics card if there is one. Change it when that card is in use."


class Form(QWidget):
    """An editor of a pydantic object by fields named as in the object; `a.b` is field b of its part a.

    What cannot be used is said in a line of its own, and `value()` stays what it was.
    """

    valueChanged = Signal(object)

    def __init__(self, value: BaseModel) -> None:
        super().__init__()
        self._value = value
        self._setting = False
        self.editors: dict[str, Any] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        self.rows = _rows()
        column.addLayout(self.rows)
        self.fold = Fold("Advanced", "Fields that rarely need another value.")
        self.more = _rows()
        self.fold.inside.addLayout(self.more)
        column.addWidget(self.fold)
        self.fold.hide()
        self.problem = QLabel()
        self.problem.setObjectName("problem")
        self.problem.setWordWrap(True)
        self.problem.hide()
        column.addWidget(self.problem)

    def add(self, name: str, label: str, editor: QWidget, tip: str, advanced: bool = False) -> None:
        """A row: what `label` says edits the field `name`."""
        editor.setToolTip(tip)
        editor.setAccessibleName(label or name)
        text = QLabel(label)
        text.setToolTip(tip)
        text.setBuddy(editor)
        rows = self.more if advanced else self.rows
        rows.addRow(text, editor) if label else rows.addRow(editor)
        self.fold.setVisible(self.fold.isVisibleTo(self) or advanced)
        self.editors[name] = editor
        editor.valueChanged.connect(self._edited)

    def value(self) -> Any:
        """The object as it stands in the fields; the last one that could be used, where they do not fit together."""
        return self._value

    def setValue(self, value: Any) -> None:
        """Show an object; `valueChanged` if it is another."""
        if value == self._value and not self.problem.isVisibleTo(self):
            self._show(value)
            return
        self._value = value
        self._show(value)
        self.problem.hide()
        self.valueChanged.emit(value)

    def _show(self, value: Any) -> None:
        self._setting = True
        try:
            for name, editor in self.editors.items():
                editor.setValue(reduce(getattr, name.split("."), value))
        finally:
            self._setting = False

    def _edited(self, *_: Any) -> None:
        if self._setting:
            return
        try:
            value = self._read()
        except (ValidationError, MsunetError) as error:
            sentence = explain(error, "This") if isinstance(error, ValidationError) else error
            self.problem.setText(str(sentence))
            self.problem.show()
            return
        self.problem.hide()
        if value != self._value:
            self._value = value
            self.valueChanged.emit(value)

    def _read(self) -> Any:
        values = _plain(self._value)
        for name, editor in self.editors.items():
            *parents, last = name.split(".")
            reduce(lambda part, key: part[key], parents, values)[last] = editor.value()
        return type(self._value).model_validate(values)


def _plain(value: BaseModel) -> dict[str, Any]:
    """An object and its parts as dictionaries, to change and to check again."""
    return {k: _plain(v) if isinstance(v, BaseModel) else v for k, v in value}


def _rows() -> QFormLayout:
    rows = QFormLayout()
    rows.setContentsMargins(0, 0, 0, 0)
    rows.setHorizontalSpacing(8)
    rows.setVerticalSpacing(6)
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    rows.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    return rows


# ----------------------------------------------------------------------------------------------------------- the model


class UNetForm(Form):
    """Edits a `UNetConfig`: depth, width and dropout of one scale's network."""

    def __init__(self, value: UNetConfig | None = None) -> None:
        super().__init__(value or UNetConfig())
        self.add("depth", "Depth", WholeField(1, 6), DEPTH_TIP)
        self.add("width", "Width", WholeField(1, 256, "channels"), WIDTH_TIP)
        self.add("dropout", "Dropout", NumberField(0, 0.9, 0.05), DROPOUT_TIP)
        self._show(self._value)


DEPTH_TIP = (
    "How often the network halves its picture. One more sees twice as far and has four times the weights. "
    "Raise it when objects are larger than what it sees."
)
WIDTH_TIP = (
    "Channels at the finest resolution; they double at each halving. Twice as many cost about four times the time. "
    "Raise it when training IoU stays low."
)
DROPOUT_TIP = (
    "Share of channels (0 to 0.9) switched off at random while training. "
    "Try 0.1 to 0.3 when training IoU is high and validation IoU is not."
)


class BranchesField(QWidget):
    """Edits the networks: one row for all scales, or one for each."""

    valueChanged = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._scales: tuple[float, ...] = (1.0,)
        self._rows: list[tuple[WholeField, WholeField, NumberField]] = []
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        self.same = CheckField("The same network size for all scales")
        self.same.setToolTip("Uncheck to give each scale a depth and width of its own.")
        self.same.setChecked(True)
        self.same.valueChanged.connect(self._switch)
        column.addWidget(self.same)
        self.grid = QGridLayout()
        self.grid.setContentsMargins(0, 0, 0, 0)
        column.addLayout(self.grid)
        self.setValue(UNetConfig())

    def set_scales(self, scales: tuple[float, ...]) -> None:
        """How many rows there are, and what they are called."""
        if scales != self._scales:
            old = dict(zip(self._scales, self._branches(), strict=False))
            self._scales = scales
            if not self.same.isChecked():
                last = next(iter(old.values()))
                self._fill(tuple(old.get(s, last) for s in scales))

    def value(self) -> UNetConfig | tuple[UNetConfig, ...]:
        """One config for all scales, or one for each."""
        branches = tuple(
            UNetConfig(depth=d.value(), width=w.value(), dropout=round(p.value(), 4)) for d, w, p in self._rows
        )
        return branches[0] if self.same.isChecked() else branches

    def setValue(self, value: UNetConfig | tuple[UNetConfig, ...]) -> None:
        """Show them."""
        self.same.blockSignals(True)
        self.same.setChecked(not isinstance(value, tuple))
        self.same.blockSignals(False)
        self._fill(value if isinstance(value, tuple) else (value,))

    def _branches(self) -> tuple[UNetConfig, ...]:
        value = self.value()
        return value if isinstance(value, tuple) else (value,) * len(self._scales)

    def _switch(self) -> None:
        first = UNetConfig(**dict(zip(("depth", "width", "dropout"), (f.value() for f in self._rows[0]), strict=True)))
        self._fill((first,) if self.same.isChecked() else (first,) * len(self._scales))
        self.valueChanged.emit(self.value())

    def _fill(self, branches: tuple[UNetConfig, ...]) -> None:
        if len(branches) != len(self._rows) or len(branches) > 1:
            self._rebuild(len(branches))
        for row, branch in zip(self._rows, branches, strict=True):
            for field, number in zip(row, (branch.depth, branch.width, branch.dropout), strict=True):
                field.blockSignals(True)
                field.setValue(number)
                field.blockSignals(False)

    def _rebuild(self, count: int) -> None:
        while (item := self.grid.takeAt(0)) is not None:
            item.widget().hide()
            item.widget().deleteLater()
        for column, (name, tip) in enumerate((("Depth", DEPTH_TIP), ("Width", WIDTH_TIP), ("Dropout", DROPOUT_TIP)), 1):
            heading = QLabel(name)
            heading.setToolTip(tip)
            self.grid.addWidget(heading, 0, column)
        self._rows = []
        for number in range(count):
            label = "All scales" if self.same.isChecked() else f"Scale {as_scale(self._scales[number])}"
            self.grid.addWidget(QLabel(label), number + 1, 0)
            fields = (WholeField(1, 6), WholeField(1, 256), NumberField(0, 0.9, 0.05))
            for column, (field, tip) in enumerate(zip(fields, (DEPTH_TIP, WIDTH_TIP, DROPOUT_TIP), strict=True), 1):
                field.setToolTip(tip)
                field.valueChanged.connect(lambda *_: self.valueChanged.emit(self.value()))
                self.grid.addWidget(field, number + 1, column)
            self._rows.append(fields)


class ModelForm(Form):
    """Edits a `ModelConfig`; its classes, channels and normalisation stay as they were set."""

    def __init__(self, value: ModelConfig) -> None:
        super().__init__(value)
        self.add(
            "mpp",
            "Resolution",
            NumberField(0.01, 1000, 0.05, 3, "µm/px"),
            "Size of a pixel, in µm, that the model works with. Smaller shows more detail, sees less far and costs "
            "more: half the size is four times the work. The labels have this resolution.",
        )
        self.scales = ScalesField()
        self.scales.valueChanged.connect(lambda scales: self.branches.set_scales(scales))
        self.branches = BranchesField()
        self.add(
            "scales",
            "Scales",
            self.scales,
            "One network per scale, relative to the resolution: 1/2 sees pixels twice as large, so twice as far. "
            "Add coarser ones when an object is only recognised by what is around it.",
        )
        names = {name: words for name, (words, _) in FUSIONS.items()}
        self.add("fusion", "Fusion", ChoiceField(names), "How the scales' answers become one.")
        self.meaning = QLabel()
        self.meaning.setObjectName("note")
        self.meaning.setWordWrap(True)
        self.rows.addRow(self.meaning)
        self.editors["fusion"].valueChanged.connect(lambda name: self.meaning.setText(FUSIONS[name][1]))
        self.add("branch", "", self.branches, "Size of the networks.", advanced=True)
        self.add(
            "shared",
            "",
            CheckField("One network for all scales (shared weights)"),
            "Fewer weights to learn. Try it with little annotation and objects that look alike at all scales.",
            advanced=True,
        )
        fields = {"same": "the same area", "concentric": "more surroundings"}
        self.add(
            "field",
            "Coarse scales see",
            ChoiceField(fields),
            "What a coarse scale sees in training: the same area with fewer pixels, or as many pixels and so more "
            "surroundings around the same centre, which costs more time.",
            advanced=True,
        )
        self._show(value)
        self.meaning.setText(FUSIONS[value.fusion][1])

    def _show(self, value: Any) -> None:
        self.branches.set_scales(value.scales)
        super()._show(value)

    def _read(self) -> ModelConfig:
        # A number that the field shows rounded is not changed by being shown.
        config: ModelConfig = super()._read()
        if abs(config.mpp - self._value.mpp) < 0.0005:
            config = config.model_copy(update={"mpp": self._value.mpp})
        return config
