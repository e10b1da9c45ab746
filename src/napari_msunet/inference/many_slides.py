"""Predicting many slides one after another, with a table of results; a slide that fails does not stop the others."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_msunet._io import read_rows, table_text, write_text
from napari_msunet.config import GivenSlide, PredictJob, PredictManyJob
from napari_msunet.constants import CHUNK
from napari_msunet.errors import MsunetError, failure
from napari_msunet.events import Cancelled, Event, Message, Progress, RegionDone, Result
from napari_msunet.inference.predict import predict_events
from napari_msunet.labels import Run, open_labels
from napari_msunet.labels.store import is_open

if TYPE_CHECKING:
    from napari_msunet.inference.cluster import Workers
# ----------------------------------------------------------------------------------------------------------------------
# The table of results: a CSV with a row for each slide, whole at any moment.

FIRST = ("slide", "group", "status", "labels", "run")
LAST = ("megapixels", "seconds", "megapixels_per_second", "error")

AREAS = ("mm2 ", "px2 ")
"""Columns of the area of a class: in mm², or in pixels of slides without a size in µm."""

Row = dict[str, str]


class ResultsTable:
    """Rows by label store; each `put` writes the whole file aside and renames it.

    Columns: slide, group, status ("done", "failed", "skipped": nothing was left to compute), labels (relative to the
    table where it lies below its folder), run, one ``mm2 NAME`` for each class (``px2 NAME`` where slides
    have no size in µm), megapixels (wanted pixels of the target
    grid), seconds, megapixels_per_second, error.

    Parameters
    ----------
    path : Path
        The CSV; rows that it has already are kept until their slide has a new result.

    Raises
    ------
    MsunetError
        If the file exists and is no such table.
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
        """All rows, in the order in which their slides were added."""
        return list(self._rows.values())

    def row(self, labels: Path) -> Row | None:
        """The last row of a label store."""
        return self._rows.get(self._name(labels))

    def put(self, labels: Path, row: Row) -> None:
        """Set the row of a slide, and write the table."""
        name = self._name(labels)
        self._rows[name] = {**row, "labels": name}
        write_text(self.path, self._text(), parents=True)

    def _text(self) -> str:
        areas = sorted({name for row in self._rows.values() for name in row if name.startswith(AREAS)})
        return table_text(self._rows.values(), [*FIRST, *areas, *LAST])

    def _name(self, labels: Path) -> str:
        """The name of a store in the table."""
        whole = Path(os.path.abspath(labels))
        try:
            return whole.relative_to(os.path.abspath(self.path.parent)).as_posix()
        except ValueError:
            return whole.as_posix()

    def _load(self) -> None:
        try:
            columns, rows = read_rows(self.path)
        except (OSError, ValueError) as error:
            raise MsunetError(
                f"The results table {self.path} cannot be read ({error}); move it away or give another --out."
            ) from error
        if not {"slide", "status", "labels"} <= set(columns):
            raise MsunetError(
                f"{self.path} is there already and is no table of results; move it away or give another --out."
            )
        known = (*FIRST, *LAST)
        for row in rows:
            kept = {k: v or "" for k, v in row.items() if k in known or str(k).startswith(AREAS)}
            self._rows[kept["labels"]] = kept


# ----------------------------------------------------------------------------------------------------------------------
# The jobs: the prediction of one slide, and of many.

TABLE = "results.csv"


def one_events(job: PredictJob, workers: Workers | None = None) -> Iterator[Event]:
    """Run a prediction in this process, or on the workers of a cluster where the job, or `workers`, says so."""
    if workers is not None:
        from napari_msunet.inference.cluster import predict_on

        yield from predict_on(job, workers)
    elif job.cluster is not None:
        from napari_msunet.inference.cluster import predict_on, workers_of

        with workers_of(job.cluster) as started:
            yield from predict_on(job, started)
    else:
        yield from predict_events(job)


def predict_many_events(job: PredictManyJob) -> Iterator[Event]:
    """Run a job of many slides; see `napari_msunet.run`.

    Yields
    ------
    Event
        `Progress` in slides (with fractions); each slide's messages after its name; `RegionDone` as they come; a
        `Result` whose values count the slides that are done, skipped and failed.

    Raises
    ------
    MsunetError
        If the table cannot be written or the cluster cannot be reached. What goes wrong with a slide is in its row.
    """
    table = ResultsTable(job.out / TABLE)
    if job.settings.cluster is None:
        yield from _Many(job, table).events()
        return
    from napari_msunet.inference.cluster import workers_of

    with workers_of(job.settings.cluster) as workers:
        yield from _Many(job, table, workers).events()


