"""Sending the metrics of a training to TensorBoard and MLflow, whose packages are imported only where they are used."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from napari_msunet.config import TrainJob
from napari_msunet.errors import MsunetError
from napari_msunet.training.record import flat_settings

EXPERIMENT = "napari-msunet"
_LONGEST = 500
"""Longest text of a setting, which all MLflow servers accept."""
_MOST_METRICS = 1000
"""Most numbers that MLflow takes at once."""

StepNumbers: TypeAlias = Mapping[tuple[str, str], Sequence[float]]
"""For (name, output) the number of each step of an epoch."""


# Not Lightning's loggers: they hang on a Trainer and its module's `self.log`, while the numbers here are the columns of
# metrics.csv, also after a resumed run has dropped the epochs after its last checkpoint.
class Tracker(Protocol):
    """A program that gets the metrics of each epoch."""

    def add(self, epoch: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of an epoch, by the columns of metrics.csv."""

    def add_steps(self, last: int, numbers: StepNumbers) -> None:
        """Add the numbers of each step of an epoch, whose last step is number `last`, by name and output."""

    def close(self, values: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """End with the result of a run and its files; both are empty if the run did not finish."""


class TensorBoard:
    """Scalars in `folder`, for ``tensorboard --logdir``; a resumed run adds to them."""

    def __init__(self, job: TrainJob, folder: Path) -> None:
        _needed("tensorboard")
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        self.writer: Any = writer(str(folder))
        self.writer.add_text("job", f"```\n{job.model_dump_json(indent=2)}\n```")

    def add(self, epoch: int, numbers: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in numbers.items():
            if name != "epoch" and isfinite(value):
                self.writer.add_scalar(tag(name), value, epoch)
        self.writer.flush()

    def add_steps(self, last: int, numbers: StepNumbers) -> None:
        """See `Tracker`."""
        for step, name, value in _by_step(last, numbers):
            self.writer.add_scalar(name, value, step)

    def close(self, values: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """See `Tracker`."""
        self.writer.close()


class MLflow:
    """A run of the experiment "napari-msunet" in a local file store, or on a server.

    Parameters
    ----------
    job : TrainJob
    uri : str
        A folder, or the address of a server.
    """

    def __init__(self, job: TrainJob, uri: str) -> None:
        _needed("mlflow")
        local = "://" not in uri
        self._address = Path(uri).absolute().as_uri() if local else uri
        mlflow = import_module("mlflow")
        self._errors: type[Exception] = mlflow.exceptions.MlflowException
        self._metric: Any = mlflow.entities.Metric
        with self._calls():
            self.client = mlflow.MlflowClient(tracking_uri=self._address)
            found = self.client.get_experiment_by_name(EXPERIMENT)
            number = found.experiment_id if found else self.client.create_experiment(EXPERIMENT)
            run = self.client.create_run(number, run_name=job.out.name, tags={"folder": str(job.out)})
            self.run = run.info.run_id
            for name, value in flat_settings(json.loads(job.model_dump_json())).items():
                self.client.log_param(self.run, name, str(value)[:_LONGEST])

    def add(self, epoch: int, numbers: Mapping[str, float]) -> None:
        """See `Tracker`."""
        with self._calls():
            now = int(time.time() * 1000)
            found = {tag(name): value for name, value in numbers.items() if name != "epoch" and isfinite(value)}
            self._log([self._metric(name, value, now, epoch) for name, value in found.items()])

    def add_steps(self, last: int, numbers: StepNumbers) -> None:
        """See `Tracker`."""
        with self._calls():
            now = int(time.time() * 1000)
            self._log([self._metric(name, value, now, step) for step, name, value in _by_step(last, numbers)])

    def _log(self, metrics: Sequence[Any]) -> None:
        for first in range(0, len(metrics), _MOST_METRICS):
            self.client.log_batch(self.run, metrics=metrics[first : first + _MOST_METRICS])

    def close(self, values: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """See `Tracker`."""
        with self._calls():
            for path in files.values():
                if Path(path).suffix != ".ckpt":
                    self.client.log_artifact(self.run, path)
            self.client.set_terminated(self.run, "FINISHED" if values else "KILLED")

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """A context that turns MLflow's errors into a sentence, and allows its file store, which MLflow warns about."""
        name = "MLFLOW_ALLOW_FILE_STORE"
        before = os.environ.get(name)
        os.environ[name] = "true"
        try:
            yield
        except (self._errors, OSError) as error:
            reason = str(error).splitlines()[0][:200]
            raise MsunetError(f"MLflow at {self._address} cannot be told ({reason}); correct track_uri.") from error
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


def trackers_of(job: TrainJob) -> list[Tracker]:
    """The trackers that the job asks for.

    Raises
    ------
    MsunetError
        If a package is not installed, or a server does not answer.
    """
    found: list[Tracker] = []
    if "tensorboard" in job.track:
        found.append(TensorBoard(job, job.out / "tensorboard"))
    if "mlflow" in job.track:
        found.append(MLflow(job, job.track_uri or str(job.out / "mlruns")))
    return found


class Tracking:
    """The trackers of a run, as one."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers
        self._ended = False

    def end(self, values: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """Send the result to all trackers, only once."""
        if not self._ended:
            self._ended = True
            for tracker in self.trackers:
                tracker.close(values, files)


@contextmanager
def tracked(job: TrainJob | None) -> Iterator[Tracking]:
    """A context with the trackers of a job, which are closed however it ends."""
    tracking = Tracking(trackers_of(job) if job else ())
    try:
        yield tracking
    finally:
        tracking.end({}, {})


def tag(column: str) -> str:
    """A column of metrics.csv as a tag that both group: ``validation_iou_scale 1/2`` is ``iou/validation scale
    1-2``."""
    split, _, rest = column.partition("_")
    if split not in ("train", "validation"):
        return column
    score, _, output = rest.partition("_")
    return f"{score}/{split} {output.replace('/', '-')}"


def _by_step(last: int, numbers: StepNumbers) -> Iterator[tuple[int, str, float]]:
    """Each defined number with its step and tag, such as ``loss by step/scale 1-2``."""
    for (metric, output), values in numbers.items():
        name = f"{metric} by step/{output.replace('/', '-')}"
        for step, value in enumerate(values, start=last - len(values) + 1):
            if isfinite(value):
                yield step, name, float(value)


def _needed(package: str) -> None:
    try:
        import_module(package)
    except ImportError as error:
        raise MsunetError(
            f"Tracking needs {package}, which is not installed; install it: pip install 'napari-msunet[tracking]'."
        ) from error
