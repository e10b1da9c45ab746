"""Experiments: variants of a training on the same folds and seeds in equal processor time, compared group by group."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import isfinite, nan
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from napari_msunet._io import read_json, read_rows, write_json
from napari_msunet.config import ExperimentJob, ModelConfig, ScoreName, SettledTrainJob
from napari_msunet.config.jobs import file_word
from napari_msunet.data import Item, Split, load_sources, split
from napari_msunet.data.recipe import settle
from napari_msunet.data.sharing import SharedImages
from napari_msunet.errors import MsunetError, OutputError, failure
from napari_msunet.events import Cancelled, Event, Message, Result, TrialDone, progress
from napari_msunet.events import check as check_stop
from napari_msunet.labels.lock import WriterLock
from napari_msunet.models import load_model
from napari_msunet.training.comparison.experiment_page import (
    Example,
    draw_curves,
    draw_examples,
    heading,
    sentence,
    write_page,
    write_tables,
)
from napari_msunet.training.evaluate import OutputRow, at_scale
from napari_msunet.training.fit import train_events
from napari_msunet.training.prepare import check_memory
from napari_msunet.training.record import begin_folder
from napari_msunet.training.scoring import paired_interval, pooled_interval
from napari_msunet.training.scoring.image import score_item
from napari_msunet.training.scoring.metrics import SCORES, Confusion, Matrix, mean_score, mean_scores
from napari_msunet.training.scoring.panels import best_median_worst, draw_scale_matrix, item_panel, keep
from napari_msunet.training.scoring.uncertainty import DRAWS, Calibration, Interval

_JOB, _TRIAL = "experiment.json", "trial.json"
_FREE = {"out", "resume", "threads"}

Predict: TypeAlias = Callable[[Item], npt.NDArray[np.uint8]]
"""A function from an image to class numbers `(h, w)` at its truth's own resolution."""

Peer: TypeAlias = Callable[[SettledTrainJob, Sequence[Item], float], tuple[Predict, int]]
"""Training by another program: a function from a job, the training items and seconds of processor time to a predictor
and its number of steps. It can only be given from Python, see `experiment_events`."""


class Trial(NamedTuple):
    """One training: its variant, the fold that is held out, and its seed."""

    variant: str
    fold: int
    seed: int

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{file_word(self.variant)}-fold{self.fold}-seed{self.seed}"


