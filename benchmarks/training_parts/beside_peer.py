"""A step of the default beside one of MONAI's `BasicUNet` in the plain loop, by turns, and where the default's time
goes."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from inference_parts.report import Row, row

from napari_msunet import train
from napari_msunet.config import AutoModel, SettledTrainJob, TrainJob
from napari_msunet.data.recipe import settle
from napari_msunet.models import SegmentationLoss, build_model
from napari_msunet.training.optimisers import make_optimiser
from training_parts.basicunet import BATCH, FEATURES, RATE, SIZE, plain_loss
from training_parts.sets import SETS, source
from training_parts.share import Clock

DATA = Path("../shared/data")
SECONDS = 400.0
_WARM = 3


def beside_peer(quick: bool, device: str) -> list[Row]:
    """The default that a training of 400 s on glands chooses, beside `BasicUNet`."""
    rounds, steps = (3, 6) if quick else (12, 30)
    chosen = SETS["glands"](DATA)
    with tempfile.TemporaryDirectory() as folder:
        images = source(chosen, chosen.pictures, Path(folder) / "data", "train", None)
        asked = TrainJob(
            model=AutoModel(classes=chosen.classes),
            sources=(images,),
            out=Path(folder) / "run",
            time_limit=SECONDS,
            device=device,
        )
        job, _ = settle(asked)
        clock = _real(job, steps, device)
    ours, peers = _Default(job, device), _Peer(device)
    times: dict[str, list[float]] = {"default": [], "BasicUNet": []}
    for turn in range(rounds + 1):
        for name, step in zip(times, (ours, peers), strict=True):
            begin = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - begin)
    pixels = {"default": job.size**2 * job.batch_size, "BasicUNet": SIZE**2 * BATCH}
    areas = {"default": pixels["default"] * job.model.resolution.size**2, "BasicUNet": 0.0}
    areas["BasicUNet"] = pixels["BasicUNet"] * chosen.peer_mpp**2
    rows = [
        row("default, µm/px", job.model.resolution.size, "µm"),
        row("default, window", job.size, "px"),
        row("default, parameters", sum(p.numel() for p in ours.network.parameters()) / 1e6, "M"),
        row("BasicUNet, parameters", sum(p.numel() for p in peers.network.parameters()) / 1e6, "M"),
    ]
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        rows += [
            row(f"{name}, step on a batch in memory", middle, "s"),
            row(f"{name}, useful pixels", pixels[name] / middle / 1e6, "Mpx/s"),
            row(f"{name}, tissue", areas[name] / middle / 1e6, "mm²/s"),
        ]
    pairs = [b / a for a, b in zip(*times.values(), strict=True)]
    whole = statistics.mean(clock.steps[_WARM:])
    return [
        *rows,
        row("BasicUNet's step / the default's, by turns", statistics.median(pairs)),
        row("default, step of a real training", whole, "s"),
        row("of it the network, loss and optimiser", statistics.mean(clock.network[_WARM:]) / whole),
    ]


def _real(job: SettledTrainJob, steps: int, device: str) -> Clock:
    """Some steps of the training itself, with its reading and random changes, timed."""
    short = TrainJob(**{name: getattr(job, name) for name in TrainJob.model_fields})
    short = short.model_copy(update={"time_limit": None, "epochs": 1, "steps": steps + _WARM, "validation": 0.0})
    clock = Clock(device)
    before = clock.install()
    try:
        train(short)
    finally:
        for (owner, attribute), function in before.items():
            setattr(owner, attribute, function)
    return clock


class _Default:
    """A step of the default on a batch that lies in memory."""

    def __init__(self, job: SettledTrainJob, device: str) -> None:
        torch.manual_seed(0)
        self.network: Any = build_model(job.model).to(device)
        self._loss = SegmentationLoss(job.loss, job.model.ratios).to(device)
        self._optimiser = make_optimiser(self.network, job.optimiser)
        self._size = (job.size, job.size)
        self._inputs = [
            torch.rand(job.batch_size, job.model.channels, int(job.size * r), int(job.size * r), device=device)
            for r in job.model.ratios
        ]
        self._truth = torch.randint(0, len(job.model.classes) + 1, (job.batch_size, *self._size), device=device)

    def __call__(self) -> None:
        self._optimiser.zero_grad()
        self._loss(*self.network.outputs(self._inputs, self._size, "same"), self._truth)[0].backward()
        self._optimiser.step()


class _Peer:
    """A step of the plain loop on a batch that lies in memory."""

    def __init__(self, device: str) -> None:
        from monai.networks.nets import BasicUNet  # type: ignore[import-not-found]

        torch.manual_seed(0)
        self.network: Any = BasicUNet(2, 3, 2, features=FEATURES).to(device)
        self._optimiser = torch.optim.AdamW(self.network.parameters(), RATE)
        self._images = torch.rand(BATCH, 3, SIZE, SIZE, device=device)
        self._truth = torch.randint(0, 2, (BATCH, SIZE, SIZE), device=device)

    def __call__(self) -> None:
        self._optimiser.zero_grad()
        plain_loss(self.network(self._images), self._truth).backward()
        self._optimiser.step()
