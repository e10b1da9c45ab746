"""Work beside the GUI thread, in order, its results back on it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from qtpy.QtCore import QObject, Qt, Signal

from napari_msunet.widgets.dock.show_errors import notify_error

if TYPE_CHECKING:
    Found = TypeVar("Found")
    Done: TypeAlias = Callable[[Found], object]
    Failed: TypeAlias = Callable[[BaseException], object]


class Background(QObject):
    """Runs functions one after the other in a thread of its own; what follows runs on the GUI thread.

    Parameters
    ----------
    name : str
        Of the thread.
    parent : QObject, optional
    """

    _finished = Signal(object, object)

    def __init__(self, name: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._name = name
        self._pool: ThreadPoolExecutor | None = None
        self._open = 0
        self._closed = False
        # queued, so that nothing follows before `run` has returned, however quick the work was
        self._finished.connect(self._deliver, Qt.ConnectionType.QueuedConnection)

    @property
    def busy(self) -> bool:
        """Whether something is still to be done."""
        return self._open > 0

    def run(self, work: Callable[[], Found], done: Done[Found] | None = None, failed: Failed | None = None) -> None:
        """Run `work`, then `done` with what it returned, or `failed` with its exception (None: tell the user)."""
        if self._closed:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        self._open += 1
        self._pool.submit(work).add_done_callback(partial(self._send, done, failed))

    def _send(self, done: Done[Found] | None, failed: Failed | None, future: Future[Found]) -> None:
        """In the thread: hand the result over."""
        if not self._closed:
            self._finished.emit((done, failed), future)

    def _deliver(self, following: tuple[Done[Found] | None, Failed | None], future: Future[Found]) -> None:
        """On the GUI thread."""
        self._open -= 1
        if self._closed or future.cancelled():
            return
        done, failed = following
        error = future.exception()
        if error is None:
            if done is not None:
                done(future.result())
        elif failed is not None:
            failed(error)
        else:
            notify_error(str(error), "".join(traceback.format_exception(error)))

    def close(self) -> None:
        """Let what runs come to its end and forget what waits."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
