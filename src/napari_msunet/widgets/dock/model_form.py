"""The editor of a model: resolution, scales, fusion, networks."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import ValidationError
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QGridLayout, QLabel, QVBoxLayout, QWidget

from napari_msunet.config import FUSIONS, NETWORKS, BranchConfig, Fusion, ModelConfig, UNetConfig
from napari_msunet.config.base import fields_of
from napari_msunet.config.branches import missing_for_encoders
from napari_msunet.geometry import as_scale
from napari_msunet.widgets.dock.fields import (
    CheckField,
    ChoiceField,
    NumberField,
    ResolutionField,
    ScalesField,
    WholeField,
    drawing,
)
from napari_msunet.widgets.forms import Fold, Form, editor_for

if TYPE_CHECKING:
    from napari_msunet.widgets.dock.fields import Editor
# ----------------------------------------------------------------------------------------------------------------------
# The editor of the networks: one row for all scales or one for each, and the options of their layers.

_SIZES = {one.name: one for one in fields_of(UNetConfig) if one.name in ("depth", "width", "dropout")}
"""The options in a row, which each scale can have of its own."""


class BranchesField(QWidget):
    """Edits the networks: one row for all scales, or one for each."""

    OWN_LABEL = True
    valueChanged = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._scales: tuple[float, ...] = (1.0,)
        self._rows: list[tuple[WholeField, WholeField, NumberField]] = []
        self._given: tuple[BranchConfig, ...] = ()
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
        self.kind = ChoiceField({kind: text for kind, (_, text, _) in NETWORKS.items()})
        self.kind.setToolTip("What the network of each scale is built like. Encoders need the extra encoders.")
        self.kind.setAccessibleName("Network")
        self.kind.valueChanged.connect(self._other_kind)
        row = QFormLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addRow("Network", self.kind)
        column.addLayout(row)
        self.lacking = QLabel()
        self.lacking.setObjectName("note")
        self.lacking.setWordWrap(True)
        self.lacking.setVisible(False)
        column.addWidget(self.lacking)
        self.fold = Fold("What it is made of", "Blocks, skips, normalisation: the same for all scales.")
        self.details = _Details()
        self.details.edited.connect(self._detail)
        self.fold.inside.addWidget(self.details)
        column.addWidget(self.fold)
        self.setValue(UNetConfig())

    def set_scales(self, scales: tuple[float, ...]) -> None:
        """Set the scales, which name the rows."""
        if scales != self._scales:
            old = dict(zip(self._scales, self._branches(), strict=False))
            self._scales = scales
            if not self.same.isChecked():
                last = next(iter(old.values()))
                self._fill(tuple(old.get(s, last) for s in scales))

    def value(self) -> BranchConfig | tuple[BranchConfig, ...]:
        """One config for all scales, or one for each; options that are not shown stay as they were given."""
        branches = tuple(_changed(*pair) for pair in zip(self._given, self._rows, strict=True))
        return branches[0] if self.same.isChecked() else branches

    def setValue(self, value: BranchConfig | tuple[BranchConfig, ...]) -> None:
        """Show the configs of the networks."""
        self.same.blockSignals(True)
        self.same.setChecked(not isinstance(value, tuple))
        self.same.blockSignals(False)
        self._fill(value if isinstance(value, tuple) else (value,))

    def _branches(self) -> tuple[BranchConfig, ...]:
        value = self.value()
        return value if isinstance(value, tuple) else (value,) * len(self._scales)

    def _switch(self) -> None:
        first = _changed(self._given[0], self._rows[0])
        self._fill((first,) if self.same.isChecked() else (first,) * len(self._scales))
        self.valueChanged.emit(self.value())

    def _fill(self, branches: tuple[BranchConfig, ...]) -> None:
        self._given = branches
        if len(branches) != len(self._rows) or len(branches) > 1:
            self._rebuild(len(branches))
        for row, branch in zip(self._rows, branches, strict=True):
            for field, number in zip(row, (branch.depth, branch.width, getattr(branch, "dropout", 0.0)), strict=True):
                field.blockSignals(True)
                field.setValue(number)
                field.blockSignals(False)

        sized = branches[0].kind != "classical"  # which has no size, and one scale
        self.same.setVisible(sized)
        for index in range(self.grid.count()):
            self.grid.itemAt(index).widget().setVisible(sized)
        self.kind.blockSignals(True)
        self.kind.setValue(branches[0].kind)
        self.kind.blockSignals(False)
        self.details.show_config(branches[0])
        lacking = missing_for_encoders() if any(branch.kind == "encoder" for branch in branches) else ""
        self.lacking.setText(lacking)
        self.lacking.setVisible(bool(lacking))

    def _other_kind(self, kind: str) -> None:
        """Change the kind of the networks, and keep their depth and width where the new kind allows them."""
        config = NETWORKS[kind][0]
        changed = tuple(_converted(_changed(*pair), config) for pair in zip(self._given, self._rows, strict=True))
        self._fill(changed)
        self.valueChanged.emit(self.value())

    def _detail(self, name: str, value: object) -> None:
        """Change an option of all networks."""
        before = self.value()
        branches = before if isinstance(before, tuple) else (before,)
        try:
            changed = tuple(type(b).model_validate({**dict(b), name: value}) for b in branches)
        except ValidationError:
            self.details.show_config(branches[0])
            return
        self._fill(changed)
        self.valueChanged.emit(self.value())

    def _rebuild(self, count: int) -> None:
        while (item := self.grid.takeAt(0)) is not None:
            item.widget().hide()
            item.widget().deleteLater()
        for column, one in enumerate(_SIZES.values(), 1):
            heading = QLabel(one.label)
            heading.setToolTip(one.help)
            self.grid.addWidget(heading, 0, column)
        self._rows = []
        for number in range(count):
            label = "All scales" if self.same.isChecked() else f"Scale {as_scale(self._scales[number])}"
            self.grid.addWidget(QLabel(label), number + 1, 0)
            fields = (WholeField(1, 6), WholeField(1, 256), NumberField(0, 0.9, 0.05))
            for column, (field, one) in enumerate(zip(fields, _SIZES.values(), strict=True), 1):
                field.setToolTip(one.help)
                field.setStyleSheet("min-width: 30px")  # so that three fields fit beside each other into a narrow dock
                field.valueChanged.connect(lambda *_: self.valueChanged.emit(self.value()))
                self.grid.addWidget(field, number + 1, column)
            self._rows.append(fields)


class _Details(QWidget):
    """The form of all options of a network except its size."""

    edited = Signal(str, object)

    def __init__(self) -> None:
        super().__init__()
        self._kind: type[BranchConfig] | None = None
        self.editors: dict[str, Editor] = {}
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(0, 0, 0, 0)
        self._box: QWidget | None = None

    def show_config(self, config: BranchConfig) -> None:
        """Show a network's options."""
        if type(config) is not self._kind:
            self._build(type(config))
        for name, editor in self.editors.items():
            editor.blockSignals(True)
            editor.setValue(getattr(config, name))
            editor.blockSignals(False)

    def _build(self, kind: type[BranchConfig]) -> None:
        """Make the rows for the options of another kind of network."""
        if self._box is not None:
            self._box.hide()
            self._box.deleteLater()
        self._kind, self.editors, self._box = kind, {}, QWidget()
        rows = QFormLayout(self._box)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for one in fields_of(kind):
            if one.name in _SIZES:
                continue
            editor: Editor = editor_for(one)
            editor.setToolTip(one.help)
            editor.setAccessibleName(one.label)
            editor.valueChanged.connect(lambda *_, n=one.name, e=editor: self.edited.emit(n, e.value()))
            rows.addRow(editor) if isinstance(editor, CheckField) else rows.addRow(one.label, editor)
            self.editors[one.name] = editor
        self.column.addWidget(self._box)


