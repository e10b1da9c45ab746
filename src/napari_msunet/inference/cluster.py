"""A prediction on the workers of a Dask cluster (extra `cluster`): connection, work of a worker, and the client."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from napari_msunet import events
from napari_msunet.config import Cluster, PredictJob
from napari_msunet.constants import CHUNK
from napari_msunet.errors import MsunetError, failure
from napari_msunet.events import Cancelled, Event, Message, Progress, RegionDone, Stop, View, event_of, stoppable
from napari_msunet.geometry import Grid, Region
from napari_msunet.inference.model_cache import MODEL_CACHE
from napari_msunet.inference.network import exact_arithmetic
from napari_msunet.inference.plan import UNIT, Plan
from napari_msunet.inference.predict import close_run, merge, open_run, options_of, result_of, unfinished
from napari_msunet.inference.setup import Setup, on_own_pixels, set_up
from napari_msunet.labels import Run
from napari_msunet.own_process import environment

# ----------------------------------------------------------------------------------------------------------------------
# Connecting to the workers of a Dask cluster, and starting them as local processes or jobs of SLURM.

CONNECT_SECONDS = 20.0
"""Seconds that the scheduler at an address may take to answer."""


@dataclass
class Workers:
    """A connection to the workers of a cluster.

    Attributes
    ----------
    client : distributed.Client
    threads : int
        CPU threads of each worker's network.
    spread : bool
        Whether each worker takes a GPU of its own, by its number; so for workers started on this machine.
    """

    client: Any
    threads: int
    spread: bool
    topic: str = field(default_factory=lambda: f"msunet-{uuid4().hex[:12]}")

    @property
    def names(self) -> list[str]:
        """Addresses of the present workers."""
        return list(self.client.scheduler_info(n_workers=-1)["workers"])


@contextmanager
def workers_of(cluster: Cluster) -> Iterator[Workers]:
    """Connect to a cluster; a local one or one of SLURM is started first.

    Raises
    ------
    MsunetError
        If Dask is not installed, or nothing answers at the address.
    """
    with _started(cluster) as where:
        try:
            client = extra("distributed").Client(where, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise MsunetError(
                f"No Dask scheduler answers at {cluster.at}; start one there (`dask scheduler`), or correct --cluster."
            ) from error
        try:
            threads = cluster.threads or _threads(cluster, client)
            yield Workers(client, threads, spread=cluster.kind == "local")
        finally:
            client.close(timeout=5)


def extra(module: str) -> Any:
    """A module of the extra `cluster`, which is only imported where a cluster is used.

    Raises
    ------
    MsunetError
        If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MsunetError(
            f"A cluster needs {module}, which is not installed; install it: pip install 'napari-msunet[cluster]'."
        ) from error


@contextmanager
def _started(cluster: Cluster) -> Iterator[Any]:
    """A context with what a client connects to; a cluster that was started for it ends with it."""
    if cluster.kind == "address":
        yield cluster.at
        return
    if cluster.kind == "slurm" and shutil.which("sbatch") is None:
        raise MsunetError("SLURM's command sbatch is not on this machine; run this where jobs are submitted.")
    with _environment_kept():
        made = local_cluster(cluster) if cluster.kind == "local" else slurm_cluster(cluster)
        try:
            if cluster.kind == "slurm":
                made.scale(jobs=cluster.workers)
            yield made
        finally:
            made.close(timeout=10)


def local_cluster(cluster: Cluster) -> Any:
    """Processes on this machine, each with one task at a time."""
    threads = str(cluster.threads or 1)
    given = {**environment(), **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)}
    distributed = extra("distributed")  # imported before its settings are changed
    with extra("dask").config.set({"distributed.nanny.pre-spawn-environ": given}):
        return distributed.LocalCluster(
            n_workers=cluster.workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # no limit, because Dask would kill large workers, and the plan has a limit of its own
            dashboard_address=None,
            silence_logs="ERROR",  # errors come back as sentences
        )


