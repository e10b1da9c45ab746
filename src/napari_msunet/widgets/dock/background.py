"""Work in a thread, in order, with its results given back on the GUI thread."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from qtpy.QtCore import QObject, Qt, Signal

from napari_msunet.errors import MsunetError
from napari_msunet.widgets.dock.show_errors import notify_error

if TYPE_CHECKING:
    Found = TypeVar("Found")
    Done: TypeAlias = Callable[[Found], object]
    Failed: TypeAlias = Callable[[BaseException], object]


class Background(QObject):
    """Runs functions one after the other in a thread of its own, and their continuations on the GUI thread.

    Parameters
    ----------
    name : str
        Name of the thread.
    parent : QObject, optional
    """

    _finished = Signal(object, object)

    def __init__(self, name: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._name = name
        self._pool: ThreadPoolExecutor | None = None
        self._open = 0
        self._closed = False
        # queued, so that a continuation never runs before `run` has returned, however quick the work was
        self._finished.connect(self._deliver, Qt.ConnectionType.QueuedConnection)

    @property
    def busy(self) -> bool:
        """Whether work is left to do."""
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
        """Hand the result over to the GUI thread; called in the worker thread."""
        if not self._closed:
            self._finished.emit((done, failed), future)

    def _deliver(self, following: tuple[Done[Found] | None, Failed | None], future: Future[Found]) -> None:
        """Run the continuation of a result; called on the GUI thread."""
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
            expected = isinstance(error, MsunetError)
            notify_error(str(error), None if expected else "".join(traceback.format_exception(error)))

    def close(self) -> None:
        """Let the running function end, and drop those that wait."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