def _converted(branch: BranchConfig, kind: type[BranchConfig]) -> BranchConfig:
    """The config of a network of another kind and about the same size."""
    for depth in (branch.depth, 3, 4):
        with suppress(ValidationError):
            return kind(depth=depth, width=max(8, branch.width))
    return kind()


def _changed(branch: BranchConfig, row: tuple[WholeField, WholeField, NumberField]) -> BranchConfig:
    """The config with the numbers in its row; numbers that it cannot have stay as they were."""
    depth, width, dropout = row
    given: dict[str, object] = {"depth": depth.value(), "width": width.value()}
    if "dropout" in type(branch).model_fields:
        given["dropout"] = round(dropout.value(), 4)
    try:
        return type(branch).model_validate({**dict(branch), **given})
    except ValidationError:
        return branch


# ----------------------------------------------------------------------------------------------------------------------
# The form of a model, with a drawing of its fusion.


class ModelForm(Form):
    """Edits a `ModelConfig`; its classes, channels and normalisation stay as they were set."""

    def __init__(self, value: ModelConfig) -> None:
        self.scales, self.branches = ScalesField(), BranchesField()
        self.scales.valueChanged.connect(self.branches.set_scales)  # connected before the form reads the scales
        special = {"mpp": ResolutionField(), "scales": self.scales, "branch": self.branches}
        super().__init__(value, special)
        self.meaning = QLabel()
        self.meaning.setObjectName("note")
        self.meaning.setWordWrap(True)
        self.rows.addRow(self.meaning)
        self.picture = QLabel()
        self.picture.setAccessibleName("What this fusion does")
        self.rows.addRow(self.picture)
        self.editors["fusion"].valueChanged.connect(self._explain)
        self._explain(value.fusion)

    def _explain(self, name: Fusion) -> None:
        """Show the sentence and the drawing of a fusion."""
        self.meaning.setText(FUSIONS[name][1])
        self.picture.setPixmap(drawing(name, self.devicePixelRatioF()))

    def _show(self, value: ModelConfig) -> None:
        self.branches.set_scales(value.scales)
        super()._show(value)

    def _read(self) -> ModelConfig:
        # The field shows numbers rounded; showing one must not change it.
        config: ModelConfig = super()._read()
        before = self._value.mpp
        if config.mpp is not None and before is not None and abs(config.mpp - before) < 0.0005:
            config = config.model_copy(update={"mpp": before})
        return config
