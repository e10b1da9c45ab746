"""How much of a real training's time is the network's: forward, loss, backward, optimiser."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from inference_parts.report import Row, row

import napari_msunet as ms
from napari_msunet.config import Augmentation, TrainJob
from napari_msunet.models import SegmentationLoss, build_model
from napari_msunet.training.module import Training
from napari_msunet.training.optimisers import make_optimiser
from training_parts.making import nuclei

_WARM = 3


class Clock:
    """Looks at the clock in a real training: when the network works, and when a step ends."""

    def __init__(self, device: str) -> None:
        self.wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
        self.network: list[float] = []
        self.steps: list[float] = []
        self._spent = self._since = self._ended = 0.0

    def now(self) -> float:
        self.wait()
        return time.perf_counter()

    def install(self) -> dict[tuple[Any, str], Any]:
        """Wrap what is timed; give what to put back."""
        before = {(Training, "training_step"): Training.training_step, (Training, "_outputs"): Training._outputs}
        before[SegmentationLoss, "forward"] = SegmentationLoss.forward
        before[Training, "on_train_batch_end"] = Training.on_train_batch_end
        Training._outputs = self._timed(Training._outputs)
        SegmentationLoss.forward = self._timed(SegmentationLoss.forward)
        Training.training_step = self._then_waits(Training.training_step)
        Training.on_train_batch_end = self._after(Training.on_train_batch_end)
        return before

    def _timed(self, function: Any) -> Any:
        def timed(*arguments: Any, **options: Any) -> Any:
            begin = self.now()
            result = function(*arguments, **options)
            self._spent += self.now() - begin
            return result

        return timed

    def _then_waits(self, function: Any) -> Any:
        """What comes between the end of `training_step` and of the step is backward and the optimiser."""

        def timed(*arguments: Any) -> Any:
            result = function(*arguments)
            self._since = self.now()
            return result

        return timed

    def _after(self, function: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            now = self.now()
            self.network.append(self._spent + now - self._since)
            self.steps.append(now - self._ended)
            self._spent, self._ended = 0.0, now
            return function(*arguments)

        return timed


def share(quick: bool, device: str) -> list[Row]:
    """A real training on the shipped nuclei, and the same steps on a batch that lies in memory."""
    rows: list[Row] = []
    size, batch, steps = (128, 4, 8) if quick else (256, 8, 24)
    for name, augmentation in (
        ("no random change", Augmentation.none()),
        ("default augmentation", Augmentation()),
    ):
        with tempfile.TemporaryDirectory() as folder:
            job = TrainJob(
                model=ms.ModelConfig(classes=("nucleus",), mpp=0.5, scales=(1.0, 0.5, 0.25)),
                sources=(nuclei(),),
                out=Path(folder) / "run",
                size=size,
                batch_size=batch,
                steps=steps + _WARM,
                epochs=1,
                validation=0.0,
                augmentation=augmentation,
                device=device,
            )
            clock = Clock(device)
            before = clock.install()
            try:
                ms.train(job)
            finally:
                for (owner, attribute), function in before.items():
                    setattr(owner, attribute, function)
        network, whole = sum(clock.network[_WARM:]), sum(clock.steps[_WARM:])
        alone = bare_step(job, batch, size, device, 3 if quick else 8)
        rows += [
            row(f"share of a step in the network, {name}", network / whole, "", at_least=0.9),
            row(f"time of a step, {name}", whole / steps, "s"),
            row(f"time of a step on a batch in memory, {name}", alone, "s"),
            row(f"bare step / training step, {name}", alone / (whole / steps), ""),
        ]
    return rows


def bare_step(job: TrainJob, batch: int, size: int, device: str, count: int) -> float:
    """Median time of forward, loss, backward and optimiser on one batch that is there already."""
    torch.manual_seed(0)
    model = build_model(job.model).to(device)
    loss = SegmentationLoss(job.loss, job.model.ratios).to(device)
    optimiser = make_optimiser(model, job.optimiser)
    inputs = [torch.rand(batch, 3, int(size * r), int(size * r), device=device) for r in job.model.ratios]
    target = torch.randint(0, 2, (batch, size, size), device=device)
    times = []
    for _ in range(count + 2):
        begin = time.perf_counter()
        optimiser.zero_grad()
        loss(*model.outputs(inputs, (size, size), "same"), target)[0].backward()
        optimiser.step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])
