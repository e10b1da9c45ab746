"""Callbacks of Lightning's trainer: events, the time limit, early stopping, and the files of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch

from napari_msunet._io import aside
from napari_msunet.config import SettledTrainJob
from napari_msunet.config.training import FUSED, MEAN_OF_SCALES, METRICS, WatchedMetric, watched_metric
from napari_msunet.constants import MEAN_COLOUR, output_colour
from napari_msunet.events import Message, Metric, Progress, Say, StepMetrics, Stop
from napari_msunet.models import save_model
from napari_msunet.training.module import Training
from napari_msunet.training.record import Memory, Row, RunFolder, column, measured
from napari_msunet.training.scoring.panels import figure_of, save
from napari_msunet.training.tracking import Tracker

# ----------------------------------------------------------------------------------------------------------------------
# The curves of a training by epoch, for the fused output, each scale, and the mean over scales.

_TITLES = {name: words[:1].upper() + words[1:] for name, words in METRICS.items()} | {
    "iou": "IoU (mean over classes)",
    "memory_mb": "Memory (MB)",
}

MAIN_CURVES = ("loss", "iou")
ALL_CURVES = ("loss", "iou", "dice", "f1", "precision", "recall", "accuracy", "memory_mb")


def draw_curves(
    rows: Sequence[Row],
    outputs: Sequence[str],
    path: Path,
    best: int | None = None,
    threshold: float | None = None,
    names: Sequence[str] = MAIN_CURVES,
) -> None:
    """Write the curves of a run as a PNG.

    Parameters
    ----------
    rows : sequence of dict
        One for each epoch.
    outputs : sequence of str
        "fused", then one for each scale.
    path : Path
    best : int, optional
        The epoch whose model was kept, which is marked.
    threshold : float, optional
        The loss below which the training ends, which is marked.
    names : sequence of str
        Which numbers are drawn, by their names in metrics.csv.
    """
    from matplotlib.lines import Line2D

    across = min(4, len(names))
    down = -(-len(names) // across)
    figure = figure_of(11 if across < 4 else 18, 4.2 * down + 0.4)
    panels = figure.subplots(down, across, squeeze=False).flatten()
    shown = measured(outputs)
    for axes, name in zip(panels, names, strict=False):
        _panel(axes, rows, shown, name)
        _mark(axes, best, threshold if name == "loss" else None)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    handles = [
        Line2D([], [], color=_colour(i, output), linewidth=2.4 if i == 0 else 1.4, label=output)
        for i, output in enumerate(shown)
    ]
    handles.append(Line2D([], [], color="#555555", linewidth=1.4, label="validation"))
    handles.append(Line2D([], [], color="#555555", linewidth=1.4, linestyle=(0, (2, 2)), label="training"))
    if best is not None:
        handles.append(Line2D([], [], color="#999999", linewidth=1, linestyle=(0, (6, 3)), label=f"kept: epoch {best}"))
    if threshold is not None and "loss" in names:
        text = f"stops below {threshold:g}"
        handles.append(Line2D([], [], color=_THRESHOLD, linewidth=1, linestyle=(0, (6, 3)), label=text))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    save(figure, path)


_THRESHOLD = "#d64550"


def _colour(index: int, output: str) -> str:
    return MEAN_COLOUR if output == MEAN_OF_SCALES else output_colour(index)


def _mark(axes: Any, best: int | None, threshold: float | None) -> None:
    """Mark the kept epoch and the loss that ends the training."""
    if best is not None:
        axes.axvline(best, color="#999999", linewidth=1, linestyle=(0, (6, 3)), zorder=1)
    if threshold is not None:
        axes.axhline(threshold, color=_THRESHOLD, linewidth=1, linestyle=(0, (6, 3)), zorder=1)


def _panel(axes: Any, rows: Sequence[Row], outputs: Sequence[str], name: str) -> None:
    """Draw one number by epoch."""
    alone = name == "memory_mb"
    for i, output in enumerate(outputs[:1] if alone else outputs):
        for split in ("train",) if alone else ("train", "validation"):
            key = name if alone else column(split, name, output)
            points = [(r["epoch"], r[key]) for r in rows if key in r]
            if not points:
                continue
            solid = split == "validation"
            axes.plot(
                *zip(*points, strict=True),
                color=_colour(i, output),
                linewidth=(2.2 if i == 0 else 1.2) * (1 if solid else 0.8),
                linestyle="-" if solid else (0, (2, 2)),
                alpha=1 if solid else 0.65,
                marker="o" if len(points) < 3 else None,
                markersize=4,
                zorder=3 - i / 10 + solid,
            )
    axes.set_title(_TITLES[name], fontsize=11)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(bottom=0)
    if name not in ("loss", "memory_mb"):
        axes.set_ylim(0, 1)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


# ----------------------------------------------------------------------------------------------------------------------
# Time limit, checkpoints, early stopping and curves of a training.

_PROGRESS_SECONDS = 0.5
_CURVES_SECONDS = 20.0
_ALL_CURVES_AFTER = 30.0
"""Seconds from which on a training is long enough to spend one more on the curves of all numbers."""
_BETTER = 1e-4
_SMOOTHED = 5
"""Epochs over which a validation IoU is averaged before it decides, because single values jump."""
_COST = 0.02
"""Largest share of the time that goes into saving."""


class Paced:
    """Paces repeated work, such as saving, so that it takes no more than a small share of the time."""

    def __init__(self) -> None:
        self._ended, self._seconds = 0.0, 0.0

    @property
    def due(self) -> bool:
        """Whether the work may be done again."""
        return time.monotonic() - self._ended >= self._seconds / _COST

    @contextmanager
    def doing(self) -> Iterator[None]:
        """Measure how long the work takes."""
        began = time.monotonic()
        yield
        self._ended = time.monotonic()
        self._seconds = self._ended - began


@dataclass
class RunProgress:
    """The progress of a run after an epoch; plain values, kept in the checkpoint.

    Attributes
    ----------
    best_iou, best_loss : float
        At the best epoch, the number that decides (`Optimiser.best_metric`, where higher is better) and the validation
        loss of the fused output; means over the last epochs, see `_SMOOTHED`. The first has its name from checkpoints
        in which it was always the IoU.
    best_epoch : int
        The best epoch; 0 before the first one.
    epochs, steps : int
        How many epochs and steps are done.
    step_seconds : float
        Time in all steps together.
    stop_best, stop_epoch : float, int
        The best value of the score that early stopping watches, where higher is better, and its epoch.
    reason : str
        Why the training ended: "epochs", "no better", "time limit", "low loss"; empty while it runs.
    peak_memory_mb : float
        The largest memory of any epoch.
    """

    best_iou: float = -1.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    epochs: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    stop_best: float | None = None
    stop_epoch: int = 0
    reason: str = ""
    peak_memory_mb: float = 0.0


STATE_KEY = "Watch"
"""Name of the state of `ProgressCallback` in the checkpoint of a training."""


class ProgressCallback(pl.Callback):
    """Reports the progress of a training, saves its models, and ends it.

    Parameters
    ----------
    job : TrainJob
    folder : RunFolder
    say : callable
        Takes each event.
    stop : Stop
    started : float
        `time.monotonic` when the job began, from which the time limit counts.

    Attributes
    ----------
    finishing_passes : int
        Batches that go through the network again after the last step, for which time is reserved.
    """

    def __init__(self, job: SettledTrainJob, folder: RunFolder, say: Say, stop: Stop, started: float) -> None:
        self.job = job
        self.folder = folder
        self.say = say
        self.stop = stop
        self.started = started
        self.standing = RunProgress()
        self.summary: dict[str, Any] = {}
        self.trackers: Sequence[Tracker] = ()
        self._memory: Memory | None = None
        self._epoch_began = self._step_ended = 0.0
        self._validation_seconds = 0.0
        self._last_progress, self._last_curves = 0.0, time.monotonic()
        self._warm_steps, self._warm_seconds = 0, 0.0
        self._steps_done, self._steps_total = 0, 1
        self.finishing_passes = 0
        self._processor_began = time.process_time()
        self._saving, self._keeping = Paced(), Paced()

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint, which is that of checkpoints written since the first version."""
        return STATE_KEY

    # ------------------------------------------------------------------------------------------------------ the clock

    @property
    def elapsed(self) -> float:
        """Seconds since the job began; for processor time, since the training loop began."""
        if self.job.clock == "processor":
            return time.process_time() - self._processor_began
        return time.monotonic() - self.started

    @property
    def _finishing(self) -> float:
        """Seconds needed after the last step: forward passes, each about a third of the time of a step."""
        return 0.4 * self.finishing_passes * self._warm_seconds / self._warm_steps if self._warm_steps else 0.0

    def fraction(self) -> float:
        """The fraction of the training that is over, by steps or by time, whichever is larger; 0 to 1."""
        limit = self.job.time_limit
        by_time = self.elapsed / max(1e-9, limit - self._finishing) if limit else 0.0
        return min(1.0, max(by_time, self._steps_done / max(1, self._steps_total)))

    def _seconds_left(self) -> float | None:
        """The time left, as an upper estimate: early stopping may end the training earlier."""
        if not self._warm_steps:
            return None
        epochs_left = self.job.epochs - self._steps_done * self.job.epochs / self._steps_total
        by_steps = (self._steps_total - self._steps_done) * self._warm_seconds / self._warm_steps
        left = by_steps + epochs_left * self._validation_seconds
        return left if self.job.time_limit is None else max(0.0, min(left, self.job.time_limit - self.elapsed))

    def _steps_expected(self, seconds_left: float | None) -> int:
        """The total number of steps: that of the job, or fewer where its time limit comes first."""
        if self.job.time_limit is None or seconds_left is None:
            return self._steps_total
        pace = self._warm_seconds / self._warm_steps
        return min(self._steps_total, self._steps_done + max(1, round(seconds_left / pace)))

    # ---------------------------------------------------------------------------------------------- hooks of Lightning

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._steps_total = self.job.epochs * int(trainer.num_training_batches)
        self._steps_done = self.standing.steps

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)  # for the type checker, as below
        pl_module.restart_tallies()
        self._memory = Memory(pl_module.device)
        self._epoch_began = self._step_ended = time.monotonic()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.stop.check()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.stop.check()
        before, self._step_ended = self._step_ended, time.monotonic()
        seconds = self._step_ended - before  # including the wait for its batch
        self._steps_done += 1
        self.standing.steps = self._steps_done
        self.standing.step_seconds += seconds
        if self._memory is not None:
            self._memory.look()
        if batch_idx:  # the first step of an epoch is left out, because it also starts the reading
            self._warm_steps += 1
            self._warm_seconds += seconds
        # With a time limit, how many steps there will be is only known once their pace is.
        known = self._warm_steps or self.job.time_limit is None
        if known and time.monotonic() - self._last_progress >= _PROGRESS_SECONDS:
            self._last_progress = time.monotonic()
            left = self._seconds_left()
            self.say(Progress(done=self._steps_done, total=self._steps_expected(left), unit="steps", seconds_left=left))
        if self._time_is_up(seconds / 3 * sum(trainer.num_val_batches)):
            self.standing.reason = "time limit"
            trainer.should_stop = True

    def _time_is_up(self, guess: float) -> bool:
        """Whether the time left is just enough to validate, which is taken to need `guess` seconds before the first
        time."""
        needed = self._validation_seconds or guess or self._finishing
        return self.job.time_limit is not None and self.elapsed + needed >= self.job.time_limit

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.stop.check()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_seconds = time.monotonic() - self._validation_began

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop.check()
        assert isinstance(pl_module, Training)
        epoch = self.standing.epochs = trainer.current_epoch + 1
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        row = {"epoch": float(epoch), "seconds": time.monotonic() - self._epoch_began, "learning_rate": rate}
        self._report_steps(epoch, pl_module)
        self.say(Metric(epoch=epoch, name="learning_rate", split="train", value=rate))
        if self._memory is not None:
            row["memory_mb"] = self._memory.peak
            self.standing.peak_memory_mb = max(self.standing.peak_memory_mb, self._memory.peak)
            self.say(Metric(epoch=epoch, name="memory_mb", split="train", value=self._memory.peak))
        for split in ("train", "validation"):
            for (name, output), value in pl_module.tallies[split].numbers().items():
                if isfinite(value):
                    row[column(split, name, output)] = value
                    self.say(Metric(epoch=epoch, name=name, split=split, output=output, value=value))
            for label, value in zip(self.job.model.classes, pl_module.tallies[split].class_ious(), strict=True):
                if isfinite(value):
                    self.say(Metric(epoch=epoch, name=f"iou {label}", split=split, value=value))
        self.folder.add(row)
        for tracker in self.trackers:
            tracker.add(epoch, row)
        self._keep_best(pl_module, row)
        if not self.standing.reason:
            self._decide(trainer, row)
        # Several processes save together, so none of them may skip this.
        if self._saving.due or self.standing.reason or trainer.world_size > 1:
            with self._saving.doing(), aside(self.folder.checkpoint) as file:
                # with the optimiser's state, to go on from; it is only ever read with weights_only=True
                trainer.save_checkpoint(file, weights_only=False)
        if time.monotonic() - self._last_curves >= _CURVES_SECONDS:
            self.draw()

    def _report_steps(self, epoch: int, module: Training) -> None:
        """Write the numbers of the epoch's steps, tell them to the trackers, and report those of the fused output."""
        numbers = module.tallies["train"].step_numbers()
        if not numbers:
            return
        last = self.standing.steps
        wanted = {key: values.tolist() for key, values in numbers.items() if key[0] in self.job.step_metrics}
        self.folder.add_steps(epoch, last, wanted)
        for tracker in self.trackers:
            tracker.add_steps(last, wanted)
        for name in self.job.step_metrics:
            self.say(StepMetrics(epoch=epoch, name=name, values=thinned(numbers[name, FUSED])))

    def _keep_best(self, module: Training, row: dict[str, float]) -> None:
        """Save the model when its smoothed validation is the best so far; without validation, save each last model."""
        standing = self.standing
        if not isfinite(row.get(column("validation", "loss", "fused"), float("inf"))):
            if self._keeping.due:
                if module.average is not None:
                    module.windows.calibration()  # read once, and needed at the end anyway
                with self._keeping.doing():
                    self._keep(module, row, finished=False)
            return
        decides = watched_metric(self.job.optimiser.best_metric)
        value, loss = self._smoothed(decides), self._smoothed(WatchedMetric(None, "loss", FUSED))
        height = decides.height(value) if value is not None else 0.0 if decides.name != "loss" else -float("inf")
        loss = float("inf") if loss is None else loss
        equal = height >= standing.best_iou - _BETTER and loss < standing.best_loss
        if not standing.best_epoch or height > standing.best_iou + _BETTER or equal:
            standing.best_iou, standing.best_loss = height, loss
            self.summary["validation_groups"] = module.validation_groups()
            self._keep(module, row, finished=True)

    def _smoothed(self, metric: WatchedMetric) -> float | None:
        """Mean over the last epochs of a number; None where there is none."""
        key = column(metric.split or "validation", metric.name, metric.output)
        values = [row[key] for row in self.folder.rows[-_SMOOTHED:] if key in row]
        return sum(values) / len(values) if values else None

    def _keep(self, module: Training, row: dict[str, float], finished: bool) -> None:
        """Save the present model; unless `finished`, with batch-norm statistics of a few batches only."""
        self.standing.best_epoch = self.standing.epochs
        self.summary |= {
            "best_epoch": self.standing.best_epoch,
            "validation": self.scores("validation", row),
            "train": self.scores("train", row),
        }
        model = module.kept() if finished else module.kept_for_now(alone=module.trainer.world_size == 1)
        save_model(model, self.folder.model, dict(self.summary))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if not trainer.val_dataloaders and self.folder.rows:
            # New statistics would need all processes, but this callback runs in the first one only.
            self._keep(pl_module, self.folder.rows[-1], finished=trainer.world_size == 1)
        save_model(pl_module.model, self.folder.last, self.summary | {"kept": "last", "steps": self.standing.steps})

    def cancelled(self, module: Training) -> None:
        """Keep the model that the person wants: the best, or for "last", and without validation, the newest."""
        if self.stop.keep == "last" and self.standing.steps:
            summary = self.summary | {"kept": "last", "steps": self.standing.steps}
            save_model(module.model, self.folder.model, summary)
        elif self.stop.keep != "none" and self.standing.epochs and not isfinite(self.standing.best_loss):
            self._keep(module, self.folder.rows[-1], finished=False)

    def scores(self, split: str, row: dict[str, float]) -> dict[str, dict[str, float]]:
        """The numbers of an epoch: for each output those in `METRICS`."""
        named = {
            output: {n: row[column(split, n, output)] for n in METRICS if column(split, n, output) in row}
            for output in measured(self.job.model.outputs)
        }
        return {output: numbers for output, numbers in named.items() if numbers}

    def _decide(self, trainer: pl.Trainer, row: dict[str, float]) -> None:
        """End the training after the last epoch, or when early stopping applies."""
        standing, options = self.standing, self.job.optimiser
        if standing.epochs >= self.job.epochs:
            standing.reason = "epochs"
        elif self._time_is_up(0.0):
            standing.reason = "time limit"
            trainer.should_stop = True
        elif (low := self._low_loss(row)) is not None:
            standing.reason = "low loss"
            trainer.should_stop = True
            self.say(Message(text=f"The loss is {low:.4g}, below {options.stop_loss:g}: training ends here."))
        elif options.stop_after is not None and self._stalled(row, options.stop_after):
            standing.reason = "no better"
            trainer.should_stop = True
            name = watched_metric(options.stop_metric).words
            self.say(Message(text=f"No better {name} for {options.stop_after} epochs: training ends here."))

    def _low_loss(self, row: dict[str, float]) -> float | None:
        """The loss of the fused output, of the validation or else the training, if it is below that of the job."""
        limit = self.job.optimiser.stop_loss
        if limit is None:
            return None
        loss = row.get(column("validation", "loss", FUSED), row.get(column("train", "loss", FUSED), float("inf")))
        return loss if loss < limit else None

    def _stalled(self, row: dict[str, float], patience: int) -> bool:
        """Whether the watched number has not improved for `patience` epochs; never without validation, if it is one
        of the validation."""
        standing, options = self.standing, self.job.optimiser
        metric = watched_metric(options.stop_metric)
        value = self._smoothed(metric)
        if value is None:
            validated = column("validation", "loss", "fused") in row
            standing.stop_epoch = standing.stop_epoch if validated else standing.epochs
        else:
            height = metric.height(value)
            if standing.stop_best is None or height > standing.stop_best + options.min_delta:
                standing.stop_best, standing.stop_epoch = height, standing.epochs
        return standing.epochs - standing.stop_epoch >= patience

    def draw(self, at_end: bool = False) -> None:
        """Write the curves of loss and IoU, and at the end of a training that was not short those of all numbers."""
        self._last_curves = time.monotonic()
        if not self.folder.with_pictures:
            return
        folder, best, threshold = self.folder, self.standing.best_epoch or None, self.job.optimiser.stop_loss
        draw_curves(folder.rows, folder.outputs, folder.curves, best, threshold)
        if at_end and self.elapsed >= _ALL_CURVES_AFTER:
            draw_curves(folder.rows, folder.outputs, folder.scores, best, threshold, ALL_CURVES)

    def state_dict(self) -> dict[str, Any]:
        """The progress of the run and the summary of the kept model, for the checkpoint."""
        return {"standing": asdict(self.standing), "summary": self.summary}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
        self.standing = RunProgress(**state_dict["standing"])
        self.standing.reason = ""
        # values of this session are newer than those of the checkpoint
        self.summary = dict(state_dict["summary"]) | self.summary


_POINTS = 100


def thinned(values: npt.NDArray[np.float64]) -> list[float | None]:
    """At most some 100 means of a row of numbers, evenly over it; None where none of a part is defined."""
    parts = np.array_split(values, min(_POINTS, len(values)))
    known = [part[np.isfinite(part)] for part in parts]
    return [float(part.mean()) if part.size else None for part in known]


def device_arguments(device: torch.device) -> dict[str, Any]:
    """The arguments of Lightning's Trainer for the device."""
    if device.type == "cuda":
        return {"accelerator": "gpu", "devices": [device.index or 0]}
    return {"accelerator": device.type, "devices": 1}
