"""The search for the options with which a training scores best: trials one after the other, and what comes of them."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from napari_msunet.config import TuneJob
from napari_msunet.config.search import label_of
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event, Message, Progress, Result, TrialDone
from napari_msunet.events import check as check_stop
from napari_msunet.labels.lock import WriterLock
from napari_msunet.training.record import begin_folder
from napari_msunet.training.search.results import (
    best_interval,
    best_of,
    draw,
    importances,
    keep_models,
    write_best,
    write_report,
    write_table,
)
from napari_msunet.training.search.study import AskedTrial, SearchStudy, check_optuna, comparable, without_password
from napari_msunet.training.search.trials import Row, SharedWork, finished_row, prepare, run_trial
from napari_msunet.training.search.workers import SearchWorker, working

_JOB = "search.json"
_POLL_SECONDS = 0.5


def tune_events(job: TuneJob) -> Iterator[Event]:
    """Search for the options with which a training scores best on groups that it has not seen.

    Closing the iterator keeps the finished trials; the same job with `resume` goes on, and with more `trials` adds
    some. Several processes with the same `storage` and `study` search together.

    Parameters
    ----------
    job : TuneJob

    Yields
    ------
    Event
        `Message`, `TrialDone` and `Progress` (trials), and at the end a `Result` with ``"best"`` (trial, Dice, its
        interval over groups, its values), ``"trials"`` (all rows), ``"importance"`` of each field, ``"seconds"``, and
        ``"between"``, the share of the time in which this process ran no trial.

    Raises
    ------
    SourceError
        If the images cannot be used, or nothing of them can be held out.
    OutputError
        If `job.out` or the storage holds something else, or cannot be written.
    StoreLockedError
        If another process searches in `job.out`.
    MsunetError
        If no trial could run.
    """
    check_optuna()
    shown = job if job.storage is None else job.model_copy(update={"storage": without_password(job.storage)})
    begin_folder(job.out / _JOB, shown, "a search", comparable)
    lock = WriterLock(job.out, f"The search in {job.out}")
    lock.acquire()
    try:
        yield from _search(job)
    finally:
        lock.release()


def worker_events(job: TuneJob, worker: int) -> Iterator[Event]:
    """Take trials of a search that another process of this machine leads."""
    work = prepare(job, lambda level, text: None)
    with SearchStudy(job, work.fingerprint, worker) as study:
        yield from _take_trials(work, study, set())


def _search(job: TuneJob) -> Iterator[Event]:
    if job.workers > 1 and job.threads is None:
        job = job.model_copy(update={"threads": max(1, (os.cpu_count() or 1) // job.workers)})
    first: list[Message] = []
    work = prepare(job, lambda level, text: first.append(Message(level=_level(level), text=text)))
    yield from first
    try:
        with SearchStudy(job, work.fingerprint) as study:
            yield from _going_on(job, study)
            started = time.monotonic()
            with working(job, job.workers - 1) as workers:
                between = yield from _lead(work, study, workers, {message.text for message in first})
            elapsed, rows = time.monotonic() - started, study.rows()
    finally:
        work.images.release()
    yield from _finish(work, rows, elapsed, between)


def _going_on(job: TuneJob, study: SearchStudy) -> Iterator[Event]:
    """Put in order what an earlier start has left, and plan a grid."""
    begun_again = study.adopt(lambda number: finished_row(job.out, number))
    if begun_again:
        yield Message(text=f"{begun_again} trials were under way when the search ended: they begin again.")
    if job.sampler == "grid" and (points := study.fill_grid()) < job.trials:
        yield Message(text=f"The grid has {points} points, so there are no more trials than that.")
    if rows := study.rows():
        yield Message(text=f"Of {job.trials} trials, {len(rows)} have ended before.")


def _level(level: str) -> Any:
    return "warning" if level == "warning" else "info"


# ----------------------------------------------------------------------------------------------------- taking trials


def _take_trials(work: SharedWork, study: SearchStudy, said: set[str]) -> Iterator[Event]:
    """Run trials until there are as many as the job wants; what was `said` before is not said again."""
    while (asked := study.ask()) is not None:
        row = yield from _take(work, study, asked, said)
        yield TrialDone(number=asked.number, row=row)


def _take(work: SharedWork, study: SearchStudy, asked: AskedTrial, said: set[str]) -> Generator[Event, None, Row]:
    """Run one trial. What each training says is said once in the search: it is nearly always the same."""
    known: Row = {"trial": asked.number, "values": asked.point, "worker": study.worker}
    if asked.predicted is not None:
        known |= {"predicted": asked.predicted, "predicted_deviation": asked.predicted_deviation}
    ended = False
    try:
        yield Message(text=f"Trial {asked.number}: {_words(asked.point)}.")
        trial = run_trial(work, known, lambda dice, fold: study.is_bad(asked, dice, fold))
        row: Row = yield from _new_only(trial, said)
        ended = True  # the row is in its folder now, whatever happens to the database
        study.tell(asked.number, row)
    except BaseException:
        if not ended and not study.lost:
            study.interrupt(asked.number)
        raise
    return row


def _new_only(events: Generator[Event, None, Row], said: set[str]) -> Generator[Event, None, Row]:
    """The events without sentences that were said before."""
    try:
        while True:
            event = next(events)
            if not isinstance(event, Message) or event.text not in said:
                yield event
            if isinstance(event, Message):
                said.add(event.text)
    except StopIteration as end:
        row: Row = end.value
        return row
    finally:
        events.close()


def _lead(
    work: SharedWork, study: SearchStudy, workers: Sequence[SearchWorker], said: set[str]
) -> Generator[Event, None, float | None]:
    """Run trials, and tell of those of all processes; return the share of the time between those of this process."""
    job = work.job
    before = study.rows()
    known = {row["trial"] for row in before}
    started, busy = time.monotonic(), 0.0
    for event in _take_trials(work, study, said):
        if not isinstance(event, TrialDone):
            yield event
            continue
        busy += event.row["seconds"]
        yield from _tell(work, study.rows(), known, (len(before), started))
    between = 1 - busy / (time.monotonic() - started) if busy else None
    while any(worker.running for worker in workers):
        check_stop()
        time.sleep(_POLL_SECONDS)
        yield from _tell(work, study.rows(), known, (len(before), started))
    yield from _tell(work, study.rows(), known, (len(before), started))
    for worker in workers:
        if worker.problem:
            yield Message(level="warning", text=worker.problem)
    if workers and study.adopt(lambda number: finished_row(job.out, number)):  # a worker that ended left some
        yield from _lead(work, study, (), said)
    return between


def _tell(work: SharedWork, rows: Sequence[Row], known: set[int], since: tuple[int, float]) -> Iterator[Event]:
    """Write the table, and tell of the trials that are new in it."""
    new = [row for row in rows if row["trial"] not in known]
    if not new:
        return
    job = work.job
    known |= {row["trial"] for row in new}
    write_table(job.out, rows, list(job.searched), work.folds)
    best = best_of(rows)
    if best is not None and best in new:
        write_best(work, best)
        keep_models(job.out, best["trial"])
    for row in new:
        yield TrialDone(number=row["trial"], row=row)
        yield Message(level="warning" if "error" in row else "info", text=_told(row, best))
    pace = (time.monotonic() - since[1]) / max(1, len(rows) - since[0])
    left = pace * max(0, job.trials - len(rows))
    yield Progress(done=len(rows), total=job.trials, unit="trials", seconds_left=left)


def _told(row: Row, best: Row | None) -> str:
    """The end of a trial as a sentence."""
    name = f"Trial {row['trial']}"
    if "error" in row:
        return f"{name} cannot run: {row['error']}"
    if row["outcome"] == "pruned":
        return f"{name} ended after {len(row['folds'])} folds: Dice {row['dice']:.3f}, worse than most others there."
    if best is None or best["trial"] == row["trial"]:
        return f"{name}: Dice {row['dice']:.3f}, the best so far."
    return f"{name}: Dice {row['dice']:.3f} (best so far: {best['dice']:.3f}, trial {best['trial']})."


def _words(values: dict[str, Any]) -> str:
    """The values of a point in words, the last parts of the names only."""
    return ", ".join(f"{name.rpartition('.')[2]} {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else label_of(value)


# ----------------------------------------------------------------------------------------------------------- the end


def _finish(work: SharedWork, rows: Sequence[Row], elapsed: float, between: float | None) -> Iterator[Event]:
    """Write what came of the search, and say it."""
    job = work.job
    best = best_of(rows)
    write_table(job.out, rows, list(job.searched), work.folds)
    if best is None:
        first = next((row["error"] for row in rows if "error" in row), "there were none")
        raise MsunetError(f"None of the {len(rows)} trials could run; the first says: {first}")
    interval = best_interval(job.out, best)
    files = {"best": write_best(work, best), "trials": job.out / "trials.csv"} | draw(job, rows)
    values = {
        "best": {
            "trial": best["trial"],
            "dice": best["dice"],
            "deviation": best.get("deviation"),
            "interval": interval,
        },
        "values": best["values"],
        "folds": work.folds,
        "importance": importances(job, rows),
        "counts": {name: sum(row["outcome"] == name for row in rows) for name in ("scored", "pruned", "failed")},
        "seconds": round(elapsed, 2),
        "between": None if between is None else round(between, 4),
        "trials": list(rows),
    }
    files["report"] = write_report(job.out, values)
    yield Message(text=_conclusion(work, best, interval, values["counts"]["scored"]))
    yield Result(values=values, files={name: str(Path(path)) for name, path in files.items()})


def _conclusion(work: SharedWork, best: Row, interval: list[float] | None, scored: int) -> str:
    """The best trial in words."""
    over = f"mean over {work.folds} folds" if work.folds > 1 else "on what was held out"
    within = f", 95 % over groups {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
    text = f"The best is trial {best['trial']}: Dice {best['dice']:.3f} ({over}{within}) with {_words(best['values'])}."
    if scored > 1:
        text += f" As the best of {scored} it may be somewhat worse on new images. best.json trains it on all images."
    return text