class _Setting:
    """What all trials of an experiment share: the settled training of each variant, and the held-out images of each
    fold."""

    def __init__(self, job: ExperimentJob) -> None:
        self.job = job
        self._settled: dict[str, tuple[SettledTrainJob, tuple[str, ...]]] = {}

    def training(self, trial: Trial, out: Path) -> tuple[SettledTrainJob, tuple[str, ...]]:
        """The training of a trial, and the reasons for its choices; for a peer, it is that of the first variant."""
        name = trial.variant if trial.variant in self.job.variants else next(iter(self.job.variants))
        limits = {"time_limit": self.job.seconds, "clock": "processor", "validation": 0.0, "test": 0.0, "resume": False}
        if name not in self._settled:
            self._settled[name] = settle(self.job.variant(name).model_copy(update=limits))
        settled, reasons = self._settled[name]
        own = {"out": out, "seed": trial.seed, "split_seed": self.job.training.seed, "fold": self.fold(trial)}
        return settled.model_copy(update=own), reasons

    def sides(self, trial: Trial, model: ModelConfig) -> Split:
        """The training images and those that are held out; the folds are the same for all seeds."""
        items = load_sources(self.job.training.sources, model)
        sides = split(items, 0.0, self.job.training.seed, 0.0, self.fold(trial), model.classes)
        return sides if self.job.folds else sides._replace(validate=sides.test)

    def check_folds(self) -> None:
        """`SourceError` if the images cannot be cut into the folds, before anything is trained."""
        first = Trial(next(iter(self.job.variants)), 1, self.job.seeds[0])
        try:
            settled, _ = self.training(first, self.job.out)
            items = load_sources(self.job.training.sources, settled.model)
        except MsunetError:
            return  # what is wrong with one variant stands in its row
        try:
            for fold in _folds(self.job) if self.job.folds else ():
                split(
                    items, 0.0, self.job.training.seed, 0.0, self.fold(first._replace(fold=fold)), settled.model.classes
                )
        finally:
            for item in items:
                item.release()

    def shown_at(self, trial: Trial, model: ModelConfig) -> dict[str, float]:
        """The test scales of a trial, relative to its own model's resolution, by their names."""
        if not self.job.test_scales:
            return {}
        first = trial._replace(variant=next(iter(self.job.variants)))
        base = self.training(first, self.job.out)[0].model.resolution
        own = model.resolution
        if own.unit != base.unit:
            raise MsunetError("Variants in µm and in pixels have no test scales in common; leave test_scales out.")
        return {f"{scale:g}": scale * own.size / base.size for scale in self.job.test_scales}

    def fold(self, trial: Trial) -> tuple[int, int] | None:
        """The fold that is held out, and the number of folds; None where roles decide which images are held out."""
        return (trial.fold, self.job.folds) if self.job.folds else None

    def held_out(self, trial: Trial, model: ModelConfig) -> list[Item]:
        """The images of the held-out fold with the truth that scores them."""
        sides = self.sides(trial, model)
        if self.job.scored is None:
            return sides.validate
        names = {item.name for item in sides.validate} - {item.name for item in sides.train}
        found = [item for item in load_sources(self.job.scored, model) if item.name in names]
        if not found:
            raise MsunetError("No image that scores has the name of a held-out image; give them the same names.")
        return found


def experiment_events(job: ExperimentJob, peers: Mapping[str, Peer] | None = None) -> Iterator[Event]:
    """Run an experiment.

    Trials are run in turn, one of each variant, so that a busy machine affects all alike. Closing the iterator keeps
    the finished trials; the same job with `resume` continues.

    Parameters
    ----------
    job : ExperimentJob
    peers : dict of str to callable, optional
        More variants, trained by other programs.

    Yields
    ------
    Event
        `Message` and `Progress` (trials), and at the end a `Result` with ``"variants"`` (for each its mean ``"dice"``
        over folds and seeds, its ``"interval"`` over groups, ``"outputs"``, ``"steps"``), ``"differences"`` (to the
        first variant: ``"dice"`` and its ``"interval"`` over groups, pair by pair) and ``"trials"``.

    Raises
    ------
    SourceError
        If the images cannot be cut into the folds, or cannot be used.
    OutputError
        If `job.out` holds something else, or cannot be written.
    StoreLockedError
        If another process runs the experiment in `job.out`.
    """
    setting = _Setting(job)
    if not (job.out / _JOB).exists():
        setting.check_folds()  # before anything is written
    begin_folder(job.out / _JOB, job, "an experiment", _comparable)
    lock = WriterLock(job.out, f"The experiment in {job.out}")
    lock.acquire()
    try:
        yield from _run_all(setting, dict(peers or {}))
    finally:
        lock.release()


def check_folds(job: ExperimentJob) -> None:
    """`SourceError` if the images of an experiment cannot be cut into its folds."""
    _Setting(job).check_folds()


