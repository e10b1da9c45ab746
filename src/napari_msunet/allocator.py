"""Memory that is given back and asked for again after each layer: on the CPU, half of a network's time."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Hashable

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


def environment() -> dict[str, str]:
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
