"""The table of an experiment in the dock: a row for each variant, which fills while trials end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_msunet._io import read_json
from napari_msunet.config import SettledTrainJob, TrainJob
from napari_msunet.config.jobs import file_word
from napari_msunet.errors import MsunetError
from napari_msunet.widgets.state import changed

if TYPE_CHECKING:
    from napari_msunet.widgets.state import State
_HEADINGS = {"dice": "Dice", "iou": "IoU", "f1": "F1"}
_ROWS = 7  # rows that are seen without scrolling
_NOT_TAKEN = {"time_limit", "epochs", "validation", "test", "device"}
"""Options of the training that an experiment does not compare."""


class VariantTable(QTableWidget):
    """Variant, trials done, mean, interval over groups, and difference to the first variant."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.variants: dict[str, dict[str, Any]] = {}
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setWordWrap(True)
        self.setAccessibleName(name)
        self.verticalHeader().hide()

    @property
    def chosen(self) -> str | None:
        """The variant of the selected row, else the one with the best mean; None where none was scored."""
        rows = self.selectionModel().selectedRows()
        if rows:
            return list(self.variants)[rows[0].row()]
        scored = {name: row["value"] for name, row in self.variants.items() if row.get("value") is not None}
        return max(scored, key=lambda name: scored[name], default=None)

    def begin(self, names: Sequence[str], metric: str) -> None:
        """Show variants of which nothing is known yet."""
        self.clearSelection()
        self.variants = {name: {"variant": name, "metric": metric, "trials": 0} for name in names}
        self._show()

    def add(self, row: Mapping[str, Any]) -> None:
        """Show what is known of a variant after a trial."""
        self.variants[row["variant"]] = dict(row)
        self._show()

    def fill(self, report: Mapping[str, Any]) -> None:
        """Show the report of an experiment."""
        metric = report["metric"]
        self.variants = {
            name: own
            | {"variant": name, "metric": metric, "value": own.get(metric)}
            | {"difference": report["differences"].get(name)}
            for name, own in report["variants"].items()
        }
        self._show()

    def _show(self) -> None:
        rows = list(self.variants.values())
        metric = rows[0]["metric"] if rows else "dice"
        self.setColumnCount(5)
        self.setRowCount(len(rows))
        self.setHorizontalHeaderLabels(["Variant", "n", _HEADINGS.get(metric, metric.capitalize()), "95 %", "to first"])
        shared = _shared(list(self.variants))
        for place, row in enumerate(rows):
            for column, (text, tip) in enumerate(_cells(row, metric, shared)):
                item = QTableWidgetItem(text)
                item.setToolTip(tip)
                self.setItem(place, column, item)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(24)
        self.resizeRowsToContents()
        height = sum(self.rowHeight(place) for place in range(min(_ROWS, len(rows))))
        self.setFixedHeight(header.sizeHint().height() + height + 6)
        self.setVisible(bool(rows))


def _shared(names: Sequence[str]) -> int:
    """How many first letters of all names are the same whole words, which every row would repeat."""
    if len(names) < 2:
        return 0
    words = list(zip(*(name.split(" ")[:-1] for name in names), strict=False))
    same = list(takewhile(lambda found: len(set(found)) == 1, words))
    return sum(len(found[0]) + 1 for found in same)


def _cells(row: Mapping[str, Any], metric: str, shared: int) -> list[tuple[str, str]]:
    """The texts and tips of a row; of the name without its first letters, which are those of all names."""
    name, trials, value = row["variant"], str(row.get("trials") or 0), row.get("value")
    short = name[shared:]
    if value is None:
        reason = str(row.get("error") or "No trial has ended yet.")
        word = "cannot run" if row.get("error") else "…"
        return [(short, f"{name}: {reason}"), (trials, reason), (word, reason), ("", reason), ("", reason)]
    difference = row.get("difference")
    change, spread = "–", "This is what the others are compared with."
    if difference is not None:
        change = f"{difference[metric]:+.3f}"
        spread = f"Paired by group: {_between(difference['interval'], '+') or 'one group, so its spread is not known'}."
        if difference["interval"] and not difference["interval"][0] <= 0 <= difference["interval"][1]:
            change += " *"
            spread += " Beyond the noise."
    interval = "" if row.get("interval") is None else "{:.2f}–{:.2f}".format(*row["interval"])
    tips = (
        "Trials done: folds times seeds.",
        "Mean over trials.",
        f"Over groups (patients, slides): {_between(row.get('interval'))}",
        spread,
    )
    return [(short, name), *zip((trials, f"{value:.3f}", interval or "–", change), tips, strict=True)]


def _between(interval: Sequence[float] | None, sign: str = "") -> str:
    return "" if interval is None else f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}"


def take_variant(state: State, name: str, training: TrainJob, trials: Path) -> None:
    """Set the model and the options of the dock's training to those of a variant.

    Parameters
    ----------
    state : State
    name : str
    training : TrainJob
        The training of the variant.
    trials : Path
        The folder with its trials, one of which has the model that was chosen where the training leaves it open.

    Raises
    ------
    MsunetError
        If it learns other classes than those of the dock, or no trial of it has begun.
    """
    runs = sorted(trials.glob(f"{file_word(name)}-fold*-seed*/job.json"))
    if not runs:
        raise MsunetError(f"No trial of {name} has begun, so there is nothing to use; wait, or choose another row.")
    model = SettledTrainJob.model_validate(read_json(runs[0])).model
    if model.classes != state.classes:
        raise MsunetError(
            f"This variant learns {', '.join(model.classes)}, but the classes here are {', '.join(state.classes)}: "
            "give the same classes in the Annotate step."
        )
    state.set_model(model.model_copy(update={"normalisation": None, "trained_on": None}))
    options = state.train_options
    taken = {field: getattr(training, field) for field in type(options).model_fields if field not in _NOT_TAKEN}
    state.set_train_options(changed(options, **taken))
