"""The study of a search: which trials there are, kept in a database, and which comes next, chosen by Optuna."""

from __future__ import annotations

import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import psutil

from napari_msunet.config import TrainJob, TuneJob
from napari_msunet.config.search import SearchChoices, SearchRange, fields_at, grid_points, is_whole
from napari_msunet.errors import MsunetError, OutputError
from napari_msunet.events import check as check_stop
from napari_msunet.training.experiments import using_threads

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

FILE = "search.db"
PATIENCE_SECONDS = 15.0
"""How long a server that does not answer is waited for."""

_PAUSE = 0.5
_STARTUP = 10
"""Trials that are drawn at random before a Gaussian process or Parzen estimators choose."""

_OVERDUE = 10.0, 900.0  # after so many times its time, and so many seconds more, a trial of another machine is given up
_FREE = {"out", "resume", "trials", "storage", "study", "workers", "threads", "sampler", "pruner", "space"}
_FREE_OF_TRAINING = {"out", "resume", "device", "validation", "test", "fold"}

Found = TypeVar("Found")


class AskedTrial(NamedTuple):
    """A trial that is to be run.

    Attributes
    ----------
    number : int
        Its number in the study, from 0.
    point : dict
        A value for each field of the space; choices by their labels.
    predicted, predicted_deviation : float, optional
        The Dice that the Gaussian process expects there, and the standard deviation of what would be measured.
    trial : optuna.Trial
    """

    number: int
    point: dict[str, Any]
    predicted: float | None
    predicted_deviation: float | None
    trial: optuna.Trial


def comparable(job: TuneJob) -> dict[str, Any]:
    """What must stay the same when a search goes on: everything but where, how long and by which sampler."""
    own: dict[str, Any] = json.loads(job.model_dump_json(exclude=_FREE | {"training"}))
    training: dict[str, Any] = json.loads(job.training.model_dump_json(exclude=_FREE_OF_TRAINING))
    return own | training | {"space": {name: json.loads(e.model_dump_json()) for name, e in job.searched.items()}}


def storage_url(job: TuneJob) -> str:
    """The URL of the database, with the driver that is used for PostgreSQL."""
    if job.storage is None:
        return f"sqlite:///{(job.out / FILE).absolute()}"
    for scheme in ("postgresql://", "postgres://"):
        if job.storage.startswith(scheme):
            return f"postgresql+psycopg://{job.storage.removeprefix(scheme)}"
    return job.storage


