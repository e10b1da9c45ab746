"""Settings of a whole process (memory, threads, its end), for our own processes only: a library must not make them."""

from __future__ import annotations

import atexit
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
from typing import NoReturn

# ----------------------------------------------------------------------------------------------------------------------
# Keeping freed memory. Giving it back and requesting it again after each layer takes half of a network's time on CPUs.

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8  # names of glibc's malloc.h

SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": str(2**27),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_ARENA_MAX": "1",
}
"""Settings with which glibc keeps freed memory: blocks of up to 128 MiB, up to 8 GiB in all, in one arena for all
threads, because the arenas of other threads than the first keep no block over 64 MiB."""

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
    """The environment of a process of ours; empty on other allocators, and where the user has made settings."""
    return {} if not applies() or chosen_by_user() else dict(SETTINGS)


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, and return whether that was possible.

    Only for our own processes: this affects a whole process, which a library must not do.
    """
    if not applies() or chosen_by_user():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    threshold = int(SETTINGS["MALLOC_MMAP_THRESHOLD_"])
    return all([mallopt(_MMAP_THRESHOLD, threshold), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_ARENA_MAX, 1)])


TRIMMED, TRIMMED_BEFORE_NEW = 0.88, 0.63
"""Share of the allowed memory above which freed memory is given back: before work of a known size, and before work of
a new size, whose blocks may not fit into the freed ones."""


class Ceiling:
    """Gives freed memory back to the system before it grows too large.

    Blocks of many sizes leave holes, which an allocator that keeps freed memory never returns. Without this, a long
    prediction takes twice the memory that it uses.

    Parameters
    ----------
    nbytes : float
        Bytes beyond `bare` that the process may have; 0: any number.
    bare : int, optional
        The bytes that the process had (see `resident`) before the work; None: those that it has now.
    """

    def __init__(self, nbytes: float, bare: int | None = None) -> None:
        self._trim = ctypes.CDLL(None).malloc_trim if nbytes and applies() else None
        if self._trim is not None:
            self._trim(0)
            self._bare = resident() if bare is None else bare
            self._nbytes = nbytes
        self._met: set[Hashable] = set()

    def make_room(self, size: Hashable) -> None:
        """Give freed memory back if work of this size might not fit into it."""
        share = TRIMMED if size in self._met else TRIMMED_BEFORE_NEW
        if self._trim is not None and resident() > self._bare + share * self._nbytes:
            self._trim(0)
            self._met.clear()
        self._met.add(size)


def resident() -> int:
    """Bytes of memory that this process has; 0 where the system has no quick way to find out."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


# ----------------------------------------------------------------------------------------------------------------------
# How the threads of a process of ours wait, and how it ends.

PATIENCE = {"GOMP_SPINCOUNT": "10000"}
"""How often a thread of PyTorch (GNU OpenMP, Linux) checks for work before it sleeps: for a fraction of a millisecond.

By default it checks for several milliseconds after each layer. On an idle machine this makes no difference. Where
another program needs a core, such as a window that draws, a thread with work would share its core with a waiting one.
"""


def environment() -> dict[str, str]:
    """The environment of a process of ours, without variables that the user has set."""
    return allocator_settings() | _patience()


def settle() -> None:
    """Apply these settings to this process, as far as is possible after its start, before PyTorch is imported."""
    keep_freed_memory()
    os.environ.update(_patience())


def _patience() -> dict[str, str]:
    chosen = any(name in os.environ for name in (*PATIENCE, "OMP_WAIT_POLICY"))
    return {} if chosen else dict(PATIENCE)


class Interrupted(BaseException):
    """Ctrl-C, or the system, asked this process to end.

    Attributes
    ----------
    number : int
        Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


GRACE = 1.2
"""Seconds after a signal that the work under way has to put its files in order."""


class Ending:
    """Handles Ctrl-C and SIGTERM, so that a process of ours ends within two seconds, whatever it is doing.

    The signal is raised as `Interrupted` in the main thread, so that everything is closed and half-written files are
    removed, as after an error. Where this takes too long (a library's slow code, a thread that is waited for), a thread
    ends the process. That is safe, because files under their final names are whole at any time.

    Attributes
    ----------
    left : callable
        Gives a sentence about what the work under way leaves when it is stopped.
    told : bool
        Whether this sentence was printed already.
    """

    def __init__(self) -> None:
        self.left: Callable[[], str] = lambda: ""
        self.told = False
        self._number = 0

    def begin(self) -> None:
        """Handle the signals from now on; to be called in the main thread, before anything large is imported."""
        heard, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._raise)
        threading.Thread(target=self._watch, args=(heard,), name="end", daemon=True).start()

    def code(self, error: BaseException) -> int | None:
        """The exit code where this error comes from a signal; None where it does not.

        Code that is interrupted by a signal may turn `Interrupted` into another error, as Python itself does while it
        makes a class.
        """
        if isinstance(error, KeyboardInterrupt):
            return 128 + signal.SIGINT
        return 128 + self._number if self._number else None

    def say(self) -> None:
        """Print once that the work was stopped, and what it leaves."""
        if not self.told:
            self.told = True
            with suppress(Exception):  # no error may keep the process from ending
                print(f"Stopped. {self.left()}".rstrip(), file=sys.stderr, flush=True)  # noqa: T201

    def leave(self, code: int) -> NoReturn:
        """End the process, after everything is closed and said.

        Python's own ending stops threads where they are; one inside a library's C++ code, such as one that imports
        torch, then aborts the process.
        """
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(code)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if not self._number:  # only the first signal, since another one would interrupt the closing
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
"""The one handler of this process."""


def end_children() -> None:
    """End the processes that this one has started, and those that they have started."""
    if Path("/proc/self/stat").exists():  # on Linux from /proc, because importing psutil would take too long here
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
