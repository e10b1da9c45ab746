"""What a process of ours decides about itself as a whole, which a library must not: its memory, its waiting threads."""

from __future__ import annotations

import os

from napari_msunet import allocator

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