def without_password(url: str) -> str:
    """A URL that may be shown and kept in files."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which Optuna says nothing by itself: its warnings are for those who program with it."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


class SearchStudy:
    """The study of a search, in a database that other processes may use at the same time.

    Parameters
    ----------
    job : TuneJob
    images : str
        A fingerprint of the images: all processes of a search must have the same.
    worker : int
        The number of this process among those of this machine.

    Attributes
    ----------
    lost : bool
        Whether the database does not answer any more.

    Raises
    ------
    OutputError
        If the database cannot be used, or holds another search of this name.
    """

    def __init__(self, job: TuneJob, images: str, worker: int = 0) -> None:
        self.job = job
        self.url = storage_url(job)
        self.name = job.study or job.out.absolute().name
        self.worker = worker
        self._distributions = distributions(job)
        self._reached = self.lost = False
        self._storage: optuna.storages.RDBStorage | None = None
        try:
            self._study = self._call(lambda: self._open(images))
        except BaseException:
            self.close()
            raise
        self._reached = True

    def __enter__(self) -> SearchStudy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database."""
        if self._storage is not None:
            self._storage.scoped_session.remove()
            self._storage.engine.dispose()

    # --------------------------------------------------------------------------------------------------- the database

    def _open(self, images: str) -> optuna.Study:
        import optuna
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError

        local = self.url.startswith("sqlite")
        reach = {"timeout": 60} if local else {"connect_timeout": 10} if "psycopg" in self.url else {}
        try:
            storage = self._storage = optuna.storages.RDBStorage(
                self.url, {"pool_pre_ping": not local, "connect_args": reach}
            )
        except (ArgumentError, NoSuchModuleError) as error:
            raise OutputError(
                f"The storage {self.shown} is no URL of a database; give one such as "
                "postgresql://user@host/database, or leave it out."
            ) from error
        except ImportError as error:
            raise OutputError(
                f"The driver for the storage {self.shown} is not installed: pip install 'napari-msunet[search]'."
            ) from error
        study = optuna.create_study(
            storage=storage, study_name=self.name, direction="maximize", load_if_exists=True, pruner=pruner_of(self.job)
        )
        self._check_same(study, images)
        study.sampler = sampler_of(self.job, len(study.get_trials(deepcopy=False)), self.worker)
        return study

    def _check_same(self, study: optuna.Study, images: str) -> None:
        now = comparable(self.job)
        now["images"] = images
        now.pop("sources")  # other machines have them in other places
        before = study.user_attrs.get("search")
        if before is None:
            study.set_user_attr("search", now)
            return
        now = json.loads(json.dumps(now))
        if changed := [name for name, value in now.items() if value != before.get(name)]:
            raise OutputError(
                f"{self.shown} holds another search called {self.name}, which differs in {', '.join(changed)}; give "
                "this one another study=..., or the same job."
            )

    @property
    def shown(self) -> str:
        """The database as it is named to people."""
        return str(self.job.out / FILE) if self.job.storage is None else without_password(self.job.storage)

    def _call(self, function: Callable[[], Found]) -> Found:
        """What a function gives that uses the database; a server that was there is waited for."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        ends = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with quiet():
                    return function()
            except (SQLAlchemyError, StorageInternalError) as error:
                patient = self._reached and not self.url.startswith("sqlite")
                if not patient or time.monotonic() > ends:
                    self.lost = True
                    raise self._error(error) from error
            check_stop()
            time.sleep(_PAUSE)

    def _error(self, error: BaseException) -> OutputError:
        """What an error of the database means for the user."""
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).split("\n(Background")[0].split())[:300].rstrip(". ")
        kept = f"the finished trials are kept: resume=True goes on with {self.job.out}"
        if "disk is full" in reason or "No space left" in reason:
            return OutputError(f"{self.shown} cannot be written: the disk is full; free some space. Then {kept}.")
        if not self._reached:
            return OutputError(
                f"The storage {self.shown} cannot be used ({reason}); check its address, and its server."
            )
        return OutputError(
            f"The storage {self.shown} does not answer any more ({reason}): start it again. Then {kept}."
        )

    # ----------------------------------------------------------------------------------------------------- the trials

    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order of their numbers."""
        return self._call(lambda: self._study.get_trials(deepcopy=False))

    def rows(self) -> list[dict[str, Any]]:
        """A row for each trial that has ended, in this process or in another one."""
        return [trial.user_attrs["row"] for trial in self.trials() if "row" in trial.user_attrs]

    def fill_grid(self) -> int:
        """Plan the points of a grid that are missing, and return how many points it has in all."""
        job = self.job
        known = {json.dumps(_given(trial), sort_keys=True) for trial in self.trials()}
        points = list(islice(grid_points(job.searched, TrainJob, job.training.seed), job.trials))
        for point in points:
            if json.dumps(point, sort_keys=True) not in known:
                check_stop()
                self._call(lambda point=point: self._study.enqueue_trial(point))  # type: ignore[misc]
        return len(points)

    def ask(self) -> AskedTrial | None:
        """The next trial; None where as many as the job wants have ended or run."""
        from optuna.trial import TrialState

        trials = self.trials()
        if sum(map(_counts, trials)) >= self.job.trials:
            return None
        if self.job.sampler == "grid" and not any(t.state == TrialState.WAITING for t in trials):
            return None

        def ask() -> optuna.Trial:
            with using_threads(1):  # on small matrices several threads only wait for each other: six times the time
                trial = self._study.ask(self._distributions)
            trial.set_user_attr("by", _this_process())
            return trial

        sampler = self._study.sampler
        if hasattr(sampler, "predicted"):
            sampler.predicted = None, None
        trial = self._call(ask)
        before = [t for t in self.trials() if _counts(t) and t.number < trial.number]
        if len(before) >= self.job.trials:  # another process has taken the last one at the same time
            self._end(trial.number, {"outcome": "surplus"})
            return None
        mean, deviation = getattr(sampler, "predicted", (None, None))
        return AskedTrial(trial.number, dict(trial.params), mean, deviation, trial)

    def is_bad(self, asked: AskedTrial, dice: float, step: int) -> bool:
        """Note the mean Dice over the first folds, and return whether the trial is to end here."""

        def judge() -> bool:
            asked.trial.report(dice, step)
            return bool(asked.trial.should_prune())

        return self._call(judge)

    def tell(self, number: int, row: Mapping[str, Any]) -> None:
        """Note the row of a trial that has ended.

        Optuna does not see everything as it is. To a sampler that models the scores, a trial that cannot run is as bad
        as the worst one so far, since it would else be suggested again and again; and the Gaussian process, which knows
        no trials that were ended early, is given their score so far.
        """
        from optuna.trial import TrialState

        outcome, dice = row["outcome"], row.get("dice")
        models = self.job.sampler in ("gp", "tpe")
        value, state = None, TrialState.FAIL
        if outcome == "scored" or (outcome == "pruned" and self.job.sampler == "gp"):
            value, state = dice, TrialState.COMPLETE
        elif outcome == "pruned":
            state = TrialState.PRUNED
        elif models and outcome == "failed":
            scores = [r["dice"] for r in self.rows() if r.get("dice") is not None]
            value, state = min(scores, default=0.0), TrialState.COMPLETE
        self._note(number, "row", dict(row))
        self._call(lambda: self._study.tell(number, value, state, skip_if_finished=True))

    def _end(self, number: int, attributes: Mapping[str, Any]) -> None:
        """End a trial that does not count."""
        from optuna.trial import TrialState

        for name, value in attributes.items():
            self._note(number, name, value)
        self._call(lambda: self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True))

    def _note(self, number: int, name: str, value: Any) -> None:
        """Keep an attribute with a trial that has not ended."""

        def note() -> None:
            assert self._storage is not None  # for the type checker
            study = self._storage.get_study_id_from_name(self.name)
            trial = self._storage.get_trial_id_from_study_id_trial_number(study, number)
            self._storage.set_trial_user_attr(trial, name, value)

        self._call(note)

    def interrupt(self, number: int) -> None:
        """End a trial that was stopped, and plan the same point again."""
        trial = self.trials()[number]
        again = int(trial.user_attrs.get("again", 0)) + 1
        self._end(number, {"outcome": "interrupted"})
        self._call(lambda: self._study.enqueue_trial(dict(trial.params), user_attrs={"again": again}))

    def adopt(self, finished: Callable[[int], Mapping[str, Any] | None]) -> int:
        """Put trials in order whose process has ended without a word, and return how many had to begin again.

        Parameters
        ----------
        finished : callable
            The row of a trial that is in the folder of this search, by its number; None where there is none.
        """
        from optuna.trial import TrialState

        begun_again = 0
        for trial in self.trials():
            if trial.state != TrialState.RUNNING:
                continue
            row = trial.user_attrs.get("row") or finished(trial.number)
            if row is not None:
                self.tell(trial.number, row)
            elif self._is_left(trial):
                again = int(trial.user_attrs.get("again", 0))
                if again < 1:
                    self.interrupt(trial.number)
                    begun_again += 1
                else:
                    error = "Its process ended twice without a word; perhaps it needs more memory than there is."
                    lost = {"trial": trial.number, "outcome": "failed", "values": dict(trial.params), "error": error}
                    self.tell(trial.number, lost)
        return begun_again

    def _is_left(self, trial: FrozenTrial) -> bool:
        """Whether the process that ran a trial is gone."""
        by = trial.user_attrs.get("by")
        age = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
        if by is None:
            return age > 60
        if by["host"] == socket.gethostname():
            if by["pid"] == os.getpid():  # of an earlier search in this process: it asks only after this
                return True
            try:
                return bool(abs(psutil.Process(by["pid"]).create_time() - by["since"]) > 1)
            except psutil.Error:
                return True
        return age > _OVERDUE[0] * self.job.folds * (self.job.training.time_limit or 60.0) + _OVERDUE[1]