@contextmanager
def _environment_kept() -> Iterator[None]:
    """A context that restores the environment, in which Dask leaves the variables that it sets for its workers."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


def slurm_cluster(cluster: Cluster) -> Any:
    """A Dask cluster whose workers are SLURM jobs, none of them submitted yet; `job_script()` shows their script.

    Raises
    ------
    MsunetError
        If dask-jobqueue is not installed, or needs an option that was not given.
    """
    made = extra("dask_jobqueue").SLURMCluster
    options = dict(cluster.options)
    cores = int(options.pop("cores", 0)) or cluster.threads or 1
    given: dict[str, Any] = {"memory": options.pop("memory", "8 GB"), "python": sys.executable}
    setup = [f"export {name}={value}" for name, value in environment().items()]
    setup += [line.strip() for line in options.pop("setup", "").split(";") if line.strip()]
    directives = [line.strip() for line in options.pop("directives", "").split(",") if line.strip()]
    given["scheduler_options"] = {"dashboard_address": ":0"}
    if port := options.pop("scheduler_port", None):
        given["scheduler_options"]["port"] = int(port)
    try:
        return made(
            cores=1,  # tasks at a time; SLURM gives job_cpu
            processes=1,
            job_cpu=cores,
            job_script_prologue=setup,
            job_extra_directives=directives,
            **given,
            **options,
        )
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise MsunetError(f"The SLURM cluster cannot be set up ({error}); correct --cluster-option.") from error


def _threads(cluster: Cluster, client: Any) -> int:
    """CPU threads for a network on each worker, where none are given."""
    if cluster.kind == "address":
        return min(client.nthreads().values(), default=1)
    return int(cluster.options.get("cores", 1))


# ----------------------------------------------------------------------------------------------------------------------
# The work of a worker: it computes units of a run. Requests and answers are JSON text.

STOP_SECONDS = 1.0
"""Seconds between two checks whether the client wants the tasks to end."""

_ONE = threading.Lock()  # one task at a time, since a network uses all threads of the worker


def version() -> str:
    """The version of this napari-msunet."""
    return str(import_module("napari_msunet").__version__)


def compute(asked: str) -> str:
    """Compute units of a run; called by Dask in a worker.

    Parameters
    ----------
    asked : str
        JSON: `version`, `job` (a `PredictJob`), `run` (its folder), `units` (their numbers), `topic` (of the events),
        `stop` (name of the flag that ends it), `spread`.

    Returns
    -------
    str
        JSON: `tiles` (how many were computed), or `error` (a sentence) and `details`.
    """
    task = json.loads(asked)
    with _ONE:
        try:
            return json.dumps({"tiles": _compute(task)})
        except Cancelled:
            return json.dumps({"tiles": 0})
        except Exception as error:
            text, details = failure(error)
            return json.dumps({"error": f"On the worker {socket.gethostname()}: {text}", "details": details})


def _compute(task: dict[str, Any]) -> int:
    distributed = import_module("distributed")
    worker = distributed.get_worker()
    flag = distributed.Event(task["stop"], client=distributed.get_client())
    _check(task)
    _settle(worker.name if task["spread"] else None)
    from napari_msunet.inference.model_cache import MODEL_CACHE
    from napari_msunet.inference.predict import fill, options_of
    from napari_msunet.inference.setup import on_own_pixels, set_up
    from napari_msunet.labels.runs.run import Run

    MODEL_CACHE.models, MODEL_CACHE.slides = 8, 2
    job = PredictJob.model_validate(task["job"])
    stop, looked, tiles = Stop(), time.monotonic(), 0
    models = tuple(MODEL_CACHE.model(path) for path in job.models)
    with stoppable(stop), MODEL_CACHE.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
        run = Run(Path(task["run"]))
        with run.writing(part=part_name(worker.name)):
            for event in fill(run, on_own_pixels(set_up(slide, models, options_of(job))), task["units"]):
                if isinstance(event, RegionDone):
                    tiles += 1
                    worker.log_event(task["topic"], event.model_dump(mode="json"))
                if time.monotonic() - looked > STOP_SECONDS:
                    looked = time.monotonic()
                    if flag.is_set():
                        stop.ask()
                stop.check()
    return tiles


def part_name(worker: Any) -> str:
    """The name of a worker's ledger."""
    return "worker-" + re.sub(r"[^A-Za-z0-9]+", "-", str(worker)).strip("-")[-50:]


def _check(task: dict[str, Any]) -> None:
    """Raise where this machine does not see the files, or has another version of napari-msunet."""
    if task["version"] != version():
        raise MsunetError(
            f"it has napari-msunet {version()}, the client has {task['version']}; install the same on both."
        )
    job = task["job"]
    models = job["model"] if isinstance(job["model"], list) else [job["model"]]
    for path in (job["slide"], *models, task["run"]):
        if not os.path.exists(path):
            raise MsunetError(f"it does not see {path}; put it on a file system that all workers share.")


def _settle(number: Any) -> None:
    """Set up the process, once: it keeps freed memory, and takes one of several GPUs."""
    from napari_msunet.own_process import settle

    settle()
    if number is None or "CUDA_VISIBLE_DEVICES" in os.environ or not str(number).isdecimal():
        return
    import torch

    count = torch.cuda.device_count()
    if count > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(int(number) % count)


