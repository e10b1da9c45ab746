"""Editors of config objects: `value()` gives the object, `setValue(object)` shows it, `valueChanged` tells changes."""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from typing import Any

from pydantic import BaseModel, ValidationError
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFormLayout, QLabel, QVBoxLayout, QWidget

from napari_msunet.config import explain
from napari_msunet.errors import MsunetError
from napari_msunet.widgets.dock.every_field import descriptions, editor_for, label_of
from napari_msunet.widgets.dock.fields import (
    CheckField,
    Fold,
)
from napari_msunet.wording import in_labels

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

    def add(
        self, name: str, label: str, editor: QWidget, tip: str, advanced: bool = False, into: QFormLayout | None = None
    ) -> None:
        """A row: what `label` says edits the field `name`; with `into`, in these rows (of `folded`)."""
        editor.setToolTip(tip)
        editor.setAccessibleName(label or name)
        text = QLabel(label)
        text.setToolTip(tip)
        text.setBuddy(editor)
        rows = into if into is not None else self.more if advanced else self.rows  # an empty layout is false
        rows.addRow(text, editor) if label else rows.addRow(editor)
        self.fold.setVisible(self.fold.isVisibleTo(self) or advanced or into is not None)
        self.editors[name] = editor
        editor.valueChanged.connect(self._edited)

    def folded(self, title: str, tip: str) -> QFormLayout:
        """Rows of their own under a heading among the advanced ones."""
        fold = Fold(title, tip)
        rows = _rows()
        fold.inside.addLayout(rows)
        self.fold.inside.addWidget(fold)
        self.fold.show()
        return rows

    def add_every(self, part: str, config: type[BaseModel], into: QFormLayout, left_out: Collection[str] = ()) -> None:
        """A row for each field of a part that has none yet."""
        texts = descriptions(config)
        for name, field in config.model_fields.items():
            dotted = f"{part}.{name}" if part else name
            if dotted in self.editors or name in left_out:
                continue
            editor = editor_for(field, name)
            label = "" if isinstance(editor, CheckField) else label_of(name)
            self.add(dotted, label, editor, texts.get(name, ""), into=into)

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
            self.problem.setText(in_labels(str(sentence)))
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
