"""A prediction on the workers of a Dask cluster: they fill one run, unit by unit, and the client finishes it.

What goes between the processes is JSON text: a task in, its outcome and events back. Dask itself sends our function by
name, in pickles of its own: its workers must be trusted, and the network between them too; see ``docs/cluster.md``.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from napari_msunet import stopping
from napari_msunet.config import PredictJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event, Message, Progress, RegionDone, event_of
from napari_msunet.geometry import Grid, Region
from napari_msunet.infer.cluster import worker
from napari_msunet.infer.cluster.workers import Workers, extra
from napari_msunet.infer.fill import unfinished
from napari_msunet.infer.kept import KEPT
from napari_msunet.infer.network import exact_arithmetic
from napari_msunet.infer.plan import CHUNK, UNIT, Plan
from napari_msunet.infer.prediction import close_run, merge, open_run, options_of, result_of
from napari_msunet.infer.setup import Setup, set_up
from napari_msunet.labels import Run
from napari_msunet.stopping import View

WAITING_SECONDS = 60.0
"""Between two messages that no worker has come yet."""

UNITS_EACH, SMALLEST_UNIT = 4, 1024
"""Units for each worker, where a slide is large enough; smaller ones would compute too many margins twice."""

AHEAD = 1
"""Tasks that wait at the scheduler for each worker; more would come too late when somebody looks elsewhere."""


def predict_on(job: PredictJob, workers: Workers) -> Iterator[Event]:
    """Run a prediction on workers: the plan is made here once, they compute its units, the rest is done here.

    Raises
    ------
    MsunetError
        What `predict_events` raises; and where a worker does not see the slide, a model or the label store, or has
        another version of napari-msunet.
    """
    models = [KEPT.model(path) for path in job.models]
    with KEPT.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
        with exact_arithmetic(workers.threads):  # the plan keeps the number of threads
            setup = set_up(slide, models, options_of(job))
            store, run = open_run(setup, job.out, unit_side(setup, max(1, len(workers.names))))
        if run.complete:
            yield Message(text=f"The run {run.key} is complete already; nothing was computed again.")
        else:
            yield from (Message(level="warning", text=text) for text in setup.doubts)
            yield from _Fill(job, workers, run, setup.grid).events()
            with run.writing():
                yield from close_run(run, setup)
        yield from merge(store, run)
        yield result_of(run, setup, job.out)


def unit_side(setup: Setup, workers: int) -> int:
    """Side of a unit in target pixels: some for each worker, so that none is idle for long at the end."""
    share = setup.window.height * setup.window.width / (workers * UNITS_EACH)
    return min(UNIT, max(SMALLEST_UNIT, int(share**0.5) // CHUNK * CHUNK))


class _Fill:
    """The units of one run on their way through the workers."""

    def __init__(self, job: PredictJob, workers: Workers, run: Run, grid: Grid) -> None:
        self._workers = workers
        self._run = run
        self._plan = Plan(**run.description["plan"])
        self._grid = grid
        self._news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._stop = f"{workers.topic}-{uuid4().hex[:8]}"
        absolute = {"slide": job.slide.absolute(), "model": tuple(path.absolute() for path in job.models)}
        whole = job.model_copy(update={**absolute, "out": job.out.absolute(), "cluster": None})
        self._asked: dict[str, Any] = {
            "version": worker.version(),
            "job": whole.model_dump(mode="json"),
            "run": str(Path(run.path).absolute()),
            "topic": workers.topic,
            "stop": self._stop,
            "spread": workers.spread,
        }
        self._started = time.monotonic()
        self._pixels = 0

    def events(self) -> Iterator[Event]:
        """Fill the run; the units that are nearest to where somebody looks first."""
        client = self._workers.client
        total, left = self._plan.tiles, unfinished(self._run, self._plan)
        first = total - len(left)
        places = {(window.y, window.x): number for number, window in left.items()}
        if first:
            yield Message(text=f"Going on with the run {self._run.key}: {first} of {total} tiles are done.")
        yield Progress(done=first, total=total, unit="tiles")
        yield from self._wait()
        waiting = self._unfinished_units(set(left))
        under_way: dict[Any, int] = {}
        client.subscribe_topic(self._workers.topic, lambda event: self._news.put(("event", event[1])))
        try:
            while waiting or under_way:
                self._submit(waiting, under_way)
                stopping.check()
                for kind, value in self._heard():
                    if kind == "done" and under_way.pop(value, None) is not None:
                        self._outcome(value)
                    elif kind == "event" and (event := self._new_region(value, places)) is not None:
                        yield event
                        yield self._progress(total - len(places), first, total)
            yield from self._unheard(places)
            yield self._progress(total, first, total)
        finally:
            client.unsubscribe_topic(self._workers.topic)
            if under_way:
                extra("distributed").Event(self._stop, client=client).set()
                client.cancel(list(under_way))
                self._wait_for_end()

    def _unheard(self, places: dict[tuple[int, int], int]) -> Iterator[RegionDone]:
        """The tiles that are in the ledgers, but whose worker died before it said so."""
        done = self._run.done
        for number in places.values():
            if number in done:
                window = done[number]
                yield RegionDone(run=self._run.key, y=window.y, x=window.x, height=window.height, width=window.width)

    def _new_region(self, values: dict[str, Any], places: dict[tuple[int, int], int]) -> RegionDone | None:
        """A finished tile of this run; the tiles of a killed worker's batch come twice, and count once."""
        event = event_of(values)
        if not isinstance(event, RegionDone) or event.run != self._run.key or (event.y, event.x) not in places:
            return None
        del places[event.y, event.x]
        self._pixels += event.height * event.width
        return event

    def _submit(self, waiting: list[int], under_way: dict[Any, int]) -> None:
        """Keep every worker busy, with a task or two waiting for it."""
        workers = max(1, len(self._workers.names)) if waiting else 0
        while waiting and len(under_way) < workers * (1 + AHEAD):
            unit = self._next(waiting, stopping.current().view)
            waiting.remove(unit)
            asked = json.dumps({**self._asked, "units": [unit]})
            future = self._workers.client.submit(worker.compute, asked, pure=False, retries=0)
            under_way[future] = unit
            future.add_done_callback(lambda f: self._news.put(("done", f)))

    def _heard(self) -> Iterator[tuple[str, Any]]:
        """What has been said since; waits a little for the first."""
        try:
            yield self._news.get(timeout=0.2)
            while True:
                yield self._news.get_nowait()
        except queue.Empty:
            return

    def _outcome(self, future: Any) -> None:
        """Raise what went wrong in a task."""
        if future.status == "cancelled":
            raise MsunetError("The cluster has dropped a task, so the prediction stopped; start it again, it goes on.")
        if future.status == "error":
            reason = " ".join(str(future.exception()).split())[:300].rstrip(".")
            raise MsunetError(
                f"The cluster could not compute a part of the slide ({reason}); start it again, it goes on."
            )
        outcome = json.loads(future.result())
        if outcome.get("error"):
            raise MsunetError(outcome["error"])

    def _wait(self) -> Iterator[Event]:
        """Until there is a worker; a queue of SLURM may take hours."""
        told = -WAITING_SECONDS
        while not self._workers.names:
            stopping.check()
            if time.monotonic() - told >= WAITING_SECONDS:
                told = time.monotonic()
                yield Message(text="Waiting for the first worker of the cluster ...")
            time.sleep(0.3)

    def _wait_for_end(self, seconds: float = 10.0) -> None:
        """Give tasks under way the time to finish their tile and to leave the run to others."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(self._workers.client.processing().values()):
            time.sleep(0.1)

    def _progress(self, done: int, first: int, total: int) -> Progress:
        seconds = time.monotonic() - self._started
        left = seconds / (done - first) * (total - done) if done > first else None
        return Progress(done=done, total=total, unit="tiles", seconds_left=left, rate=self._pixels / max(seconds, 1e-3))

    def _unfinished_units(self, left: set[int]) -> list[int]:
        """Numbers of the units with one of these tiles."""
        units = self._plan.units
        return [n for n, unit in enumerate(units) if any(unit.first + i in left for i in range(len(unit.tiles)))]

    def _next(self, waiting: list[int], view: View | None) -> int:
        """The unit to compute next: the one whose middle is nearest to the middle of the view, else the first."""
        if view is None:
            return waiting[0]
        seen = self._grid.centres(Region(*view))

        def away(number: int) -> float:
            y, x, height, width = self._plan.units[number].window
            return max(
                abs(y + height / 2 - seen.y - seen.height / 2),
                abs(x + width / 2 - seen.x - seen.width / 2),
            )

        return min(waiting, key=away)
