"""Run something that blocks in a thread, and give what it says as an iterator that can be closed at any time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from napari_msunet.events import Event
from napari_msunet.stopping import Stop, current

Say = Callable[[Event], None]


def in_background(work: Callable[[Say, Stop], None]) -> Iterator[Event]:
    """The events that `work` says, as they come.

    Closing the iterator, or an interrupt while it waits, asks the work to stop and waits until it has; an exception of
    the work is raised here, `Cancelled` among them.

    Parameters
    ----------
    work : callable
        Takes a function to call with each event, and a `Stop` to look at often.
    """
    events: queue.Queue[Event | BaseException | None] = queue.Queue()
    stop = Stop(outer=current())

    def body() -> None:
        try:
            work(events.put, stop)
        except BaseException as error:  # it travels to the caller; after closing nobody listens
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
