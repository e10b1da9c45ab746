"""Predicting all slides of the dock one after another, and merging what was predicted into their labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_msunet.config import GivenSlide, ModelConfig, PredictManyJob
from napari_msunet.config.prediction import PredictSettings
from napari_msunet.errors import MsunetError
from napari_msunet.labels import open_labels
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.prediction.merging import prepare_store

if TYPE_CHECKING:
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import SlideRecord, State
ANYWHERE = "On all slides, whole slides or their tissue are predicted: choose one of these in Where."


def slides_of(state: State) -> list[SlideRecord]:
    """The slides that can be predicted together."""
    return [record for record in state.slides if record.sized and record.path.exists()]


class ManySlides(QObject):
    """The job of all slides, its label stores, and their merging at its end.

    The labels of slides that are not shown are not opened as layers. This process holds all of them meanwhile, so that
    what a person paints and what is predicted are merged here, as with a single slide.

    Attributes
    ----------
    merged : Signal()
        Everything is merged.

    Parameters
    ----------
    state : State
    layers : Layers
    parent : QObject
    """

    merged = Signal()

    def __init__(self, state: State, layers: Layers, parent: QObject) -> None:
        super().__init__(parent)
        self.state, self.layers = state, layers
        self._done = self._all = 0
        self._background = Background("msunet-many", self)

    @property
    def busy(self) -> bool:
        """Whether something waits to be merged."""
        return self._background.busy

    @property
    def words(self) -> str:
        """How many slides were predicted last."""
        return f"{self._done} of {self._all} slides are predicted"

    def job(self, where: str, outs: list[Path] | None = None) -> PredictManyJob:
        """The job of all slides.

        Parameters
        ----------
        where : str
            "all" or "tissue"; the tissue of a slide is as it was corrected.
        outs : list of Path, optional
            The label store of each slide; None: the job will not be run as it is.

        Raises
        ------
        MsunetError
            If something is missing, or another area is chosen.
        """
        if where not in ("all", "tissue"):
            raise MsunetError(ANYWHERE)
        records = slides_of(self.state)
        jobs = [resolve.predict_job(self.state, record, draft=True, where=where) for record in records]
        if not jobs:
            raise MsunetError(resolve.NO_SLIDE)
        folder = self.state.project_folder() / "predictions"
        free = [record.labels or folder / f"{n} {record.name}.ome.zarr" for n, record in enumerate(records)]
        given = tuple(
            GivenSlide(
                slide=job.slide, out=out, mpp=job.slide_mpp, kind=job.image_kind, value_range=job.value_range,
                where=job.where,
            )
            for job, out in zip(jobs, outs or free, strict=True)
        )  # fmt: skip
        settings = {name: getattr(jobs[0], name) for name in PredictSettings.model_fields}
        settings |= {"where": where, "channels": self.state.predict_options.channels}
        return PredictManyJob(slides=given, out=folder, settings=PredictSettings(**settings))

    def preparing(self, job: PredictManyJob, config: ModelConfig) -> Callable[[], list[Path]]:
        """A function that makes and holds the label stores, for a thread; it gives their paths."""
        project, records = self.state.make_project(), slides_of(self.state)

        def prepare() -> list[Path]:
            outs = []
            for item, record in zip(job.slides, records, strict=True):
                free = project.labels_path(record.name)
                one = job.one(item).model_copy(update={"out": record.labels or free})
                outs.append(prepare_store(one, config, free))
            return outs

        return prepare

    def merge(self, job: PredictManyJob) -> None:
        """Merge what is finished into the labels, in the background, and show it."""
        from napari_msunet.inference.many_slides import TABLE, ResultsTable  # which imports torch

        self._done, self._all = 0, len(job.slides)
        table = job.out / TABLE
        rows = ResultsTable(table) if table.exists() else None
        for item in job.slides:
            row = None if rows is None else rows.row(item.out)
            record = self.state.slide_at(item.slide)
            if record is not None and row is not None and row["status"] in ("done", "skipped"):
                self._background.run(partial(_merge, item.out, row["run"]), partial(self._merged, record, item.out))
        self._background.run(lambda: None, lambda _: self.merged.emit())

    def _merged(self, record: SlideRecord, out: Path, _: object) -> None:
        self._done += 1
        record.labels = out
        self.state.predicted.add(out)
        layer = self.layers.of_store(out)
        if layer is not None:
            layer.refresh()

    def closing(self) -> None:
        """Stop merging; the runs keep what waits."""
        self._background.close()


def _merge(out: Path, key: str) -> None:
    store = open_labels(out)
    store.merge(store.run(key))
    store.flush()
