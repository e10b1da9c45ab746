"""What a person tells a running job from another thread: to stop, and where they are looking."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Keep = Literal["best", "last", "none"]
"""What a stopped training leaves: its best model, the weights it had reached, or nothing."""

View = tuple[float, float, float, float]
"""`y, x, height, width` in level-0 pixels of the slide."""


class Cancelled(Exception):  # noqa: N818 (it is no error)
    """Somebody asked the job to stop."""


class Interrupted(BaseException):
    """Ctrl-C, or the system, asked this process to end.

    Attributes
    ----------
    number : int
        Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Stop:
    """Asks a job to stop, and tells it where somebody looks; any thread may.

    Parameters
    ----------
    outer : Stop, optional
        Of the job that this one is a part of: what is asked of it is asked of this one too.
    """

    def __init__(self, outer: Stop | None = None) -> None:
        self._event = threading.Event()
        self._outer = outer
        self._keep: Keep = "best"
        self._view: View | None = None

    @property
    def view(self) -> View | None:
        """What is on somebody's screen: a prediction computes it first. None: nothing was said."""
        return self._view or (self._outer.view if self._outer is not None else None)

    def look(self, view: View | None) -> None:
        """Tell where somebody looks now."""
        self._view = view

    @property
    def asked(self) -> bool:
        """Whether somebody did."""
        return self._event.is_set() or (self._outer is not None and self._outer.asked)

    @property
    def keep(self) -> Keep:
        """What a stopped training leaves."""
        return self._outer.keep if self._outer is not None and self._outer.asked else self._keep

    def ask(self, keep: Keep = "best") -> None:
        """Ask it; the first one who asks decides what is kept."""
        if not self._event.is_set():
            self._keep = keep
        self._event.set()

    def check(self) -> None:
        """Raise `Cancelled` when it was asked."""
        if self.asked:
            raise Cancelled


_current: ContextVar[Stop | None] = ContextVar("napari_msunet_stop", default=None)


@contextmanager
def stoppable(stop: Stop) -> Iterator[None]:
    """Let `stop` end the job that this thread runs inside the block."""
    token = _current.set(stop)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Stop:
    """The `Stop` of the job that this thread runs; a new one where nobody can ask."""
    return _current.get() or Stop()


def check() -> None:
    """Raise `Cancelled` when the job that this thread runs was asked to stop: called often by what takes long."""
    current().check()