def _run_all(setting: _Setting, others: Mapping[str, Peer]) -> Iterator[Event]:
    """Run the trials that are left, in turn, and report after each."""
    job = setting.job
    names = [*job.variants, *others]
    trials = [Trial(name, fold, seed) for seed in job.seeds for fold in _folds(job) for name in names]
    started = time.monotonic()
    rows: list[dict[str, Any]] = []
    for number, trial in enumerate(trials, start=1):
        file = job.out / "trials" / trial.folder / _TRIAL
        if not file.exists():
            fold = f", fold {trial.fold} of {job.folds}" if job.folds else ""
            yield Message(text=f"{trial.variant}{fold}, seed {trial.seed}.")
            row = yield from _run(setting, trial, others.get(trial.variant))
            write_json(file, row)
        rows.append(read_json(file))
        if reason := rows[-1].get("error"):
            yield Message(level="warning", text=f"{trial.variant} cannot be trained: {reason}")
        report = summarise(rows, names, job.metric)
        files = write_tables(job.out, report) | {"page": write_page(job.out, report)}
        yield TrialDone(number=number, row=_told(report, trial.variant))
        yield progress(number, len(trials), "trials", started)
    report["scores"] = every_score(rows, report)
    if job.test_scales:
        report["scales"] = _scale_matrix(job, rows)
    files |= write_tables(job.out, report) | _pictures(setting, report, rows)
    files["page"] = write_page(job.out, report)
    yield Message(text=sentence(report))
    yield Result(values=report, files=files)


def _told(report: dict[str, Any], name: str) -> dict[str, Any]:
    """What an event tells of a variant after a trial, for a table that fills."""
    own = report["variants"][name]
    found = {"variant": name, "metric": report["metric"], "value": own.get(report["metric"])}
    found |= {key: own.get(key) for key in ("trials", "interval", "error")}
    return found | {"difference": report["differences"].get(name)}


def _folds(job: ExperimentJob) -> Sequence[int]:
    return job.only_folds or range(1, (job.folds or 1) + 1)


def _comparable(job: ExperimentJob) -> dict[str, Any]:
    """What must stay the same when it goes on."""
    found: dict[str, Any] = json.loads(job.model_dump_json(exclude=_FREE))
    return found


# ------------------------------------------------------------------------------------------------------------ a trial


def _run(setting: _Setting, trial: Trial, peer: Peer | None) -> Generator[Event, None, dict[str, Any]]:
    """Train and score a trial, and return its row; every error but a full disk is a row with its sentence."""
    row: dict[str, Any] = {"variant": trial.variant, "fold": trial.fold, "seed": trial.seed}
    job = setting.job
    out = job.out / "trials" / trial.folder
    rmtree(out, ignore_errors=True)
    before = time.process_time()
    try:
        with using_threads(job.threads):
            found = yield from (_peer(setting, trial, peer, out) if peer else _ours(setting, trial, out))
    except (Cancelled, OutputError):
        raise
    except Exception as error:
        found = {"error": reason_of_failure(error)}
    out.mkdir(parents=True, exist_ok=True)
    return row | found | {"processor_seconds": round(time.process_time() - before, 1)}


def _ours(setting: _Setting, trial: Trial, out: Path) -> Generator[Event, None, dict[str, Any]]:
    training, reasons = setting.training(trial, out)
    shown = setting.shown_at(trial, training.model)
    if (memory := check_memory(training)).level == "warning":  # the system would end the process, and with it the rest
        raise MsunetError(memory.text)
    found = yield from train_and_score(training, lambda: setting.held_out(trial, training.model), test_scales=shown)
    return found | {"choices": reasons}


