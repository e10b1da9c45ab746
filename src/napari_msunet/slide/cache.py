"""Decoded chunks of all open slides, kept in memory up to a number of bytes; the least recently used go first."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

from napari_msunet.slide.backend import Pixels

CACHE_BYTES = 128 << 20


class ChunkCache:
    """A thread-safe cache of arrays; a chunk asked for by several threads at once is decoded once.

    Parameters
    ----------
    limit : int
        Bytes kept. A single array larger than this is kept alone until another comes.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._chunks: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._under_way: dict[Hashable, threading.Event] = {}
        self._gone: deque[int] = deque()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def get(self, key: Hashable, make: Callable[[], Pixels]) -> Pixels:
        """The array of `key`, made by `make()` where it is not held; it is read-only."""
        while True:
            with self._lock:
                if key in self._chunks:
                    self._chunks.move_to_end(key)
                    return self._chunks[key]
                other = self._under_way.get(key)
                if other is None:
                    self._under_way[key] = threading.Event()
                    break
            other.wait()
        try:
            chunk = make()
            chunk.setflags(write=False)
            self._keep(key, chunk)
            return chunk
        finally:
            with self._lock:
                self._under_way.pop(key).set()

    def _keep(self, key: Hashable, chunk: Pixels) -> None:
        self.purge()
        with self._lock:
            self._chunks[key] = chunk
            self._bytes += chunk.nbytes
            while self._bytes > self.limit and len(self._chunks) > 1:
                _, old = self._chunks.popitem(last=False)
                self._bytes -= old.nbytes

    def forget(self, slide: int) -> None:
        """Let the chunks of a slide go at the next occasion.

        This takes no lock: the garbage collector may call it while this very thread holds one.
        """
        self._gone.append(slide)

    def purge(self) -> None:
        """Drop the chunks of slides that are gone (their keys begin with the slide's number)."""
        with self._lock:
            gone = set()
            while self._gone:
                gone.add(self._gone.popleft())
            if gone:
                for key in [k for k in self._chunks if isinstance(k, tuple) and k[0] in gone]:
                    self._bytes -= self._chunks.pop(key).nbytes


CHUNKS = ChunkCache()
"""The cache that all slides of a process share."""
