"""Other processes of this machine that take trials of the same search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from napari_msunet._io import make_folder
from napari_msunet.config import TuneJob
from napari_msunet.own_process import environment

_ENDING_SECONDS = 20.0


class SearchWorker:
    """A process that takes trials until there are no more, or its standard input is closed.

    Parameters
    ----------
    job : TuneJob
    number : int
        Its number, from 1.
    """

    def __init__(self, job: TuneJob, number: int) -> None:
        self.number = number
        self.log = job.out / "workers" / f"{number}.log"
        make_folder(self.log.parent)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __package__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, **environment()},
                start_new_session=True,  # Ctrl-C is for the process that started it, which closes its input
            )
        asked = {"job": job.model_dump(mode="json"), "number": number}
        assert self._process.stdin is not None  # for the type checker
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def problem(self) -> str | None:
        """Why it ended before its time; None where it did not."""
        if self.running or self._process.returncode == 0:
            return None
        lines = self.log.read_text(encoding="utf8", errors="replace").strip().splitlines()
        reason = lines[-1].strip() if lines else f"exit code {self._process.returncode}"
        return f"Worker {self.number} ended early ({reason.rstrip('.')}); the others go on."

    def end(self) -> None:
        """Ask it to stop, and wait until it has."""
        stdin = self._process.stdin
        if stdin is not None and not stdin.closed:
            with suppress(OSError):  # it has ended already
                stdin.close()
        try:
            self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def working(job: TuneJob, count: int) -> Iterator[Sequence[SearchWorker]]:
    """A context in which so many other processes take trials of a job."""
    workers: list[SearchWorker] = []
    try:
        for number in range(1, count + 1):
            workers.append(SearchWorker(job, number))
        yield workers
    finally:
        for worker in workers:
            worker.end()
