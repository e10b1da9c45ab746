"""What a process of ours decides about itself as a whole, which a library must not: memory, threads, its end."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from napari_msunet.events import Interrupted

# ----------------------------------------------------------------------------------------------------------------------
# Memory that is given back and asked for again after each layer: on the CPU, half of a network's time.

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8  # names of glibc's malloc.h

SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": str(2**27),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_ARENA_MAX": "1",
}
"""What makes glibc keep freed memory: blocks up to 128 MiB are kept, and up to 8 GiB of them, in one place for all
threads: the places that other threads than the first would get keep no block over 64 MiB."""

HINT = (
    "On Linux a network on the CPU is up to twice as fast when freed memory is kept. The command does that by itself; "
    f"start Python with {' '.join(f'{name}={value}' for name, value in SETTINGS.items())}."
)


def applies() -> bool:
    """Whether this is glibc, whose allocator gives large blocks back to the system."""
    return platform.libc_ver()[0] == "glibc"


def chosen_by_user() -> bool:
    """Whether the environment sets the allocator already."""
    return any(name in os.environ for name in SETTINGS) or "LD_PRELOAD" in os.environ


def allocator_settings() -> dict[str, str]:
    """What a process of ours is to find in its environment; empty where nothing applies or the user has chosen."""
    return {} if not applies() or chosen_by_user() else dict(SETTINGS)


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees; whether that was done.

    For processes of our own only: it is a choice about a whole process, which a library must not make.
    """
    if not applies() or chosen_by_user():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    threshold = int(SETTINGS["MALLOC_MMAP_THRESHOLD_"])
    return all([mallopt(_MMAP_THRESHOLD, threshold), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_ARENA_MAX, 1)])


TRIMMED, TRIMMED_BEFORE_NEW = 0.88, 0.63
"""Share of what a process may have that it may reach before freed memory is given back: before work of a size that was
there before, and before work of a new size, whose blocks may not fit into what others left."""


class Ceiling:
    """Gives freed memory back to the system where it piles up.

    Blocks of many sizes leave holes, which an allocator that keeps freed memory never returns: without this, a long
    prediction takes twice what it has in use.

    Parameters
    ----------
    nbytes : float
        Bytes beyond `bare` that the process may have; 0: any number.
    bare : int, optional
        What the process had (see `resident`) before anything that counts; None: what it has now.
    """

    def __init__(self, nbytes: float, bare: int | None = None) -> None:
        self._trim = ctypes.CDLL(None).malloc_trim if nbytes and applies() else None
        if self._trim is not None:
            self._trim(0)
            self._bare = resident() if bare is None else bare
            self._nbytes = nbytes
        self._met: set[Hashable] = set()

    def make_room(self, size: Hashable) -> None:
        """Give freed memory back if work of some size might not find room in it."""
        share = TRIMMED if size in self._met else TRIMMED_BEFORE_NEW
        if self._trim is not None and resident() > self._bare + share * self._nbytes:
            self._trim(0)
            self._met.clear()
        self._met.add(size)


def resident() -> int:
    """Bytes of memory that this process has; 0 where the system does not say it quickly."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


# ----------------------------------------------------------------------------------------------------------------------
# How the threads of a process of ours wait, and how it ends.

PATIENCE = {"GOMP_SPINCOUNT": "10000"}
"""How often a thread of PyTorch (GNU OpenMP, Linux) looks for work before it sleeps: a fraction of a millisecond.

By itself it looks for several milliseconds, after each layer. On an idle machine the same; where something else needs a
core, as a window that draws does, the thread that has work shares its core with one that waits for it.
"""


def environment() -> dict[str, str]:
    """What a process of ours is to find in its environment; nothing that the user has chosen."""
    return allocator_settings() | _patience()


def settle() -> None:
    """The same for this process, as far as it can be had after its start; call it before PyTorch is imported."""
    keep_freed_memory()
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
