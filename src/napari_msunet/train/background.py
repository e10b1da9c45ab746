"""Run something that blocks in a thread, and give what it says as an iterator that can be closed at any time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from napari_msunet.events import Event

Say = Callable[[Event], None]


class Cancelled(Exception):  # noqa: N818 (it is no error)
    """The iterator of events was closed."""


class Stop:
    """Asks the thread to stop.

    Attributes
    ----------
    asked : bool
        Whether somebody did.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def asked(self) -> bool:
        return self._event.is_set()

    def ask(self) -> None:
        """Ask it."""
        self._event.set()

    def check(self) -> None:
        """Raise `Cancelled` when it was asked."""
        if self.asked:
            raise Cancelled


def in_background(work: Callable[[Say, Stop], None]) -> Iterator[Event]:
    """The events that `work` says, as they come.

    Closing the iterator, or an interrupt while it waits, asks the work to stop and waits until it has; an exception of
    the work is raised here.

    Parameters
    ----------
    work : callable
        Takes a function to call with each event, and a `Stop` to look at often.
    """
    events: queue.Queue[Event | BaseException | None] = queue.Queue()
    stop = Stop()

    def body() -> None:
        try:
            work(events.put, stop)
        except Cancelled:
            pass
        except BaseException as error:  # it travels to the caller
            events.put(error)
        finally:
            events.put(None)

    thread = threading.Thread(target=body, name="msunet-training", daemon=True)
    thread.start()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        stop.ask()
        thread.join()
