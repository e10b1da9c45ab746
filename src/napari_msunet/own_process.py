"""What a process of ours decides about itself as a whole, which a library must not: memory, threads, its end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from napari_msunet import allocator
from napari_msunet.stopping import Interrupted

PATIENCE = {"GOMP_SPINCOUNT": "10000"}
"""How often a thread of PyTorch (GNU OpenMP, Linux) looks for work before it sleeps: a fraction of a millisecond.

By itself it looks for several milliseconds, after each layer. On an idle machine the same; where something else needs a
core, as a window that draws does, the thread that has work shares its core with one that waits for it.
"""


def environment() -> dict[str, str]:
    """What a process of ours is to find in its environment; nothing that the user has chosen."""
    return allocator.environment() | _patience()


def settle() -> None:
    """The same for this process, as far as it can be had after its start; call it before PyTorch is imported."""
    allocator.keep_freed_memory()
    os.environ.update(_patience())


def _patience() -> dict[str, str]:
    chosen = any(name in os.environ for name in (*PATIENCE, "OMP_WAIT_POLICY"))
    return {} if chosen else dict(PATIENCE)


GRACE = 1.2
"""Seconds from a signal on that the work under way has for putting its files in order."""


class Ending:
    """What Ctrl-C and SIGTERM do with a process of ours: it ends within two seconds, whatever it is doing.

    The signal is raised as `Interrupted` in the main thread, so that everything is closed and half-written files are
    taken away, as after an error. Where that does not come through in time (a library's code that takes long, a thread
    that is waited for) a thread ends the process: files under their own names are whole at any time.

    Attributes
    ----------
    left : callable
        What the work under way leaves behind when it is stopped, in a sentence.
    told : bool
        Whether that was said already.
    """

    def __init__(self) -> None:
        self.left: Callable[[], str] = lambda: ""
        self.told = False
        self._number = 0

    def begin(self) -> None:
        """Watch for the signals from now on; call it in the main thread, before anything large is imported."""
        heard, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._raise)
        threading.Thread(target=self._watch, args=(heard,), name="end", daemon=True).start()

    def code(self, error: BaseException) -> int | None:
        """Exit code where this error comes of a signal; None: of something else.

        Code that a signal breaks into may turn `Interrupted` into an error of its own, as Python itself does while a
        class is being made.
        """
        if isinstance(error, KeyboardInterrupt):
            return 128 + signal.SIGINT
        return 128 + self._number if self._number else None

    def say(self) -> None:
        """Say once that the work was stopped, and what it leaves."""
        if not self.told:
            self.told = True
            with suppress(Exception):  # nothing may keep the process from its end
                print(f"Stopped. {self.left()}".rstrip(), file=sys.stderr, flush=True)  # noqa: T201

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if not self._number:  # once is enough: another one would break into what is being closed
            self._number = number
            raise Interrupted(number)

    def _watch(self, heard: int) -> None:
        while (number := ord(os.read(heard, 1))) not in (signal.SIGINT, signal.SIGTERM):
            pass
        time.sleep(GRACE)
        self.say()
        with suppress(Exception):
            end_children()
        os._exit(128 + number)


ENDING = Ending()
"""That of this process."""


def end_children() -> None:
    """End the processes that this one has started, and theirs."""
    if Path("/proc/self/stat").exists():  # Linux, at once: importing psutil takes longer than there is time
        parents: dict[int, list[int]] = {}
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError, ValueError, IndexError):
                words = file.read_text().rpartition(")")[2].split()
                parents.setdefault(int(words[1]), []).append(int(file.parent.name))
        waiting = [os.getpid()]
        while waiting:
            children = parents.get(waiting.pop(), [])
            waiting += children
            for child in children:
                with suppress(OSError):
                    os.kill(child, signal.SIGKILL)
        return
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
