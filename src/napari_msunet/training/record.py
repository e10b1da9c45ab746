"""The folder of a training run, with its job, metrics, curves, model and checkpoint."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
from pydantic import ValidationError

from napari_msunet._io import append, csv_text, make_folder, read_json, read_rows, write_json, write_text
from napari_msunet.config import (
    AutoModel,
    ContextJob,
    CrossValidateJob,
    ExperimentJob,
    SettledTrainJob,
    TrainJob,
    TuneJob,
)
from napari_msunet.config.training import MEAN_OF_SCALES, METRICS
from napari_msunet.data.recipe import UNLIMITED_EPOCHS
from napari_msunet.errors import OutputError, StoreError

if TYPE_CHECKING:
    import torch

J = TypeVar("J", CrossValidateJob, ContextJob, ExperimentJob, TuneJob)

Row = dict[str, float]
"""The numbers of one epoch: "epoch", "seconds", "learning_rate", and others by `column`."""

_FREE = {"epochs", "time_limit", "clock", "resume", "device", "out", "step_metrics", "track", "track_uri"}
"""The fields of a job that may change when a run is resumed."""

_LEARNING = {"optimiser", "augmentation", "find_batch_size", "find_learning_rate"}
"""The fields that do not count for a classical method; the job of its run has them as they were used."""


def column(split: str, name: str, output: str) -> str:
    """The name of a column of metrics.csv, such as ``"validation_iou_scale 1/2"``."""
    return f"{split}_{name}_{output}"


def measured(outputs: Sequence[str]) -> tuple[str, ...]:
    """The outputs of which there are numbers: those of a model, and the mean over its scales where it has several."""
    return (*outputs, MEAN_OF_SCALES) if len(outputs) > 2 else tuple(outputs)


def begin_folder(file: Path, job: J, what: str, comparable: Callable[[J], dict[str, Any]]) -> None:
    """Make the folder of several trainings and write their job into it; where it exists, check that its job is the
    same.

    Parameters
    ----------
    file : Path
        The file of the job, in `job.out`.
    job : CrossValidateJob, ContextJob, ExperimentJob or TuneJob
    what : str
        A word for the work, with its article, such as "an experiment".
    comparable : callable
        Gives the fields of a job that must stay the same when it is resumed, by name.

    Raises
    ------
    OutputError
        If the folder holds another job, or (with `job.resume`) none, or cannot be written.
    """
    noun = what.partition(" ")[2]
    if not file.exists():
        if job.resume:
            raise OutputError(f"There is no {noun} in {job.out} to go on with; start it without resume.")
        make_folder(job.out)
        write_text(file, job.model_dump_json(indent=2))
        return
    if not job.resume:
        raise OutputError(f"{job.out} already holds {what}; give another folder, or resume it.")
    try:
        before = comparable(type(job).model_validate_json(file.read_bytes()))
    except (ValidationError, OSError) as error:
        raise OutputError(f"{file} cannot be read as {what}; start again in another folder.") from error
    if changed := [name for name, value in comparable(job).items() if value != before.get(name)]:
        raise OutputError(
            f"The {noun} in {job.out} was started with another {', '.join(changed)}; resume it with the same job, or "
            "give another folder."
        )


def flat_settings(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, such as "model.fusion"."""
    if not isinstance(values, dict):
        return {prefix: values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat_settings(value, f"{prefix}.{key}" if prefix else key)
    return found


def environment() -> dict[str, Any]:
    """The environment of a run: versions, machine, processors."""
    import torch

    versions = {}
    for package in ("napari-msunet", "torch", "lightning", "numpy", "zarr", "openslide-python", "tifffile"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        "versions": versions,
    }


class Memory:
    """The largest memory of an epoch, in MB: of the device for CUDA, else that of this process after its steps.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._process = psutil.Process()
        self._peak = 0.0
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)

    def look(self) -> None:
        """Look at the memory of the process, which takes some microseconds."""
        if self.device.type != "cuda":
            self._peak = max(self._peak, self._process.memory_info().rss / 1e6)

    @property
    def peak(self) -> float:
        """The largest memory so far."""
        return peak_memory_mb(self.device) if self.device.type == "cuda" else self._peak


def peak_memory_mb(device: torch.device) -> float:
    """The peak memory so far: that of the device for CUDA, else of this process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


class RunFolder:
    """The files of a training on disk.

    Parameters
    ----------
    job : TrainJob
    follows : bool
        Whether this process only helps another one to train; it then writes nothing and does not check the folder.

    Raises
    ------
    OutputError
        If the folder holds another run, or (with `resume`) no run or one of another job.
    """

    def __init__(self, job: TrainJob, follows: bool = False) -> None:
        self.path = job.out
        self.job_file = job.out / "job.json"
        self.model = job.out / "model.safetensors"
        self.checkpoint = job.out / "last.ckpt"
        self.metrics = job.out / "metrics.csv"
        self.steps = job.out / "steps.csv"
        self.curves = job.out / "curves.png"
        self.scores = job.out / "scores.png"
        self.panels = job.out / "panels.png"
        self.last = job.out / "last.safetensors"
        self.environment = job.out / "environment.json"
        self.result_file = job.out / "result.json"
        self.test_set = job.out / "test_set.json"
        self.outputs: tuple[str, ...] = () if isinstance(job.model, AutoModel) else job.model.outputs
        self.step_metrics = job.step_metrics
        self.rows: list[Row] = []
        self.with_pictures = True
        self._header: list[str] | None = None
        self._steps_until: int | None = None
        if follows:
            return
        if job.out.exists() and not job.out.is_dir():
            raise OutputError(f"{job.out} is a file; give a folder for the training run.")
        if job.resume:
            self._check_same(job)
            self.rows = self._read_rows()
        elif self.job_file.exists() or self.model.exists():
            raise OutputError(f"{job.out} already holds a training run; give another folder, or resume it.")

    def _check_same(self, job: TrainJob) -> None:
        """Raise where the folder has another job."""
        if not self.job_file.exists():
            raise OutputError(f"There is no training run in {self.path} to go on with; start it without resume.")
        try:
            old = TrainJob.model_validate_json(self.job_file.read_bytes())
        except (ValidationError, OSError) as error:
            raise OutputError(
                f"{self.job_file} cannot be read as a training job; start again in another folder."
            ) from error
        before, now = json.loads(old.model_dump_json()), json.loads(job.model_dump_json())
        if isinstance(job.model, AutoModel):  # only the fields that are given must be the same
            now["model"] = before["model"] | json.loads(job.model.model_dump_json(include=set(job.model.given)))
        if job.optimiser.stop_after is None:
            now["optimiser"]["stop_after"] = before["optimiser"]["stop_after"]
        free = _FREE | (_LEARNING if old.classical else set())
        changed = [name for name in now if name not in free and now[name] not in (None, before.get(name))]
        if changed:
            raise OutputError(
                f"The run in {self.path} was started with another {', '.join(changed)}; resume it with the same job "
                "(only epochs, time_limit and device may change), or give another folder."
            )

    def begun_job(self, job: TrainJob) -> SettledTrainJob | None:
        """The job with which the folder's run was begun, with the changes that `job` may make; None without
        `job.resume`."""
        if not job.resume:
            return None
        begun = TrainJob.model_validate_json(self.job_file.read_bytes())
        values = {name: getattr(begun, name) for name in TrainJob.model_fields}
        free = {name: getattr(job, name) for name in _FREE}
        if job.epochs is None:
            free["epochs"] = UNLIMITED_EPOCHS if job.time_limit else begun.epochs
        return SettledTrainJob(**values | free)

    def begin(self, job: SettledTrainJob) -> None:
        """Make the folder and write the job."""
        self.outputs = job.model.outputs
        make_folder(self.path)
        write_text(self.job_file, job.model_dump_json(indent=2))
        write_json(self.environment, environment())
        self.result_file.unlink(missing_ok=True)

    def discard(self, job: TrainJob) -> None:
        """Remove the files of a run, and its folder when nothing else is in it; the files of a resumed run stay."""
        if job.resume:
            return
        results = self.model, self.last, self.checkpoint, self.metrics, self.steps, self.panels, self.result_file
        for path in (self.job_file, self.environment, self.test_set, self.curves, self.scores, *results):
            path.unlink(missing_ok=True)
            for aside in self.path.glob(f".{path.name}.*.partial"):
                aside.unlink(missing_ok=True)
        with suppress(OSError):  # the folder has other files in it
            self.path.rmdir()

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of a finished run; None where it is not finished."""
        try:
            return read_json(self.result_file)
        except StoreError:
            return None

    def finish(self, values: dict[str, Any]) -> None:
        """Write the result of the run."""
        write_json(self.result_file, values)

    @property
    def files(self) -> dict[str, str]:
        """The files that exist, by their kind."""
        named = {
            "model": self.model,
            "metrics": self.metrics,
            "steps": self.steps,
            "curves": self.curves,
            "scores": self.scores,
            "panels": self.panels,
            "last": self.last,
            "environment": self.environment,
            "job": self.job_file,
            "checkpoint": self.checkpoint,
        }
        return {name: str(path) for name, path in named.items() if path.exists()}

    # ------------------------------------------------------------------------------------------------------ metrics.csv

    @property
    def columns(self) -> list[str]:
        """The columns of metrics.csv: those that it has, in a run begun when there were fewer, else all."""
        if self._header is not None:
            return self._header

        def numbers(names: Sequence[str], outputs: Sequence[str]) -> list[str]:
            return [column(s, name, output) for s in ("train", "validation") for name in names for output in outputs]

        first = ["epoch", "seconds", "learning_rate", *numbers(("loss", "iou"), self.outputs), "memory_mb"]
        more = numbers(tuple(METRICS), measured(self.outputs))
        return [*first, *(name for name in more if name not in first)]

    def add(self, row: Row) -> None:
        """Append an epoch; those with the same or a later number, from before a resume, are removed."""
        fresh = [r for r in self.rows if r["epoch"] < row["epoch"]]
        if len(fresh) != len(self.rows) or not self.metrics.exists():
            self.rows = [*fresh, row]
            write_text(self.metrics, self._csv(self.rows, header=True))
            return
        self.rows.append(row)
        append(self.metrics, self._csv([row], header=False).encode())

    def _csv(self, rows: Sequence[Row], header: bool) -> str:
        """Rows as text; a number that is not there is an empty cell."""
        cells = [[f"{row[c]:.6g}" if isfinite(row.get(c, nan)) else "" for c in self.columns] for row in rows]
        return csv_text(cells, self.columns if header else None)

    def _read_rows(self) -> list[Row]:
        """The epochs in metrics.csv; an incomplete last line is left out."""
        if not self.metrics.exists():
            return []
        rows: list[Row] = []
        header, found = read_rows(self.metrics)
        self._header = header or None
        for cells in found:
            try:
                row = {c: float(v) for c, v in cells.items() if v}
            except (TypeError, ValueError):
                continue
            if "epoch" in row:
                rows.append(row)
        return rows

    # -------------------------------------------------------------------------------------------------------- steps.csv

    @property
    def step_columns(self) -> list[str]:
        """The columns of steps.csv."""
        return ["step", "epoch", *(f"{m}_{output}" for m in self.step_metrics for output in measured(self.outputs))]

    def add_steps(self, epoch: int, last: int, numbers: Mapping[tuple[str, str], Sequence[float]]) -> None:
        """Append the numbers of each step of an epoch, whose last step is number `last`; see `add`."""
        names = [(metric, output) for metric in self.step_metrics for output in measured(self.outputs)]
        count = len(next(iter(numbers.values()), ()))
        if not count or not names:
            return
        steps = range(last - count + 1, last + 1)
        values = zip(*(numbers[name] for name in names), strict=True)
        new = [
            [str(step), str(epoch), *(f"{v:.6g}" if isfinite(v) else "" for v in row)]
            for step, row in zip(steps, values, strict=True)
        ]
        if self._steps_until is not None and self._steps_until < epoch:
            append(self.steps, csv_text(new).encode())
        else:
            write_text(self.steps, csv_text([*self._steps_before(epoch), *new], self.step_columns))
        self._steps_until = epoch

    def _steps_before(self, epoch: int) -> list[list[str]]:
        """The whole rows of steps.csv of earlier epochs, from before a resume, by the columns of today."""
        if not self.steps.exists():
            return []
        rows = []
        for cells in read_rows(self.steps)[1]:
            try:
                if None not in cells and None not in cells.values() and int(cells["epoch"]) < epoch:
                    rows.append([cells.get(name, "") for name in self.step_columns])
            except (KeyError, TypeError, ValueError):
                continue
        return rows