def _given(trial: FrozenTrial) -> dict[str, Any]:
    """The point of a trial, also of one that only waits."""
    waiting: dict[str, Any] = trial.system_attrs.get("fixed_params") or {}
    return dict(trial.params) or waiting


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that a job wants."""
    from optuna.trial import TrialState

    return "row" in trial.user_attrs or (trial.state == TrialState.RUNNING and trial.user_attrs.get("outcome") is None)


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": psutil.Process().create_time()}


# ----------------------------------------------------------------------------------------------------------------------
# The space, the samplers and the pruners in Optuna's words.


def distributions(job: TuneJob) -> dict[str, BaseDistribution]:
    """The space as Optuna's distributions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name, entry in job.searched.items():
        if isinstance(entry, SearchChoices):
            found[name] = CategoricalDistribution(entry.labels)
        elif is_whole(fields_at(TrainJob, name)):
            step = int(entry.step or 1)
            high = int(entry.low) + (int(entry.high) - int(entry.low)) // step * step
            found[name] = IntDistribution(int(entry.low), high, log=entry.log, step=step)
        else:
            found[name] = FloatDistribution(entry.low, _last(entry), log=entry.log, step=entry.step)
    return found


def _last(entry: SearchRange) -> float:
    """The highest value that the steps of a range reach."""
    return entry.high if entry.step is None else float(entry.levels(whole=False)[-1])