def train_and_score(
    training: SettledTrainJob,
    held_out: Callable[[], Sequence[Item]],
    shared: SharedImages | None = None,
    test_scales: Mapping[str, float] | None = None,
) -> Generator[Event, None, dict[str, Any]]:
    """Train, and count what the model says of images that it has not seen.

    Parameters
    ----------
    training : SettledTrainJob
    held_out : callable
        Gives these images, once the training has ended.
    shared : SharedImages, optional
        The images of earlier trainings of the same work.
    test_scales : dict of str to float, optional
        Further scales of the model's own resolution at which the images are shown, by their names in ``"scales"``.

    Yields
    ------
    Message
        Those of the training.

    Returns
    -------
    dict
        ``"groups"``: for each group and output its confusion matrix; ``"images"``: for each image its group and
        that of the fused output; ``"steps"`` and ``"parameters"``.
    """
    result: dict[str, Any] = {}
    for event in train_events(training, shared):
        if isinstance(event, Result):
            result = event.values
        elif isinstance(event, Message):
            yield event
    model = load_model(training.out / "model.safetensors")
    groups: dict[str, dict[str, Confusion]] = {}
    images: dict[str, dict[str, Any]] = {}
    calibration = Calibration()
    output = OutputRow("fused", model, 1.0)
    moved = {name: at_scale(output, scale) for name, scale in (test_scales or {}).items()}
    scales = {name: Confusion(len(model.config.classes) + 1) for name in moved}
    for item in held_out():
        check_stop()
        for name, other in moved.items():
            shown = replace(item, resolution=other.config.target)
            scales[name].merge(score_item(other, shown, training.device).counts["fused"])
            check_stop()
        found = score_item(model, item, training.device)
        calibration.merge(found.calibration)
        images[item.name] = {"group": item.group or item.name, "fused": found.counts["fused"].matrix.tolist()}
        counts, own = found.counts, groups.setdefault(item.group or item.name, {})
        for name, confusion in counts.items():
            own.setdefault(name, Confusion(len(model.config.classes) + 1)).merge(confusion)
        item.release()
    for file in training.out.iterdir():  # the model is kept, so that any trial can be examined later
        if file.suffix == ".ckpt" or file.name == "last.safetensors":
            file.unlink()
    return {
        "groups": {group: {name: c.matrix.tolist() for name, c in own.items()} for group, own in groups.items()},
        "images": images,
        **({"scales": {name: counts.matrix.tolist() for name, counts in scales.items()}} if scales else {}),
        "steps": result["steps"],
        "epochs": result["epochs"],
        "parameters": result["parameters"],
        "log_loss": calibration.report()["log_loss"],
        "train": _last_epoch(training.out),
    }


def _last_epoch(run: Path) -> dict[str, float]:
    """What the training measured in its last epoch, on changed windows: "loss" and scores of the fused output."""
    rows = read_rows(run / "metrics.csv")[1]
    start, end = "train_", "_fused"
    last = rows[-1] if rows else {}
    return {
        name.removeprefix(start).removesuffix(end): float(value)
        for name, value in last.items()
        if name.startswith(start) and name.endswith(end) and value
    }


def _peer(setting: _Setting, trial: Trial, peer: Peer, out: Path) -> Generator[Event, None, dict[str, Any]]:
    training, _ = setting.training(trial, out)
    predict, steps = peer(training, setting.sides(trial, training.model).train, setting.job.seconds)
    groups: dict[str, Confusion] = {}
    for item in setting.held_out(trial, training.model):
        own = groups.setdefault(item.group or item.name, Confusion(len(training.model.classes) + 1))
        truth = item.truth.read(item.truth.grid.whole)
        own.add(torch.from_numpy(predict(item)), torch.from_numpy(truth))
        item.release()
    yield Message(text=f"{steps} steps.")
    return {"groups": {group: {"fused": c.matrix.tolist()} for group, c in groups.items()}, "steps": steps}


def reason_of_failure(error: BaseException) -> str:
    """Why a training failed, in one sentence; memory that it held is free again."""
    if isinstance(error, MsunetError):
        return str(error)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
        return "There is not enough memory for it; give smaller windows, batches or networks."
    return failure(error)[0]


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """A context in which networks of this process use so many threads; None: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --------------------------------------------------------------------------------------------------------- the report


mean_dice = partial(mean_score, "dice")


def summarise(rows: Sequence[dict[str, Any]], names: Sequence[str], metric: ScoreName = "dice") -> dict[str, Any]:
    """Means and intervals of each variant, and its differences to the first one over the trials that both have."""
    score = partial(mean_score, metric)
    counts = {name: variant_counts(rows, name) for name in names}
    variants = {}
    for name in names:
        own = [row for row in rows if row["variant"] == name]
        if own:
            variants[name] = _described(own, counts[name], metric)
    first = names[0]
    differences = {}
    for name in names[1:]:
        common = sorted(set(counts[first]) & set(counts[name]))
        if not common:
            continue
        before, after = (_by_group({key: counts[v][key] for key in common}) for v in (first, name))
        differences[name] = {
            metric: score(after.sum(0)) - score(before.sum(0)),
            "interval": paired_interval(before, after, score),
            "groups": len(before),
            "trials": len({key[:2] for key in common}),
        }
    trials = [
        {key: value for key, value in row.items() if key not in ("groups", "images", "scales", "train")}
        | {metric: _number(score(pooled(row, "fused"))) if "groups" in row else None}
        for row in rows
    ]
    return {"metric": metric, "first": first, "variants": variants, "differences": differences, "trials": trials}


Key: TypeAlias = tuple[int, int, str]


def variant_counts(rows: Sequence[dict[str, Any]], name: str) -> dict[Key, Matrix]:
    """Confusion matrices of a variant's fused output, by fold, seed and group; none of trials that could not run."""
    return {
        (row["fold"], row["seed"], group): np.asarray(outputs["fused"], np.int64)
        for row in rows
        if row["variant"] == name
        for group, outputs in row.get("groups", {}).items()
    }


