"""The table of many predictions: a CSV with a row for each slide, whole at any moment."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from napari_msunet.errors import MsunetError
from napari_msunet.labels.files import output_errors, replace_file

FIRST = ("slide", "group", "status", "labels", "run")
LAST = ("megapixels", "seconds", "megapixels_per_second", "error")

AREAS = ("mm2 ", "px2 ")
"""Columns of the area of a class: in mm², or in pixels of slides without a size in µm."""

Row = dict[str, str]


class ResultsTable:
    """Rows by label store; each `put` writes the file anew, aside, and renames it.

    Columns: slide, group, status ("done", "failed", "skipped": nothing was left to compute), labels (relative to the
    table where it lies below its folder), run, one ``mm2 NAME`` for each class (``px2 NAME`` where slides
    have no size in µm), megapixels (wanted pixels of the target
    grid), seconds, megapixels_per_second, error.

    Parameters
    ----------
    path : Path
        The CSV; rows that it has already are kept until their slide is told again.

    Raises
    ------
    MsunetError
        If there is a file that is no such table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, Row] = {}
        if path.exists():
            self._load()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order in which their slides were first told."""
        return list(self._rows.values())

    def row(self, labels: Path) -> Row | None:
        """What was told last about a label store."""
        return self._rows.get(self._name(labels))

    def put(self, labels: Path, row: Row) -> None:
        """Tell about a slide, and write the table."""
        name = self._name(labels)
        self._rows[name] = {**row, "labels": name}
        with output_errors(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, self._text().encode())

    def _text(self) -> str:
        areas = sorted({name for row in self._rows.values() for name in row if name.startswith(AREAS)})
        text = io.StringIO()
        writer = csv.DictWriter(text, [*FIRST, *areas, *LAST], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows.values())
        return text.getvalue()

    def _name(self, labels: Path) -> str:
        """A store as the table calls it."""
        whole = Path(os.path.abspath(labels))
        try:
            return whole.relative_to(os.path.abspath(self.path.parent)).as_posix()
        except ValueError:
            return whole.as_posix()

    def _load(self) -> None:
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                rows = list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise MsunetError(
                f"The results table {self.path} cannot be read ({error}); move it away or give another --out."
            ) from error
        if not {"slide", "status", "labels"} <= set(reader.fieldnames or ()):
            raise MsunetError(
                f"{self.path} is there already and is no table of results; move it away or give another --out."
            )
        known = (*FIRST, *LAST)
        for row in rows:
            kept = {k: v or "" for k, v in row.items() if k in known or str(k).startswith(AREAS)}
            self._rows[kept["labels"]] = kept