def pruner_of(job: TuneJob) -> optuna.pruners.BasePruner:
    """Optuna's pruner; its steps are the folds."""
    from optuna import pruners

    if job.pruner == "median" and job.folds > 1:
        return pruners.MedianPruner(n_startup_trials=5)
    if job.pruner == "hyperband" and job.folds > 1:
        return pruners.HyperbandPruner(min_resource=1, max_resource=job.folds, reduction_factor=2)
    return pruners.NopPruner()


def sampler_of(job: TuneJob, trials: int, worker: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler.

    Its random numbers depend on how many trials there were when this process began, so that a search that goes on, or a
    second process, does not draw the same points again.
    """
    from optuna import samplers

    seed = int(np.random.SeedSequence([job.training.seed % 2**32, trials, worker]).generate_state(1)[0])
    with quiet():
        if job.sampler == "gp":
            return _predicting_sampler()(seed=seed, n_startup_trials=_STARTUP, warn_independent_sampling=False)
        if job.sampler == "tpe":
            return samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP)
        return samplers.RandomSampler(seed=seed)  # the points of a grid are planned before


def _predicting_sampler() -> type[optuna.samplers.GPSampler]:
    """The Gaussian process of Optuna, which also tells what it expects at the point that it suggests.

    The class is made here, because Optuna is imported only where a search runs.
    """
    import torch
    from optuna.samplers import GPSampler
    from optuna.trial import TrialState

    class PredictingSampler(GPSampler):
        predicted: tuple[float | None, float | None] = (None, None)
        _values: tuple[float, ...] = ()

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            self._values = tuple(float(t.value) for t in done)
            found: dict[str, Any] = super().sample_relative(study, trial, search_space)
            return found

        def _optimize_acqf(self, acqf: Any, best_params: Any) -> Any:
            # No public method gives the process itself. Where a later version of Optuna has another one in this place,
            # the columns of predictions stay empty.
            point = super()._optimize_acqf(acqf, best_params)
            process = getattr(acqf, "_gpr", None)
            if process is not None and hasattr(process, "posterior"):
                with torch.no_grad():
                    mean, variance = process.posterior(torch.from_numpy(np.asarray(point, np.float64)))
                centre, spread = float(np.mean(self._values)), float(np.std(self._values)) or 1.0
                noise = float(process.noise_var)
                self.predicted = centre + spread * float(mean), spread * sqrt(float(variance) + noise)
            return point

    return PredictingSampler


def check_optuna() -> None:
    """Raise `MsunetError` where Optuna is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise MsunetError("The search needs Optuna: pip install optuna.") from error
    del optuna
