"""A job that runs in the worker: its progress, its time left, its messages, and a button that stops it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QMenu, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_msunet.config import with_damaged
from napari_msunet.errors import MsunetError
from napari_msunet.events import Message, Progress, Result
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.checks import duration
from napari_msunet.widgets.dock.telling import tell_error, told
from napari_msunet.wording import WITHOUT_DAMAGED, in_labels

if TYPE_CHECKING:
    from napari_msunet.widgets.dock.dock import MultiScaleUNet
    from napari_msunet.widgets.dock.state import StepName


class Choice(NamedTuple):
    """A way to stop: what the menu says, its tooltip, and what is kept ("best", "last", "none")."""

    text: str
    tip: str
    keep: str


class JobBox(QWidget):
    """Shows one job at a time; hidden while there is none to tell about.

    Parameters
    ----------
    dock : MultiScaleUNet
    step : str
        The step whose job it runs; only one job runs at a time in the dock.
    choices : sequence of Choice
        Ways to stop, offered as a menu; with none or one the button stops at once.

    Attributes
    ----------
    happened : Signal(Event)
        An event of the job, on the GUI thread.
    ended : Signal(str, object)
        The outcome ("done", "cancelled", "error", "lost") and the job's `Result`, if it had one.
    """

    happened = Signal(object)
    ended = Signal(str, object)

    def __init__(self, dock: MultiScaleUNet, step: StepName, choices: Sequence[Choice] = ()) -> None:
        super().__init__()
        self.dock, self.step = dock, step
        self.handle: Any = None
        self.job: Any = None
        self.kept = "best"
        self._result: Result | None = None
        self._again: Callable[[], None] = lambda: None
        self._connected = False
        self._wanted = False
        self._background = Background("msunet-before", self)
        self.bar = QProgressBar()
        self.bar.setTextVisible(True)
        self.bar.setMinimumHeight(22)
        self.stop = QPushButton("Cancel")
        self.stop.setToolTip("Stops within a moment.")
        self.status = QLabel()
        self.status.setObjectName("note")
        self.status.setWordWrap(True)
        self.without = QPushButton(WITHOUT_DAMAGED)
        self.without.setToolTip("The same once more; what is left out is said, and does not count.")
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
        """Whether its job is under way."""
        return self.dock.state.running == self.step and self.job is not None

    def start(
        self,
        job: Any,
        text: str,
        before: Callable[[], Any] | None = None,
        ready: Callable[[Any], None] | None = None,
    ) -> None:
        """Send a job to the worker.

        Parameters
        ----------
        job : a job
        text : str
            What to say until the job itself says something.
        before : callable, optional
            Runs first, in a thread: what takes too long for the window.
        ready : callable, optional
            Takes what `before` returned, on the GUI thread, just before the job is sent.

        Raises
        ------
        MsunetError
            While another job runs.
        """
        state = self.dock.state
        if state.running is not None:
            busy = self.dock.steps[state.running].title if state.running in self.dock.steps else "Something"
            raise MsunetError(f"{busy} is under way: wait until it has ended, or cancel it first.")
        self._connect()
        self.job, self._result, self.kept, self._wanted = job, None, "best", True
        self.without.hide()
        self._again = told(lambda: self.start(with_damaged(job, "skip"), text, before, ready))
        self.bar.setRange(0, 0)
        self.bar.setFormat("")
        self.bar.show()
        self.stop.show()
        self.stop.setEnabled(True)
        self.say(text)
        state.running = self.step
        state.emit("running")
        if before is None:
            self._submit(ready, None)
        else:
            self._background.run(before, lambda value: self._submit(ready, value), self._failed)

    def _connect(self) -> None:
        if not self._connected:
            self.dock.runner.happened.connect(self._event)
            self.dock.runner.ended.connect(self._ended)
            self._connected = True

    def _submit(self, ready: Callable[[Any], None] | None, value: Any) -> None:
        """What had to be done before is done: send the job."""
        if not self._wanted:
            self._finish("cancelled", None, None)
            return
        try:
            if ready is not None:
                ready(value)
        except MsunetError as error:
            self._failed(error)
            return
        self.handle = self.dock.runner.submit(self.job)

    def _failed(self, error: BaseException) -> None:
        details = "".join(traceback.format_exception(error))
        self._finish("error", str(error), None if isinstance(error, MsunetError) else details)

    def cancel(self, keep: str = "best") -> None:
        """Stop the job; `keep` ("best", "last", "none") says what a training leaves."""
        if not self.running:
            return
        self.kept, self._wanted = keep, False
        self.stop.setEnabled(False)
        self.say("Stopping…")
        if self.handle is not None:
            self.dock.runner.cancel(self.handle, keep)

    def say(self, text: str) -> None:
        """Show a sentence below the bar."""
        self.status.setText(text)
        self.status.setVisible(bool(text))
        self.setVisible(bool(text) or self.running)

    def _event(self, handle: Any, event: Any) -> None:
        if handle is not self.handle:
            return
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, Message):
            self.say(in_labels(event.text))
        elif isinstance(event, Result):
            self._result = event
        self.happened.emit(event)

    def _progress(self, event: Progress) -> None:
        """How far, and how long it will take."""
        # A progress bar repaints at once whenever its value is set, and the window waits for all of it to be drawn
        # (20 ms beside a canvas); so it is drawn with the next frame instead.
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

    def _ended(self, handle: Any, outcome: str, text: str | None) -> None:
        if handle is self.handle:
            self._finish(outcome, text, handle.details)

    def _finish(self, outcome: str, text: str | None, details: str | None) -> None:
        """It is over, one way or another."""
        self.handle = None
        self.bar.hide()
        self.stop.hide()
        self.dock.state.running = None
        if outcome in ("error", "lost"):
            text = text or "The worker process ended unexpectedly; what was finished is kept."
            tell_error(text, details)
        self.without.setVisible(outcome == "error" and 'damaged="skip"' in (text or ""))
        self.say({"done": "", "cancelled": text or "Cancelled."}.get(outcome, in_labels(text or "")))
        self.ended.emit(outcome, self._result)
        self.job = None
        self.dock.state.emit("running")

    def closing(self) -> None:
        """Listen no longer."""
        self._background.close()
        if self._connected:
            self.dock.runner.happened.disconnect(self._event)
            self.dock.runner.ended.disconnect(self._ended)
            self._connected = False
