"""The line below the Train button about how long a training will take: before the first one, some steps are tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QLabel, QSizePolicy

from napari_msunet.config import TimeTrainingJob, TrainJob
from napari_msunet.events import Result
from napari_msunet.training.progress import Finding

if TYPE_CHECKING:
    from napari_msunet.widgets.jobs import JobHandle, Jobs
MEASURING = "Trying a few steps, to tell how long the training will take …"


class TrainingEstimate(QLabel):
    """Shows the time that the check tells, and measures the time of a step where it is not known.

    Parameters
    ----------
    jobs : Jobs

    Attributes
    ----------
    told : Signal()
        The rate was measured.
    rate : float, optional
        Seconds for 1e9 multiplications of a training on this machine; None: not measured.
    """

    told = Signal()

    def __init__(self, jobs: Jobs) -> None:
        super().__init__()
        self.jobs = jobs
        self.rate: float | None = None
        self._tried: TrainJob | None = None
        self._handle: JobHandle | None = None
        self.setObjectName("note")
        self.setWordWrap(True)
        self.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("How long the training will take")
        self.setToolTip("Measured on this computer. Stop ends a training at any time, and keeps what it has learned.")

    @property
    def measuring(self) -> bool:
        """Whether steps are being tried."""
        return self._handle is not None

    def show_time(self, finding: Finding | None) -> None:
        """Show what the check says about the time; None: nothing."""
        if self._handle is not None:
            return
        name = "problem" if finding is not None and finding.level != "ok" else "note"
        if self.objectName() != name:
            self.setObjectName(name)
            self.style().unpolish(self)
            self.style().polish(self)
        self.setText("" if finding is None else finding.text)

    def measure(self, job: TrainJob, flush: Callable[[], None]) -> None:
        """Try some steps of a training, unless this was done before; returns at once."""
        if self._handle is not None or self.rate is not None or job == self._tried:
            return
        self._tried = job
        self.setText(MEASURING)
        self._handle = handle = self.jobs.submit(TimeTrainingJob(training=job), before=flush)
        handle.result.connect(self._measured)
        handle.finished.connect(self._finished)

    def _measured(self, event: Result) -> None:
        self.rate = event.values.get("rate")

    def _finished(self, outcome: str, text: str | None) -> None:
        self._handle = None
        self.setText("")
        if outcome == "cancelled":
            self._tried = None
        self.told.emit()

    def stop(self) -> None:
        """Stop measuring, because another job goes first, and say nothing."""
        self.setText("")
        if self._handle is not None:
            self._handle.blockSignals(True)
            self._handle.cancel()
            self._handle, self._tried = None, None
