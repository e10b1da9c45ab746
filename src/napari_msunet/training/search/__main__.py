"""A process that takes trials of a search; `workers` starts it."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import IO, Any

from napari_msunet.config import TuneJob
from napari_msunet.errors import failure
from napari_msunet.events import Cancelled, Stop, stoppable
from napari_msunet.own_process import settle
from napari_msunet.training.search.search import worker_events


def main(stdin: IO[bytes]) -> int:
    """Take trials of the job in the first line of the input, until there are none or the input ends."""
    asked: dict[str, Any] = json.loads(stdin.readline())
    stop = Stop()

    def listen() -> None:
        # not through the buffer, whose lock would be held when this process ends before its input does
        while os.read(stdin.fileno(), 64):
            pass
        stop.ask()

    threading.Thread(target=listen, name="end of input", daemon=True).start()
    job = TuneJob.model_validate(asked["job"])
    try:
        with stoppable(stop):
            for _ in worker_events(job, asked["number"]):
                pass
    except Cancelled:
        return 0
    except Exception as error:
        sentence, details = failure(error)
        sys.stderr.write(f"{details or ''}\n{sentence}\n")
        return 1
    return 0


if __name__ == "__main__":
    settle()
    sys.exit(main(sys.stdin.buffer))
