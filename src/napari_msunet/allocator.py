"""Memory that is given back and asked for again after each layer: on the CPU, half of a network's time."""

from __future__ import annotations

import ctypes
import os
import platform

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # names of glibc's malloc.h
_SETTINGS = "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"

HINT = (
    "On Linux a network on the CPU is up to twice as fast when freed memory is kept. The command does that by itself; "
    "start Python with MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=8589934592."
)


def applies() -> bool:
    """Whether this is glibc, whose allocator gives large blocks back to the system."""
    return platform.libc_ver()[0] == "glibc"


def chosen_by_user() -> bool:
    """Whether the environment sets the allocator already."""
    return any(name in os.environ for name in _SETTINGS) or "LD_PRELOAD" in os.environ


def environment() -> dict[str, str]:
    """What a process of ours is to find in its environment; empty where nothing applies or the user has chosen."""
    return {} if not applies() or chosen_by_user() else dict(zip(_SETTINGS, map(str, (2**30, 2**33)), strict=True))


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees; whether that was done.

    For processes of our own only: it is a choice about a whole process, which a library must not make.
    """
    if not applies() or chosen_by_user():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