def trial_rows(job: ExperimentJob) -> list[dict[str, Any]]:
    """The rows of the finished trials of an experiment, with the counts of each group."""
    return [read_json(file) for file in sorted((job.out / "trials").glob(f"*/{_TRIAL}"))]


def _by_group(counts: dict[Key, Matrix]) -> Matrix:
    """Counts of each group over all its trials, `(groups, K+1, K+1)`, in the order of their names."""
    groups = sorted({group for _, _, group in counts})
    return np.stack([np.sum([c for key, c in counts.items() if key[2] == group], axis=0) for group in groups])


def pooled(row: dict[str, Any], output: str) -> Matrix:
    """The confusion matrix of an output over all groups of a trial."""
    found = [np.asarray(outputs[output], np.int64) for outputs in row["groups"].values()]
    return np.asarray(np.sum(found, axis=0), np.int64)


def _described(rows: list[dict[str, Any]], counts: dict[Key, Matrix], metric: ScoreName) -> dict[str, Any]:
    score = partial(mean_score, metric)
    scored = [row for row in rows if "groups" in row]
    if not scored:
        return {"trials": 0, "error": rows[0].get("error")}
    outputs = list(next(iter(scored[0]["groups"].values())))
    each = np.array([score(pooled(row, "fused")) for row in scored])
    return {
        "trials": len(scored),
        metric: _number(float(np.nanmean(each))),
        "deviation": _number(float(np.nanstd(each, ddof=1))) if len(each) > 1 else None,
        "interval": pooled_interval(_by_group(counts), score),
        "outputs": {
            output: _number(float(np.nanmean([score(pooled(row, output)) for row in scored]))) for output in outputs
        },
        "held_out": {
            name: _number(float(np.nanmean([mean_score(name, pooled(row, "fused")) for row in scored])))
            for name in SCORES
        }
        | {"log_loss": _mean([row.get("log_loss") for row in scored])},
        "train": {
            name: _mean([row.get("train", {}).get(name) for row in scored]) for name in scored[0].get("train", {})
        },
        "epochs": _mean([row.get("epochs") for row in scored]),
        "steps": round(float(np.mean([row["steps"] for row in scored]))),
        "processor_seconds": round(float(np.mean([row["processor_seconds"] for row in scored]))),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of the numbers that are there; None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def every_score(rows: Sequence[dict[str, Any]], report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """For each variant and score its value and interval, and its difference to the first one, paired by group."""
    first = report["first"]
    counts = {name: variant_counts(rows, name) for name in report["variants"]}
    found: dict[str, dict[str, Any]] = {}
    for name, own in report["variants"].items():
        if not own["trials"]:
            continue
        spread = _drawn_scores([_by_group(counts[name])])
        found[name] = {
            score: {"value": own["held_out"][score], "interval": _quantiles(spread[0][score])} for score in SCORES
        }
        if common := sorted(set(counts[first]) & set(counts[name])) if name != first else []:
            pair = [_by_group({key: counts[v][key] for key in common}) for v in (first, name)]
            before, after = (mean_scores(groups.sum(0)) for groups in pair)
            drawn = _drawn_scores(pair)
            for score in SCORES:
                found[name][score] |= {
                    "difference": _number(float(after[score] - before[score])),
                    "difference_interval": _quantiles(drawn[1][score] - drawn[0][score]),
                }
    return found


def _drawn_scores(stacks: Sequence[Matrix]) -> list[dict[str, npt.NDArray[np.float64]]]:
    """All scores of pooled counts when groups are drawn again, the same groups of each stack."""
    groups = len(stacks[0])
    drawn = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), DRAWS)  # how often each
    return (
        [mean_scores(np.tensordot(drawn, stack, 1)) for stack in stacks]
        if groups > 1
        else [dict.fromkeys(SCORES, np.array(nan)) for _ in stacks]
    )


