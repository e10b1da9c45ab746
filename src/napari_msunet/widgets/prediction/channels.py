"""The choice of the slide's channels for the model, where their names and number do not decide it."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QLabel, QVBoxLayout, QWidget

from napari_msunet.config import ModelConfig
from napari_msunet.widgets.dock.fields import ChoiceField

Channel = str | int


def fitting(config: ModelConfig, channels: Sequence[str]) -> bool:
    """Whether a slide has the channels of a model: the same names, or the same number if the model has no names."""
    wanted = config.channel_names
    if wanted is None:
        return config.channels == len(channels)
    return set(wanted) <= set(channels) and len(set(channels)) == len(channels)


class ChannelsRow(QWidget):
    """One field for each channel of the model; shown only where it is needed.

    Attributes
    ----------
    changed : Signal(object)
        The tuple of the slide's channels, by name (by number where names are not unique).
    """

    changed = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.words = QLabel()
        self.words.setObjectName("problem")
        self.words.setWordWrap(True)
        self.rows = QFormLayout()
        self.rows.setContentsMargins(0, 0, 0, 0)
        self.rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.words)
        column.addLayout(self.rows)
        self.fields: list[ChoiceField] = []
        self._shown: tuple[object, ...] = ()
        self.hide()

    def show_for(
        self, config: ModelConfig, channels: Sequence[str], given: tuple[Channel, ...] | None
    ) -> tuple[Channel, ...] | None:
        """Show the fields where the channels of model and slide do not fit; gives the `channels` of the job.

        None: the job needs none, or a channel is not chosen yet, which `missing` names.
        """
        needed = not fitting(config, channels)
        self.setVisible(needed)
        if not needed:
            return None
        names: dict[Channel, str] = (
            {name: name for name in channels}
            if len(set(channels)) == len(channels)
            else {n: f"{n}: {name}" for n, name in enumerate(channels)}
        )
        shown = (tuple(names), config.channels, config.channel_names)
        if shown != self._shown:
            self._shown = shown
            self._build(config, names, given)
        return self.value()

    def value(self) -> tuple[Channel, ...] | None:
        """The chosen channels; None while one is not chosen."""
        chosen = tuple(field.value() for field in self.fields)
        return None if None in chosen else chosen

    @property
    def missing(self) -> str | None:
        """A sentence about the channel that is not chosen yet, or None."""
        if self.isHidden():
            return None
        open_ = [field.accessibleName() for field in self.fields if field.value() is None]
        return f"Choose which of the slide's channels is the model's {open_[0]}." if open_ else None

    def _build(self, config: ModelConfig, names: dict[Channel, str], given: tuple[Channel, ...] | None) -> None:
        count = "1 channel" if config.channels == 1 else f"{config.channels} channels"
        has = f"the slide has {len(names)}" if config.channels != len(names) else "the slide's have other names"
        self.words.setText(f"The model takes {count}, {has}: choose which are the model's.")
        while self.rows.rowCount():
            self.rows.removeRow(0)
        wanted = config.channel_names or tuple(f"channel {n + 1}" for n in range(config.channels))
        known = list(names)
        start = given if given is not None and len(given) == len(wanted) and set(given) <= set(known) else None
        self.fields = []
        for number, name in enumerate(wanted):
            field = ChoiceField({None: "choose…", **names})
            field.setToolTip(f"The slide's channel that is the model's {name}.")
            field.setAccessibleName(name)
            field.setValue(start[number] if start else name if name in known else None)
            field.valueChanged.connect(lambda _: self.changed.emit(self.value()))
            self.fields.append(field)
            self.rows.addRow(name, field)
