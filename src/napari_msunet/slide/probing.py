"""Opening files first in a small separate process, whose crash does no harm.

A library that decodes a damaged file may crash its process. Before a window opens a file, this process opens it and
reads a little of each level. If that crashes it, the window refuses the file with a sentence. The process is started
ahead of time (`start`), answers within milliseconds, and ends with the process that started it, or when it is not used
for a while.
"""

from __future__ import annotations

import atexit
import json
import queue
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from napari_msunet.errors import SlideError

SECONDS = 2.0
"""Longest wait for an answer; without one, the file is opened without this check."""

IDLE_SECONDS = 300.0
TILE = 64
OVERVIEW = 2_000_000
"""Largest level, in pixels, that is read whole."""


class Probe:
    """The process and its requests. It serves one thread at a time; other threads wait."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self._number = 0
        self._warm = False

    def start(self) -> None:
        """Start the process, unless it runs; returns at once."""
        if self._process is not None and self._process.poll() is None:
            return
        self.end()
        words = [sys.executable, "-P", "-m", "napari_msunet.slide.probing"]
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        except OSError:  # no more processes can be started; the file is opened without this check
            self._process = None
            return
        self._answers, self._warm = queue.SimpleQueue(), False
        threading.Thread(
            target=_pass_on, args=(self._process.stdout, self._answers), name="slide probe", daemon=True
        ).start()

    def ask(self, path: Path, seconds: float = SECONDS) -> None:
        """Open a file in the process.

        Raises
        ------
        SlideError
            If this crashed the process.
        """
        with self._mutex:
            self.start()
            process = self._process
            if process is None or process.stdin is None:
                return
            try:
                self._number += 1
                process.stdin.write(json.dumps([self._number, str(path.absolute())]).encode() + b"\n")
                process.stdin.flush()
                until = time.monotonic() + seconds
                while answer := self._answers.get(timeout=max(0.0, until - time.monotonic())):
                    self._warm = True
                    if int(answer) == self._number:
                        return
            except (OSError, ValueError, queue.Empty):
                if self._warm:  # otherwise it is still starting, and will be ready the next time
                    self.end()
                return
            code = process.wait()
            self.end()
            if code:
                raise SlideError(
                    f"{path} makes the library that reads it end its process (code {code}): the file is damaged in a "
                    "way that cannot be read safely; copy it from its source again, or convert it to OME-Zarr."
                )

    def end(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(OSError):
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


PROBE = Probe()
"""The one probe of this process."""

atexit.register(PROBE.end)


def _pass_on(answers: IO[bytes], found: queue.SimpleQueue[bytes]) -> None:
    """Pass answers on as they come, and an empty one at the end."""
    with suppress(OSError, ValueError):
        for line in answers:
            found.put(line)
    found.put(b"")


def look(path: Path) -> None:
    """Open a file, and read a tile of each level, and the coarsest level whole where it is small."""
    from napari_msunet.slide.slide import open_slide

    with open_slide(path) as slide:
        for level in slide.levels:
            height, width = level.shape[:2]
            y, x = max(0, height - TILE) // 2, max(0, width - TILE) // 2
            np.asarray(level[y : y + TILE, x : x + TILE])
        if height * width <= OVERVIEW:
            np.asarray(level)


def main() -> None:
    """Answer requests, one per line, until there are no more."""
    from napari_msunet.slide import slide

    del slide  # imported so that it is loaded before the first request comes
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_pass_on, args=(sys.stdin.buffer, lines), daemon=True).start()
    while True:
        try:
            line: Any = lines.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            return
        if not line:
            return
        number, path = json.loads(line)
        with suppress(Exception):  # an error, unlike a crash, is reported by the process that opens the file
            look(Path(path))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