def _quantiles(values: npt.NDArray[np.float64]) -> Interval | None:
    known = values[np.isfinite(values)]
    return [float(v) for v in np.quantile(known, (0.025, 0.975))] if known.size else None


# ------------------------------------------------------------------------------------------------------- the pictures


def _pictures(setting: _Setting, report: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Draw curves.png and images.png, where there is something to draw."""
    out, variants = setting.job.out, report["variants"]
    ours = [name for name in setting.job.variants if variants[name]["trials"]]
    runs = {
        name: [out / "trials" / _trial(row).folder for row in rows if row["variant"] == name and "groups" in row]
        for name in ours
    }
    files: dict[str, str] = {}
    if "scales" in report:
        draw_scale_matrix(out / "scales.png", report["scales"], "the first variant's resolution")
        files["scales"] = str(out / "scales.png")
    if draw_curves(out / "curves.png", runs, report["metric"]):
        files["curves"] = str(out / "curves.png")
    if ours:
        best = max(ours, key=lambda name: variants[name][report["metric"]] or 0.0)
        examples = [_example(setting, name, rows) for name in dict.fromkeys((ours[0], best))]
        if shown := [example for example in examples if example.panels]:
            draw_examples(out / "images.png", shown, setting.job.training.model.classes)
            files["images"] = str(out / "images.png")
    return files


def _scale_matrix(job: ExperimentJob, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean Dice over trials of each variant (rows) at each test scale (columns)."""
    table = []
    for name in job.variants:
        own = [row["scales"] for row in rows if row["variant"] == name and "scales" in row]
        cells = ([mean_dice(np.asarray(found[f"{scale:g}"])) for found in own] for scale in job.test_scales)
        table.append([_mean([value for value in values if isfinite(value)]) for values in cells])
    return {"train": list(job.variants), "test": list(job.test_scales), "dice": table}


def _trial(row: dict[str, Any]) -> Trial:
    return Trial(row["variant"], row["fold"], row["seed"])


def _example(setting: _Setting, name: str, rows: Sequence[dict[str, Any]]) -> Example:
    """The best, the median and the worst held-out image of a variant, by the trials of its first seed."""
    job = setting.job
    own = [row for row in rows if row["variant"] == name and row["seed"] == job.seeds[0]]
    found = [(row, image, counts["fused"]) for row in own for image, counts in row.get("images", {}).items()]
    scores = [mean_score(job.metric, np.asarray(matrix)) for _, image, matrix in found]
    panels = []
    for title, number in best_median_worst(scores):
        row, image, _ = found[number]
        model_file = job.out / "trials" / _trial(row).folder / "model.safetensors"
        if not model_file.exists():
            continue
        model = load_model(model_file)
        item = next((i for i in setting.held_out(_trial(row), model.config) if i.name == image), None)
        if item is None:
            continue
        scored = score_item(model, item, job.training.device, whole=True)
        if scored.truth is not None and scored.predicted is not None:
            text = f"{title}, {image[:36]}, {heading(job.metric)} {scores[number]:.3f}"
            panels.append(item_panel(text, item, keep(scored.truth, scored.predicted)))
        item.release()
    return Example(name, panels)