# ----------------------------------------------------------------------------------------------------------------------
# A prediction on the workers of a Dask cluster: they fill one run, unit by unit, and the client finishes it.
#
# What goes between the processes is JSON text: a task in, its outcome and events back. Dask itself sends our function
# by name, in pickles of its own: its workers must be trusted, and the network between them too; see
# ``docs/cluster.md``.

WAITING_SECONDS = 60.0
"""Seconds between two messages that no worker has come yet."""

UNITS_EACH, SMALLEST_UNIT = 4, 1024
"""Units for each worker, where a slide is large enough; with smaller units, too many margins are computed twice."""

AHEAD = 1
"""Tasks that wait at the scheduler for each worker; with more, a change of the view would have effect too late."""


def predict_on(job: PredictJob, workers: Workers) -> Iterator[Event]:
    """Run a prediction on workers: this process makes the plan, they compute its units, and this process does the rest.

    Raises
    ------
    MsunetError
        As in `predict_events`; and where a worker does not see the slide, a model or the label store, or has another
        version of napari-msunet.
    """
    models = [MODEL_CACHE.model(path) for path in job.models]
    with MODEL_CACHE.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
        with exact_arithmetic(workers.threads):  # the plan keeps the number of threads
            setup = on_own_pixels(set_up(slide, models, options_of(job)))
            store, run = open_run(setup, job.out, unit_side(setup, max(1, len(workers.names))))
        if run.complete:
            yield Message(text=f"The run {run.key} is complete already; nothing was computed again.")
        else:
            yield from (Message(level="warning", text=text) for text in setup.doubts)
            if setup.speed_words:
                yield Message(text=setup.speed_words)
            settled = {name: getattr(setup.options, name) for name in ("engine", "precision")}
            yield from _Fill(job.model_copy(update=settled), workers, run, setup.grid).events()
            with run.writing():
                yield from close_run(run, setup)
        yield from merge(store, run)
        yield result_of(run, setup, job.out)


def unit_side(setup: Setup, workers: int) -> int:
    """Side of a unit in target pixels, with several units for each worker, so that none is idle for long at the end."""
    share = setup.window.height * setup.window.width / (workers * UNITS_EACH)
    return min(UNIT, max(SMALLEST_UNIT, int(share**0.5) // CHUNK * CHUNK))


class _Fill:
    """Sends the units of one run to the workers, and collects the results."""

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
            "version": version(),
            "job": whole.model_dump(mode="json"),
            "run": str(Path(run.path).absolute()),
            "topic": workers.topic,
            "stop": self._stop,
            "spread": workers.spread,
        }
        self._started = time.monotonic()
        self._pixels = 0

    def events(self) -> Iterator[Event]:
        """Fill the run, beginning with the units nearest to the view."""
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
                events.check()
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
        """The tiles that are in the ledgers, but whose worker died before it reported them."""
        done = self._run.done
        for number in places.values():
            if number in done:
                window = done[number]
                yield RegionDone(run=self._run.key, y=window.y, x=window.x, height=window.height, width=window.width)

    def _new_region(self, values: dict[str, Any], places: dict[tuple[int, int], int]) -> RegionDone | None:
        """A finished tile of this run; None for one that was reported before, such as of a killed worker's batch."""
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
            unit = self._next(waiting, events.current().view)
            waiting.remove(unit)
            asked = json.dumps({**self._asked, "units": [unit]})
            future = self._workers.client.submit(compute, asked, pure=False, retries=0)
            under_way[future] = unit
            future.add_done_callback(lambda f: self._news.put(("done", f)))

    def _heard(self) -> Iterator[tuple[str, Any]]:
        """The messages since the last call; waits a moment for the first."""
        try:
            yield self._news.get(timeout=0.2)
            while True:
                yield self._news.get_nowait()
        except queue.Empty:
            return

    def _outcome(self, future: Any) -> None:
        """Raise the error of a failed task."""
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
        """Wait until there is a worker; a queue of SLURM may take hours."""
        told = -WAITING_SECONDS
        while not self._workers.names:
            events.check()
            if time.monotonic() - told >= WAITING_SECONDS:
                told = time.monotonic()
                yield Message(text="Waiting for the first worker of the cluster ...")
            time.sleep(0.3)

    def _wait_for_end(self, seconds: float = 10.0) -> None:
        """Give tasks under way the time to finish their tile and to release the run."""
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
