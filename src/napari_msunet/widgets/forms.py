"""Editors of config objects, made from the options of their fields: `value()`, `setValue(object)`, `valueChanged`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import reduce
from types import NoneType
from typing import Any, Literal, get_origin

from pydantic import BaseModel, ValidationError
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QPixmap
from qtpy.QtWidgets import QFormLayout, QLabel, QPushButton, QToolButton, QVBoxLayout, QWidget

from napari_msunet.config import explain
from napari_msunet.config.base import OptionField, choices_of, fields_of, kinds_of, limits_of, part_of
from napari_msunet.errors import MsunetError
from napari_msunet.widgets.dock.fields import (
    AnyField,
    BranchLossField,
    CheckField,
    ChoiceField,
    Editor,
    MarginField,
    MinutesField,
    NamedField,
    NumberField,
    NumbersField,
    TextField,
    WholeField,
)
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.wording import in_labels

_LARGE = 1_000_000
_MANY = 12
"""A form with more folded rows than this shows them under headings."""


class Fold(QWidget):
    """Widgets that few people need, folded away under a small heading.

    Attributes
    ----------
    inside : QVBoxLayout
    """

    def __init__(self, title: str, tip: str = "") -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        self.button = QToolButton()
        self.button.setObjectName("fold")
        self.button.setText(title)
        self.button.setToolTip(tip)
        self.button.setCheckable(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.toggled.connect(self._toggle)
        self.box = QWidget()
        self.inside = QVBoxLayout(self.box)
        self.inside.setContentsMargins(8, 2, 0, 4)
        column.addWidget(self.button)
        column.addWidget(self.box)
        self._toggle(False)

    def _toggle(self, is_open: bool) -> None:
        self.button.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self.box.setVisible(is_open)


def editor_for(one: OptionField) -> QWidget:
    """An editor with `value()`, `setValue()` and `valueChanged` for a field of a config, chosen by its type."""
    option, info = one.option, one.info
    kinds = [kind for kind in kinds_of(info)[0] if kind is not NoneType]
    optional = NoneType in kinds_of(info)[0]
    if kinds == [bool]:
        return CheckField(one.label)
    if (choices := choices_of(info)) and not optional:
        return ChoiceField({value: option.words.get(value, str(value).replace("_", " ")) for value in choices})
    if kinds == [int]:
        low, high = limits_of(info, -_LARGE, _LARGE, 1)
        none = option.none if optional else None
        return WholeField(int(low), int(high), option.unit, none, int(option.step or 1))
    if kinds == [float] and optional and option.unit == "s":
        return MinutesField(option.none)
    if kinds == [float] and not optional:
        low, high = limits_of(info, 0, _LARGE, 1e-6)
        step = option.step or (0.05 if high <= 1 else 0.1 if high < 100 else 1.0)
        return NumberField(low, high, step, 6, option.unit)
    if kinds == [str]:
        return NamedField(option.words) if option.words else TextField(option.none)
    origins = [get_origin(kind) or kind for kind in kinds]
    if not optional and origins == [float, tuple]:  # one for all, or one for each
        return NumbersField()
    if not optional and origins == [Literal, float, tuple]:  # likewise, or a name
        return BranchLossField()
    if int in kinds and all(kind is int or get_origin(kind) is Literal for kind in kinds):
        return MarginField()
    return AnyField(info, option.none)


class Form(QWidget):
    """An editor of a config object: a row for each of its options; `a.b` is field b of its part a.

    A line below the rows says which values cannot be used; `value()` then stays what it was.

    Parameters
    ----------
    value : BaseModel
    editors : mapping of str to QWidget, optional
        Editors for fields that need another one than their type suggests.
    left_out : collection of str
        Parts that are edited elsewhere.
    folded : str
        The heading over the folded rows.

    Attributes
    ----------
    editors : dict of str to editor
    """

    valueChanged = Signal(object)

    def __init__(
        self,
        value: BaseModel,
        editors: Mapping[str, QWidget] | None = None,
        left_out: Collection[str] = (),
        folded: str = "Advanced",
    ) -> None:
        super().__init__()
        self._value = value
        self._setting = False
        self.editors: dict[str, Editor] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        self.rows = _rows()
        column.addLayout(self.rows)
        self.fold = Fold(folded, "Fields that rarely need another value.")
        self.more = _rows()
        self.fold.inside.addLayout(self.more)
        column.addWidget(self.fold)
        self.fold.hide()
        self.problem = QLabel()
        self.problem.setObjectName("problem")
        self.problem.setWordWrap(True)
        self.problem.hide()
        column.addWidget(self.problem)
        self._add_all(editors or {}, left_out)
        self._show(value)

    def _options(self) -> Iterable[OptionField]:
        """The options that are shown, in their order."""
        return fields_of(type(self._value))

    def _add_all(self, editors: Mapping[str, QWidget], left_out: Collection[str]) -> None:
        """A row for each option."""
        shown = [
            one
            for one in self._options()
            if one.option.form and part_of(one.info) is None and not {one.path[0], one.name} & set(left_out)
        ]
        folded = [one for one in shown if one.option.advanced]
        headings = len(folded) > _MANY
        groups: dict[str, QFormLayout] = {}
        for one in shown:
            name = ".".join(one.path)
            group = one.option.group
            into = self.rows if not one.option.advanced else self.more
            if one.option.advanced and headings and group:
                if group not in groups:
                    groups[group] = self._group(group)
                into = groups[group]
            self._add(name, one, editors.get(name) or editor_for(one), into)
        self.fold.setVisible(bool(folded))

    def _group(self, title: str) -> QFormLayout:
        """Rows under a heading of their own among those that are folded away."""
        fold = Fold(title)
        rows = _rows()
        fold.inside.addLayout(rows)
        self.fold.inside.addWidget(fold)
        return rows

    def _add(self, name: str, one: OptionField, editor: Any, rows: QFormLayout) -> None:
        editor.setToolTip(one.help)
        editor.setAccessibleName(one.label)
        if getattr(editor, "OWN_LABEL", False):
            rows.addRow(editor)
        else:
            text = QLabel(one.label)
            text.setToolTip(one.help)
            text.setBuddy(editor)
            rows.addRow(text, editor)
        self.editors[name] = editor
        editor.valueChanged.connect(self._edited)

    def value(self) -> BaseModel:
        """The object in the fields; where these do not fit together, the last object that could be used."""
        return self._value

    def setValue(self, value: BaseModel) -> None:
        """Show an object, and emit `valueChanged` if it differs from the one before."""
        if value == self._value and not self.problem.isVisibleTo(self):
            self._show(value)
            return
        self._value = value
        self._show(value)
        self.problem.hide()
        self.valueChanged.emit(value)

    def _show(self, value: BaseModel) -> None:
        self._setting = True
        try:
            for name, editor in self.editors.items():
                editor.setValue(reduce(getattr, name.split("."), value))
        finally:
            self._setting = False

    def _edited(self, *_: object) -> None:
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
    """An object and its parts as dictionaries, which can be changed and checked again."""
    return {k: _plain(v) if isinstance(v, BaseModel) else v for k, v in value}


def _rows() -> QFormLayout:
    rows = QFormLayout()
    rows.setContentsMargins(0, 0, 0, 0)
    rows.setHorizontalSpacing(8)
    rows.setVerticalSpacing(6)
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    rows.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    return rows


# ----------------------------------------------------------------------------------------------------------------------
# Small parts that several widgets share.


def swatch(colour: tuple[int, int, int], side: int = 10) -> QPixmap:
    """A square of a colour."""
    picture = QPixmap(side, side)
    picture.fill(QColor(*colour))
    return picture


def button_of(text: str, tip: str = "", action: Callable[[], object] | None = None) -> QPushButton:
    """A button with a text and a tip, and what it does; errors of that are shown."""
    button = QPushButton(text)
    button.setToolTip(tip)
    if action is not None:
        button.clicked.connect(show_errors(lambda *_: action()))
    return button
