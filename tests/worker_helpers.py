"""What the tests of the worker and of its bridge to Qt share."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from data.making import CONFIG, write_folder

from napari_msunet.config import AnswerRequest, FolderSource, LiveRequest, Optimiser, PredictJob, TrainJob
from napari_msunet.events import Event, packed
from napari_msunet.jobs.client import WorkerClient, WorkerRequest

SLIDE = Path(__file__).parents[1] / "src" / "napari_msunet" / "demo_data" / "CMU-1-Small-Region.svs"

PATIENCE = 40.0
"""Seconds after which a test gives up: this machine may be busy."""


class Heard:
    """What a client says about one job."""

    def __init__(self, client: WorkerClient, job: Any, **options: Any) -> None:
        self.events: list[Event] = []
        self.order: list[str] = []
        self.end: tuple[str, str | None, str | None] | None = None
        self.ends = 0
        self.threads: set[str] = set()
        self._changed = threading.Condition()
        beside = {dict: client.inspect, AnswerRequest: client.answer, LiveRequest: client.live}
        jobs = type(job) not in beside
        ask = beside.get(type(job), client.submit)
        if jobs:
            options["on_start"] = lambda: self._note("started")
        self.handle: WorkerRequest = ask(job, self._event, self._end, **options)

    def _note(self, what: str) -> None:
        with self._changed:
            self.order.append(what)
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()

    def _event(self, event: Event) -> None:
        self.events.append(event)
        self._note("event")

    def _end(self, outcome: str, text: str | None, details: str | None) -> None:
        self.end = (outcome, text, details)
        self.ends += 1
        self._note("end")

    def until(self, test: Any) -> None:
        """Wait until `test(self)` holds."""
        with self._changed:
            assert self._changed.wait_for(lambda: test(self), PATIENCE), (self.handle, self.events, self.end)

    def ended(self) -> tuple[str, str | None, str | None]:
        """Wait for the end, and give it."""
        self.until(lambda heard: heard.end is not None)
        assert self.end is not None
        return self.end

    def wait(self, kind: type) -> None:
        """Wait for an event of a kind."""
        self.until(lambda heard: any(isinstance(e, kind) for e in heard.events) or heard.end is not None)
        assert self.end is None, self.end


def training(root: Path, **options: Any) -> TrainJob:
    """A training that takes long: its first epoch is short, and there are many."""
    images, masks = write_folder(root / "discs", 6)
    source = FolderSource(images=images, masks=masks, mpp=1.0, group="name(.)")
    given = {"size": 32, "batch_size": 4, "epochs": 5000, "steps": 4, "device": "cpu", "out": root / "run"}
    patient = Optimiser(stop_after=5000)
    return TrainJob(**({"model": CONFIG, "sources": (source,), "optimiser": patient} | given | options))


def model_file(root: Path) -> Path:
    """An untrained model for the shipped slide."""
    import torch

    from napari_msunet.models import build_model, save_model

    torch.manual_seed(1)
    return save_model(build_model(CONFIG.model_copy(update={"mpp": 0.998})), root / "model.safetensors")


def prediction(root: Path, model: Path, name: str = "labels", **options: Any) -> PredictJob:
    """A prediction of a part of the shipped slide."""
    given = {"region": (500.0, 500.0, 600.0, 700.0), "device": "cpu"} | options
    return PredictJob(slide=SLIDE, model=model, out=root / f"{name}.ome.zarr", **given)


def answering(model: Path, slide: Path = SLIDE, **options: Any) -> AnswerRequest:
    """A request for the labels of a part of the shipped slide, with dots of two classes."""
    places = np.random.default_rng(0).uniform(500, 900, (60, 2))
    values = np.repeat(np.array([0, 1], np.uint8), 30)
    given = {"view": (400.0, 400.0, 700.0, 700.0), "classes": ("1 disc",), "device": "cpu"} | options
    return AnswerRequest(model=model, slide=slide, places=packed(places), values=packed(values), **given)


def altered_worker(before: str) -> list[str]:
    """The command of a worker in which some lines of Python ran first, with `describe` (the module) to misuse."""
    imports = "import os, sys, time\nfrom napari_msunet.app import describe, worker"
    return [sys.executable, "-c", f"{imports}\n{before}\nworker.main()"]
