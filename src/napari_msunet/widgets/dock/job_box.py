"""The box of a running job: its progress, its time left, its messages, and a button that stops it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QMenu, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_msunet.config import with_damaged
from napari_msunet.errors import MsunetError
from napari_msunet.events import Keep, Progress
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.show_errors import notify_error, show_errors
from napari_msunet.wording import WITHOUT_DAMAGED, duration, in_labels

if TYPE_CHECKING:
    from napari_msunet.config import Job
    from napari_msunet.widgets.jobs import JobHandle, Jobs
    from napari_msunet.widgets.state import State, StepName

    Found = TypeVar("Found")


class Choice(NamedTuple):
    """A way to stop: its text in the menu, its tooltip, and what is kept ("best", "last", "none")."""

    text: str
    tip: str
    keep: Keep


class JobBox(QWidget):
    """Shows one job at a time; hidden while there is none to show.

    Parameters
    ----------
    state : State
    jobs : Jobs
    step : str
        The step whose jobs it runs, one at a time.
    choices : sequence of Choice
        Ways to stop, offered as a menu; where there is none or only one, the button stops at once.

    Attributes
    ----------
    happened : Signal(Event)
        An event of the job, on the GUI thread.
    ended : Signal(str, object)
        The outcome ("done", "cancelled", "error", "lost") and the job's `Result`, if it had one.
    changed : Signal()
        The bar shows other words.
    """

    happened = Signal(object)
    ended = Signal(str, object)
    changed = Signal()

    def __init__(self, state: State, jobs: Jobs, step: StepName, choices: Sequence[Choice] = ()) -> None:
        super().__init__()
        self.state, self.jobs, self.step = state, jobs, step
        self.handle: JobHandle | None = None
        self.kept: Keep = "best"
        self._last: Job | None = None
        self._again: Callable[[], None] = lambda: None
        self.bar = QProgressBar()
        self.bar.setTextVisible(True)
        self.bar.setMinimumHeight(22)
        self.stop = QPushButton("Stop")
        self.stop.setToolTip("Stops within a moment.")
        self.status = QLabel()
        self.status.setObjectName("note")
        self.status.setWordWrap(True)
        self.without = QPushButton(WITHOUT_DAMAGED)
        self.without.setToolTip("Runs the same job again without the damaged parts; a message names them.")
        self.without.clicked.connect(lambda: self._again())
        self.without.hide()
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.bar, 1)
        row.addWidget(self.stop)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(row)
        column.addWidget(self.status)
        column.addWidget(self.without)
        self.menu = QMenu(self)
        self.menu.setToolTipsVisible(True)
        for choice in choices:
            action = self.menu.addAction(choice.text)
            action.setToolTip(choice.tip)
            action.triggered.connect(lambda _=False, keep=choice.keep: self.cancel(keep))
        if choices:
            self.stop.setMenu(self.menu)
        else:
            self.stop.clicked.connect(lambda: self.cancel())
        self.hide()

    @property
    def running(self) -> bool:
        """Whether the job of this box runs."""
        return self.handle is not None

    @property
    def job(self) -> Any:
        """The job that the box shows, or showed last."""
        return self.handle.job if self.handle is not None else self._last

    def start(
        self,
        job: Job,
        text: str,
        before: Callable[[], Found] | None = None,
        ready: Callable[[Found], Job | None] | None = None,
    ) -> JobHandle:
        """Send a job to the worker, and follow it.

        Parameters
        ----------
        job : a job
        text : str
            The text to show until the job itself gives a message.
        before, ready : callable, optional
            As for `Jobs.submit`.

        Raises
        ------
        MsunetError
            While a job runs that this one must wait for.
        """
        state = self.state
        if (other := resolve.blocked_by(state, self.step)) is not None:
            raise MsunetError(f"{other.capitalize()} is under way: wait until it has ended, or cancel it first.")
        self.kept = "best"
        self.without.hide()
        self._again = show_errors(lambda: self.start(with_damaged(job, "skip"), text, before, ready))
        self.bar.setRange(0, 0)
        self.bar.setFormat("")
        self.bar.show()
        self.stop.show()
        self.stop.setEnabled(True)
        self.handle = handle = self.jobs.submit(job, before=before, ready=ready)
        handle.progress.connect(self._progress)
        handle.message.connect(lambda event: self.say(in_labels(event.text)))
        handle.happened.connect(self.happened)
        handle.finished.connect(self._finish)
        self.say(text)
        state.set_running(self.step, True)
        return handle

    def cancel(self, keep: Keep = "best") -> None:
        """Stop the job; `keep` ("best", "last", "none") says what a training leaves."""
        if self.handle is None:
            return
        self.kept = keep
        self.stop.setEnabled(False)
        self.say("Stopping…")
        self.handle.cancel(keep)

    def say(self, text: str) -> None:
        """Show a sentence below the bar."""
        self.status.setText(text)
        self.status.setVisible(bool(text))
        self.setVisible(bool(text) or self.running)

    def _progress(self, event: Progress) -> None:
        """Show how far the job is, and how long it will take."""
        # A progress bar repaints at once whenever its value is set, and the window waits until it is drawn (20 ms
        # beside a canvas). So updates are switched off here, and the bar is drawn with the next frame.
        self.bar.setUpdatesEnabled(False)
        if event.total:
            self.bar.setRange(0, 1000)
            self.bar.setValue(round(1000 * event.done / event.total))
        else:
            self.bar.setRange(0, 0)
        total = f" of {event.total:g}" if event.total else ""
        left = f" · {duration(event.seconds_left)} left" if event.seconds_left is not None else ""
        self.bar.setFormat(f"{event.done:g}{total} {event.unit}{left}")
        self.bar.setUpdatesEnabled(True)
        self.changed.emit()

    def _finish(self, outcome: str, text: str | None) -> None:
        """Show that the job has ended, and how."""
        handle = self.handle
        if handle is None:  # the dock has closed
            return
        self.handle, self._last = None, handle.job
        self.bar.hide()
        self.stop.hide()
        if outcome in ("error", "lost"):
            text = text or "The worker process ended unexpectedly; what was finished is kept."
            notify_error(text, handle.details)
        self.without.setVisible(outcome == "error" and 'damaged="skip"' in (text or ""))
        self.say({"done": "", "cancelled": text or "Stopped."}.get(outcome, in_labels(text or "")))
        self.ended.emit(outcome, handle.value)
        self.state.set_running(self.step, False)

    def closing(self) -> None:
        """Stop following the job."""
        self.handle = None
