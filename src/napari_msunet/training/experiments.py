"""Experiments: variants of a training on the same folds and seeds in equal processor time, compared group by group."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import isfinite
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from napari_msunet._io import read_json, read_rows, table_text, write_json, write_text
from napari_msunet.config import ExperimentJob, ModelConfig, ScoreName, SettledTrainJob
from napari_msunet.constants import OUTPUT_COLOURS
from napari_msunet.data import Item, Split, load_sources, split
from napari_msunet.data.recipe import settle
from napari_msunet.data.sharing import SharedImages
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event, Message, Result, progress
from napari_msunet.events import check as check_stop
from napari_msunet.models import load_model
from napari_msunet.training.fit import train_events
from napari_msunet.training.record import begin_folder
from napari_msunet.training.scoring import paired_interval, pooled_interval
from napari_msunet.training.scoring.image import score_item
from napari_msunet.training.scoring.metrics import SCORES, Confusion, Matrix, mean_score
from napari_msunet.training.scoring.panels import figure_of, save
from napari_msunet.training.scoring.uncertainty import Calibration

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
        word = "".join(c if c.isalnum() or c in ".-" else "_" for c in self.variant)
        return f"{word}-fold{self.fold}-seed{self.seed}"


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
    """
    begin_folder(job.out / _JOB, job, "an experiment", _comparable)
    others = dict(peers or {})
    names = [*job.variants, *others]
    trials = [Trial(name, fold, seed) for seed in job.seeds for fold in _folds(job) for name in names]
    setting = _Setting(job)
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
        if sentence := rows[-1].get("error"):
            yield Message(level="warning", text=f"{trial.variant} cannot be trained: {sentence}")
        report = summarise(rows, names, job.metric)
        files = _write(job.out, report)
        yield progress(number, len(trials), "trials", started)
    yield Message(text=_sentence(report))
    yield Result(values=report, files=files)


def _folds(job: ExperimentJob) -> Sequence[int]:
    return job.only_folds or range(1, (job.folds or 1) + 1)


def _comparable(job: ExperimentJob) -> dict[str, Any]:
    """What must stay the same when it goes on."""
    found: dict[str, Any] = json.loads(job.model_dump_json(exclude=_FREE))
    return found


# ------------------------------------------------------------------------------------------------------------ a trial


def _run(setting: _Setting, trial: Trial, peer: Peer | None) -> Generator[Event, None, dict[str, Any]]:
    """Train and score a trial, and return its row. A variant that cannot be trained gives a row with the error."""
    row: dict[str, Any] = {"variant": trial.variant, "fold": trial.fold, "seed": trial.seed}
    job = setting.job
    out = job.out / "trials" / trial.folder
    rmtree(out, ignore_errors=True)
    before = time.process_time()
    try:
        with using_threads(job.threads):
            found = yield from (_peer(setting, trial, peer, out) if peer else _ours(setting, trial, out))
    except MsunetError as error:
        found = {"error": str(error)}
    out.mkdir(parents=True, exist_ok=True)
    return row | found | {"processor_seconds": round(time.process_time() - before, 1)}


def _ours(setting: _Setting, trial: Trial, out: Path) -> Generator[Event, None, dict[str, Any]]:
    training, reasons = setting.training(trial, out)
    found = yield from train_and_score(training, lambda: setting.held_out(trial, training.model))
    return found | {"choices": reasons}


