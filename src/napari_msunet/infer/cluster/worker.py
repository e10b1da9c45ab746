"""What a worker of a cluster does: it computes units of a run. It is asked with JSON text and answers with it."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from napari_msunet.config import PredictJob
from napari_msunet.errors import MsunetError, failure
from napari_msunet.events import RegionDone
from napari_msunet.stopping import Cancelled, Stop, stoppable

STOP_SECONDS = 1.0
"""Between two looks whether the client wants the tasks to end."""

_ONE = threading.Lock()  # a network takes all threads it was given, so one task at a time


def version() -> str:
    """This napari-msunet's."""
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
    from napari_msunet.infer.kept import KEPT
    from napari_msunet.infer.prediction import fill, options_of
    from napari_msunet.infer.setup import set_up
    from napari_msunet.labels import Run

    KEPT.models, KEPT.slides = 8, 2
    job = PredictJob.model_validate(task["job"])
    stop, looked, tiles = Stop(), time.monotonic(), 0
    models = tuple(KEPT.model(path) for path in job.models)
    with stoppable(stop), KEPT.slide(job.slide, job.slide_mpp, job.image_kind, job.value_range) as slide:
        run = Run(Path(task["run"]))
        with run.writing(part=part_name(worker.name)):
            for event in fill(run, set_up(slide, models, options_of(job)), task["units"]):
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
    """Whether this machine sees the files, and has the same napari-msunet."""
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
    """Once in a process: memory stays with it, and of several GPUs it takes one."""
    from napari_msunet.own_process import settle

    settle()
    if number is None or "CUDA_VISIBLE_DEVICES" in os.environ or not str(number).isdecimal():
        return
    import torch

    count = torch.cuda.device_count()
    if count > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(int(number) % count)
