"""The line with the cost of a prediction before it starts, which the worker finds out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import QLabel

from napari_msunet.config import InClasses, PlanJob, PredictJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import Progress, Result
from napari_msunet.labels import open_labels
from napari_msunet.widgets import resolve
from napari_msunet.wording import duration

# ----------------------------------------------------------------------------------------------------------------------
# Sentences about a prediction, while it runs and when it has ended.


def left_words(event: Progress) -> str:
    """The number of tiles left and the speed; empty before the first tile."""
    if event.total is None or event.rate is None:
        return ""
    left = int(event.total - event.done)
    if not left:
        return "All tiles are computed; finishing."
    return f"{'1 tile' if left == 1 else f'{left} tiles'} left · {rate_words(event.rate)}"


def rate_words(rate: float) -> str:
    """A speed in target pixels per second, as text in Mpx/s."""
    return f"{rate / 1e6:.2g} Mpx/s" if rate < 1e7 else f"{rate / 1e6:.0f} Mpx/s"


def result_words(result: Result, layer: str, seconds: float, exact: bool = True) -> str:
    """The result of a prediction in words, with the seam meter where it is not zero; `exact`: the margin was exact."""
    failed = int(result.values.get("failed") or 0)
    words = f'Done in {seconds:.0f} s: the labels are in the layer "{layer}", ready to be corrected.'
    if failed:
        words = f'{"1 tile" if failed == 1 else f"{failed} tiles"} could not be read; the rest is in "{layer}".'
    seam = result.values.get("seam")
    return words if seam is None else f"{words} {seam_words(seam, exact)}"


def seam_words(seam: dict[str, float], exact: bool = False) -> str:
    """The seam meter in a sentence. With the exact margin, only a network that no margin makes exact has one."""
    near, elsewhere = (_percent(seam[name]) for name in ("near", "elsewhere"))
    cure = "a layer of this network looks at whole tiles, so no margin" if exact else "the exact margin"
    return (
        f"Seam meter: with other tiles {near} of the labels near the tiles' borders would be others, {elsewhere} "
        f"elsewhere; {cure} makes it none."
    )


def _percent(share: float) -> str:
    return "none" if share == 0 else "less than 0.01 %" if share < 1e-4 else f"{100 * share:.2g} %"


# ----------------------------------------------------------------------------------------------------------------------
# The line that says what a prediction would cost.

if TYPE_CHECKING:
    from napari_msunet.widgets.jobs import JobHandle, Jobs
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import State

    Stamp: TypeAlias = tuple[tuple[str, int], ...]
    """The files of a journal, with their sizes."""

AFTER_CHANGES = 600
"""Milliseconds without a change after which the worker is asked."""

PLANNING = "Planning…"
TIP = "What the button above would do. The time is the network's, as measured on this machine."


class PlanLine(QLabel):
    """A line with tiles, work, memory and time of a prediction, or the reason why there can be none.

    Parameters
    ----------
    state : State
    jobs : Jobs
    layers : Layers

    Attributes
    ----------
    told : Signal()
        The worker has answered.
    values : dict, optional
        The last plan, as `describe_plan` gives it.
    """

    told = Signal()

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        super().__init__()
        self.state, self.jobs, self.layers = state, jobs, layers
        self.values: dict[str, Any] | None = None
        self._wanted: tuple[PredictJob, Stamp | None] | None = None
        self._asked: tuple[PredictJob, Stamp | None] | None = None
        self._handle: JobHandle | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(AFTER_CHANGES)
        self._timer.timeout.connect(self._ask)
        self.setWordWrap(True)
        self.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.setMinimumHeight(2 * self.fontMetrics().lineSpacing() + 2)
        self.setToolTip(TIP)
        self.say("")

    def say(self, text: str, problem: bool = False) -> None:
        """Show a sentence, or nothing if it is empty."""
        name = "problem" if problem else "note"
        if self.objectName() != name:
            self.setObjectName(name)
            self.style().unpolish(self)
            self.style().polish(self)
        self.setText(text)

    def want(self, job: PredictJob | None, stamp: Stamp | None = None) -> None:
        """Ask for the plan of this prediction once nothing has changed for a moment; None: there is no prediction.

        `stamp` stands for anything else that the plan depends on, such as how often a mask was corrected.
        """
        wanted = None if job is None else (job, stamp)
        if wanted == self._wanted:
            return
        self._wanted = wanted
        self.stop()
        if wanted is None:
            self.values = None
            self.say("")
        elif wanted != self._asked:
            self._timer.start()

    def stop(self) -> None:
        """Stop asking, because another job goes first."""
        self._timer.stop()
        if self._handle is not None:
            self._handle.blockSignals(True)
            self._handle.cancel()
            self._handle = None
            self._asked = None
        if self.text() == PLANNING:
            self.say("")

    def again(self) -> None:
        """Ask again for a plan that was not answered; called when no other job goes first."""
        if self._wanted is not None and self._wanted != self._asked and self._handle is None:
            self._timer.start()

    def _ask(self) -> None:
        if self._wanted is None or self.layers.closed or self._handle is not None or self._blocked:
            return
        asked = self._asked = self._wanted
        if not self.text():
            self.say(PLANNING)
        job = PlanJob(prediction=asked[0])
        self._handle = handle = self.jobs.submit(job, before=lambda: _flush(asked[0]))
        handle.result.connect(self._answered)
        handle.finished.connect(self._ended)

    @property
    def _blocked(self) -> bool:
        return resolve.blocked_by(self.state, "predict") is not None

    def _failed(self, error: BaseException) -> None:
        self.values = None
        self.say(str(error), problem=True)
        self.told.emit()

    def _answered(self, event: Result) -> None:
        self.values = event.values
        self.say(plan_words(event.values))
        self.setToolTip(f"{TIP} {work_words(event.values)}")

    def _ended(self, outcome: str, text: str | None) -> None:
        self._handle = None
        if outcome == "error":
            self._failed(MsunetError(text or "The plan could not be made."))
        elif outcome != "done":
            self._asked = None
            self.say("")
        self.told.emit()

    def closing(self) -> None:
        """Stop listening."""
        self.stop()


def _flush(job: PredictJob) -> None:
    """Write the strokes on the labels of `where` into their chunks, which the worker reads."""
    if isinstance(job.where, InClasses):
        open_labels(job.where.labels).flush()


def stamp_of(job: PredictJob) -> Stamp | None:
    """A value that changes with the labels of `where`."""
    if not isinstance(job.where, InClasses):
        return None
    return tuple(sorted((p.name, p.stat().st_size) for p in (job.where.labels / "journal").glob("*")))


def plan_words(values: dict[str, Any]) -> str:
    """A plan in one line."""
    tiles = int(values["tiles"])
    if not tiles:
        return "Nothing to predict: there is no such place on this slide."
    count = "1 tile" if tiles == 1 else f"{tiles:,} tiles".replace(",", "\N{THIN SPACE}")
    memory = f"about {values['memory_gb']:.1f} GB, " if values.get("memory_gb") else ""
    time = f"about {duration(values['seconds'])}" if values["seconds"] >= 1 else "under 1 s"
    return f"{count}, {memory}{time}."


def work_words(values: dict[str, Any]) -> str:
    """The work of a plan, for people who know networks."""
    work = values["network_pixels"] / max(1, int(values["useful_pixels"]))
    return (
        f"{work:.2f} pixels go through the network for each that is kept: margins and every scale count, so that with "
        "scales 1, 1/2 and 1/4 the least is 1.31."
    )