def train_and_score(
    training: SettledTrainJob, held_out: Callable[[], Sequence[Item]], shared: SharedImages | None = None
) -> Generator[Event, None, dict[str, Any]]:
    """Train, and count what the model says of images that it has not seen.

    Parameters
    ----------
    training : SettledTrainJob
    held_out : callable
        Gives these images, once the training has ended.
    shared : SharedImages, optional
        The images of earlier trainings of the same work.

    Yields
    ------
    Message
        Those of the training.

    Returns
    -------
    dict
        ``"groups"``: for each group and output its confusion matrix; ``"steps"`` and ``"parameters"``.
    """
    result: dict[str, Any] = {}
    for event in train_events(training, shared):
        if isinstance(event, Result):
            result = event.values
        elif isinstance(event, Message):
            yield event
    model = load_model(training.out / "model.safetensors")
    groups: dict[str, dict[str, Confusion]] = {}
    calibration = Calibration()
    for item in held_out():
        check_stop()
        found = score_item(model, item, training.device)
        calibration.merge(found.calibration)
        counts, own = found.counts, groups.setdefault(item.group or item.name, {})
        for name, confusion in counts.items():
            own.setdefault(name, Confusion(len(model.config.classes) + 1)).merge(confusion)
        item.release()
    for file in training.out.iterdir():  # the model is kept, so that any trial can be examined later
        if file.suffix == ".ckpt" or file.name == "last.safetensors":
            file.unlink()
    return {
        "groups": {group: {name: c.matrix.tolist() for name, c in own.items()} for group, own in groups.items()},
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
        {key: value for key, value in row.items() if key not in ("groups", "train")}
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


def _text(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


def _between(interval: Sequence[float] | None, sign: str = "") -> str:
    return "–" if interval is None else f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}"


def table(report: dict[str, Any]) -> str:
    """The report as a table in Markdown."""
    lines = [
        f"| variant | trials | {named(report)} | its deviation | 95 % over groups | minus the first | 95 % over groups "
        "| steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, own in report["variants"].items():
        if not own["trials"]:
            lines.append(f"| {name} | 0 | {own['error']} | | | | | |")
            continue
        difference = report["differences"].get(name, {})
        cells = [
            *(
                name,
                str(own["trials"]),
                _text(own[report["metric"]]),
                _text(own["deviation"]),
                _between(own["interval"]),
            ),
            *(
                _text(difference.get(report["metric"]), "+"),
                _between(difference.get("interval"), "+"),
                str(own["steps"]),
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_all_numbers(report)]) + "\n"


def named(report: dict[str, Any]) -> str:
    """The metric of a report as a heading."""
    return {"iou": "IoU", "f1": "F1"}.get(report["metric"], str(report["metric"]).capitalize())


def _all_numbers(report: dict[str, Any]) -> Iterator[str]:
    """Lines of a second table: what each variant reached in training and on the held-out images."""
    names = ("iou", "f1", "accuracy")
    yield "In training (changed windows, last epoch) and on held-out images; the log loss is comparable between losses."
    yield ""
    yield "| variant | loss, IoU, F1, accuracy in training | log loss, IoU, F1, accuracy held out | epochs | seconds |"
    yield "|---|---|---|---|---|"
    for name, own in report["variants"].items():
        if own["trials"]:
            trained = ", ".join(_text(own["train"].get(key)) for key in ("loss", *names))
            held = ", ".join(_text(own["held_out"].get(key)) for key in ("log_loss", *names))
            epochs = "–" if own["epochs"] is None else f"{own['epochs']:.0f}"
            yield f"| {name} | {trained} | {held} | {epochs} | {own['processor_seconds']} |"


def draw_bars(path: Path, report: dict[str, Any]) -> None:
    """Draw a bar with its interval for each variant, and a dot for each scale alone."""
    shown = {name: own for name, own in report["variants"].items() if own["trials"]}
    figure = figure_of(7.5, 0.9 + 0.42 * max(1, len(shown)))
    axes = figure.subplots()
    for place, own in enumerate(shown.values()):
        value = own[report["metric"]]
        if value is None:
            continue
        low, high = own["interval"] or (value, value)
        axes.barh(place, value, color=OUTPUT_COLOURS[1], alpha=0.75)
        axes.plot([low, high], [place, place], color="black", linewidth=1.4)
        scales = [v for name, v in own["outputs"].items() if name != "fused" and v is not None]
        axes.plot(scales, [place] * len(scales), "o", color="white", markeredgecolor="black", markersize=4)
    axes.set_yticks(range(len(shown)), list(shown))
    axes.invert_yaxis()
    axes.set(xlabel=f"{named(report)} on held-out groups, 95 % interval; dots: each scale alone", xlim=(0, 1))
    save(figure, path)


def _write(out: Path, report: dict[str, Any]) -> dict[str, str]:
    """report.json, report.md, and table.csv with a row for each trial."""
    columns = ("variant", "fold", "seed", report["metric"], "log_loss", "steps", "epochs", "processor_seconds", "error")
    write_text(out / "table.csv", table_text(report["trials"], columns))
    write_json(out / "report.json", report)
    write_text(out / "report.md", table(report))
    draw_bars(out / "bars.png", report)
    names = {"table": "table.csv", "report": "report.json", "page": "report.md", "bars": "bars.png"}
    return {name: str(out / file) for name, file in names.items()}


def _sentence(report: dict[str, Any]) -> str:
    """The main result as a sentence, which claims no difference that lies within the noise."""
    first, metric = report["first"], report["metric"]
    parts = []
    for name, found in report["differences"].items():
        interval = found["interval"]
        if interval is None:
            parts.append(f"{name} {_text(found[metric], '+')} (one group: nothing is known of its spread)")
        elif interval[0] <= 0 <= interval[1]:
            parts.append(f"{name} is not told apart ({_text(found[metric], '+')}, {_between(interval, '+')})")
        else:
            word = "better" if found[metric] > 0 else "worse"
            parts.append(f"{name} is {word} by {abs(found[metric]):.3f} ({_between(interval, '+')})")
    if not parts:
        return f"{first}: {named(report)} {_text(report['variants'][first].get(metric))}."
    return f"Compared with {first}: {'; '.join(parts)}."