@dataclass
class _Many:
    """The state of one pass over the slides."""

    job: PredictManyJob
    table: ResultsTable
    workers: Workers | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"done": 0, "skipped": 0, "failed": 0})
    _started: float = field(default_factory=time.monotonic)
    _free: float = 0.0
    """Slides, with fractions, that took no time, and so do not count for the estimate of the time left."""

    def events(self) -> Iterator[Event]:
        total = len(self.job.slides)
        yield Progress(done=0, total=total, unit="slides")
        for number, item in enumerate(self.job.slides):
            yield from self._slide(number, item)
        failed = self.counts["failed"]
        if failed:
            yield Message(level="warning", text=f"{failed} of {total} slides failed; {self.table.path} says why.")
        values = {"slides": total, **self.counts}
        yield Result(values=values, files={"results": str(self.table.path)})

    def _slide(self, number: int, item: GivenSlide) -> Iterator[Event]:
        """Predict one slide and write its row, whatever error it raises."""
        started, name = time.monotonic(), item.slide.name
        result: Result | None = None
        editing = is_open(item.out)
        try:
            complete = _complete_runs(item.out)
            computed = 0
            for event in one_events(self.job.one(item), self.workers):
                computed += event.height * event.width if isinstance(event, RegionDone) else 0
                if isinstance(event, Result):
                    result = event
                else:
                    yield self._told(event, number, name)
            if result is None:
                raise MsunetError("The prediction ended without a result; its messages say why.")
            run = open_labels(item.out).run(str(result.values["run"]))
            row = _row(run, computed, time.monotonic() - started)
            if run.key in complete:
                row = self._skipped(item, row)
        except Cancelled:
            raise
        except Exception as error:  # also an error of a library: the other slides are still predicted
            text, details = failure(error)
            row = {"status": "failed", "error": text}
            yield Message(level="error", text=f"{name}: {text}")
            if details is not None:
                yield Message(text=details)
        finally:
            if not editing:
                _let_go(item.out)
        self.counts[row["status"]] += 1
        if row["status"] == "skipped":
            self._free += 1
        self.table.put(item.out, {"slide": str(item.slide), "group": item.group or "", **row})
        yield self._progress(number + 1)

    def _told(self, event: Event, number: int, name: str) -> Event:
        """An event of one slide as an event of the whole job."""
        if isinstance(event, Progress):
            share = event.done / event.total if event.total else 0.0
            # the last hundredth is for the work after the tiles, and the row
            return self._progress(number + min(share, 0.99), event.rate)
        if isinstance(event, Message):
            return Message(level=event.level, text=f"{name}: {event.text}")
        return event

    def _progress(self, done: float, rate: float | None = None) -> Progress:
        total, cost = len(self.job.slides), done - self._free
        left = (time.monotonic() - self._started) / cost * (total - done) if cost > 0.01 else None
        return Progress(done=round(done, 3), total=total, unit="slides", seconds_left=left, rate=rate)

    def _skipped(self, item: GivenSlide, row: Row) -> Row:
        """The row of a slide with nothing left to compute, with the speed of its earlier computation."""
        before = self.table.row(item.out)
        known = before is not None and before.get("run") == row["run"]
        pace = {name: before[name] if known and before else "" for name in ("seconds", "megapixels_per_second")}
        return {**row, "status": "skipped", **pace}


def _complete_runs(out: Path) -> set[str]:
    """Keys of the runs of a label store that are complete; none where there is no store yet."""
    if not out.exists():
        return set()
    return {run.key for run in open_labels(out).runs if run.complete}


def _let_go(out: Path) -> None:
    """Close a slide's label store, since a list of thousands must not keep as many stores and locks open."""
    if is_open(out):
        open_labels(out).close()


def _row(run: Run, computed: int, seconds: float) -> Row:
    """The row of a finished prediction, of which `computed` pixels took `seconds` seconds."""
    pixels = sum(window.height * window.width for window in run.done.values())
    areas = class_areas(run)
    return {
        "status": "done",
        "run": run.key,
        **area_fields(run, areas),
        "megapixels": f"{pixels / 1e6:.6g}",
        "seconds": f"{seconds:.2f}",
        "megapixels_per_second": f"{computed / 1e6 / max(seconds, 1e-3):.4g}",
        "error": "",
    }


def area_fields(run: Run, areas: dict[str, float]) -> Row:
    """The columns of the classes' areas: in mm², or in pixels of the slide."""
    if run.info.mpp is None:
        return {f"px2 {name}": f"{area:.10g}" for name, area in areas.items()}
    return {f"mm2 {name}": f"{area / 1e6:.6g}" for name, area in areas.items()}


def class_areas(run: Run) -> dict[str, float]:
    """The area of each class of a run, from its label pixels; empty chunks are skipped.

    Areas are in µm², or in pixels of the slide where the run has no size in µm.
    """
    counts = np.zeros(256, np.int64)
    height, width = run.info.shape
    for cy in range(ceil(height / CHUNK)):
        for cx in range(ceil(width / CHUNK)):
            values = run.chunk(cy, cx)
            if values is not None:
                counts += np.bincount(values.ravel(), minlength=256)[:256]
    area = prod(run.info.spacing)
    return {name: float(counts[value] * area) for value, name in enumerate(run.classes, 1)}
