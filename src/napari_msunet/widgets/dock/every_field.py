"""Rows for every field of a config, told by its types, limits and docstring: so that nothing is out of reach."""

from __future__ import annotations

import re
from functools import cache
from inspect import cleandoc
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from napari.utils.notifications import show_warning
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QWidget

from napari_msunet.typed_numbers import read_numbers
from napari_msunet.widgets.dock.fields import CheckField, ChoiceField, NumberField, WholeField

LABELS = {
    "norm": "Normalisation",
    "down": "Way down",
    "up": "Way up",
    "residual": "Residual blocks",
    "separable": "Separable convolutions",
    "gates": "Attention gates on skips",
    "attention": "Skip attention",
    "window": "Its window",
    "dense": "Nested skips (U-Net++)",
    "pyramid": "Feature pyramid (FPN)",
    "context": "Dilated context",
    "blocks": "Blocks each",
    "bce": "Binary CE",
    "border": "Border weight",
    "border_sigma": "Border width",
    "own_grid": "On the finest scale's own grid",
    "iterations": "L-BFGS iterations",
    "rise": "One-cycle rise",
    "monitor": "Plateau watches",
    "threshold": "Plateau threshold",
    "factor": "Plateau factor",
    "clip": "Clip gradient",
    "recalibrate": "Re-estimate batch norm",
    "branch_rates": "Rate per scale",
    "jpeg": "JPEG",
    "cutout": "Cut-out",
    "cutmix": "CutMix",
    "mixup": "MixUp",
    "balance": "Balanced classes",
    "hard": "Hard examples",
    "test": "Test set",
    "normalise": "Normalise",
    "find_batch_size": "Find the largest batch",
    "find_learning_rate": "Find the learning rate",
    "track": "Also tell",
    "track_uri": "MLflow at",
}
"""Names of fields as people read them, where the field's own is not enough."""

_ENTRY = re.compile(r"^(\w[\w, ]*?) : .+$")
_LARGE = 1_000_000
_NUMBERS = re.compile(r"[\d\s.,;+\-e'’]*")
"""What can only be meant as numbers."""


@cache
def descriptions(config: type[BaseModel]) -> dict[str, str]:
    """What the docstring's attribute list says of each field, that of the base classes included."""
    found: dict[str, str] = {}
    for kind in reversed(config.__mro__):
        names: list[str] = []
        for line in cleandoc(kind.__doc__ or "").splitlines():
            if entry := _ENTRY.match(line):
                names = [name.strip() for name in entry[1].split(",")]
                found |= dict.fromkeys(names, "")
            elif names and line.startswith("    "):
                found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
            elif line.strip():
                names = []
    return {name: text.replace("``", "").replace("`", "") for name, text in found.items()}


def label_of(name: str) -> str:
    """A field's name as people read it."""
    text = LABELS.get(name) or name.replace("_", " ")
    return text[:1].upper() + text[1:]


def editor_for(field: FieldInfo, name: str) -> QWidget:
    """An editor with `value()`, `setValue()` and `valueChanged` for a field of a config."""
    kinds, limits = _resolved(field.annotation, list(field.metadata))
    optional = NoneType in kinds
    plain = [kind for kind in kinds if kind is not NoneType]
    if plain == [bool]:
        return CheckField(label_of(name))
    if plain and all(get_origin(kind) is Literal for kind in plain) and len(kinds) == len(plain):
        values = [value for kind in plain for value in get_args(kind)]
        return ChoiceField({value: str(value).replace("_", " ") for value in values})
    if plain == [int]:
        low, high = _ends(limits, -_LARGE, _LARGE, 1)
        return WholeField(int(low), int(high), none="none" if optional else None)
    if plain == [float] and not optional:
        low, high = _ends(limits, 0, _LARGE, 1e-6)
        return NumberField(low, high, 0.05 if high <= 1 else 0.1 if high < 100 else 1.0, 6)
    return AnyField(field)


class AnyField(QLineEdit):
    """A value of any type as text: numbers with commas, words, nothing for None; what cannot be read is not taken."""

    valueChanged = Signal(object)

    def __init__(self, field: FieldInfo) -> None:
        super().__init__()
        annotation: Any = field.annotation
        limited = Annotated[(annotation, *field.metadata)] if field.metadata else annotation
        self._type: TypeAdapter[Any] = TypeAdapter(limited)
        self._value: Any = None
        self._as_set = ""
        self.setPlaceholderText("none")
        self.editingFinished.connect(self._read)

    def value(self) -> Any:
        return self._value

    def setValue(self, value: Any) -> None:
        changed, self._value = value != self._value, value
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        self.setText(", ".join(map(_shown, values)))
        self._as_set = self.text()
        if changed:
            self.valueChanged.emit(value)

    def _read(self) -> None:
        if self.text() == self._as_set:
            return
        for candidate in _readings(self.text()):
            try:
                self.setValue(self._type.validate_python(candidate))
            except ValidationError:
                continue
            return
        shown = self.text()
        self.setValue(self._value)
        show_warning(f'"{shown}" cannot be used here; {self.text() or "nothing"} stays. Part numbers by semicolons.')


def _shown(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _readings(text: str) -> list[Any]:
    """What a text may mean: nothing, one number, several, or words."""
    text = text.strip()
    if not text:
        return [None, (), ""]
    parts = [part.strip() for part in text.replace(";", ",").split(",") if part.strip()]
    if not any(sign.isdigit() for sign in text):
        return [text, tuple(parts)]
    try:
        numbers = read_numbers(text)
    except ValueError:
        return [] if _NUMBERS.fullmatch(text) else [text, tuple(parts)]
    return [*([numbers[0]] if len(numbers) == 1 else []), numbers, text]


def _resolved(annotation: Any, limits: list[Any]) -> tuple[list[Any], list[Any]]:
    """The members of a union, annotations and aliases taken off, and the limits that were in them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _resolved(inner, [*limits, *more])
    if origin in (Union, UnionType):
        kinds: list[Any] = []
        for member in get_args(annotation):
            found, limits = _resolved(member, limits)
            kinds += found
        return kinds, limits
    return [annotation], limits


def _ends(limits: list[Any], low: float, high: float, step: float) -> tuple[float, float]:
    """Lowest and highest value that the limits allow."""
    parts: list[Any] = []
    for limit in limits:
        parts += getattr(limit, "metadata", None) or [limit]
    for part in parts:
        if isinstance(part, Ge):
            low = float(part.ge)  # type: ignore[arg-type]
        elif isinstance(part, Gt):
            low = float(part.gt) + step  # type: ignore[arg-type]
        elif isinstance(part, Le):
            high = float(part.le)  # type: ignore[arg-type]
        elif isinstance(part, Lt):
            high = float(part.lt) - step  # type: ignore[arg-type]
    return low, high
