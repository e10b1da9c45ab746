"""The study of context: one scale at several resolutions against several scales, in equal time, by held-out groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import numpy as np

from napari_msunet._io import write_json, write_text
from napari_msunet.config import ContextJob, ExperimentJob, ModelConfig
from napari_msunet.data.recipe import settle
from napari_msunet.errors import MsunetError
from napari_msunet.events import Event, Message, Result
from napari_msunet.training.comparison.experiment_page import table
from napari_msunet.training.experiments import (
    Key,
    check_folds,
    experiment_events,
    mean_dice,
    trial_rows,
    variant_counts,
)
from napari_msunet.training.record import begin_folder
from napari_msunet.training.scoring import paired_interval
from napari_msunet.training.scoring.metrics import Matrix

_JOB = "context.json"

USEFUL = 0.01
"""A gain in Dice that is worth the time of a second scale; an interval that ends below it says that context does not
help."""

Answer: TypeAlias = Literal["yes", "no", "unclear"]


def context_events(job: ContextJob) -> Iterator[Event]:
    """Run the study: an experiment, and its answer.

    One scale is trained at several resolutions, and several scales at the resolution that the recipe chooses. For each
    fold, the one-scale and the several-scales variant are those that scored best on the other folds, so that neither
    is chosen by the images that then score it. Their difference is paired by group.

    Parameters
    ----------
    job : ContextJob

    Yields
    ------
    Event
        Those of the experiment, and a `Result` with ``"answer"`` ("yes", "no", "unclear"), ``"sentence"``,
        ``"difference"`` (Dice of several scales minus one), its ``"interval"`` over groups, ``"groups"``, ``"one"`` and
        ``"several"`` (the variants chosen for each fold), and the experiment's report. ``files["best"]`` is the
        training that the answer advises.

    Raises
    ------
    SourceError
        If the images cannot be cut into folds.
    MsunetError
        If no variant of one side could be trained.
    """
    experiment, one, several = study(job)
    if not (job.out / _JOB).exists():
        check_folds(experiment)  # before anything is written
    begin_folder(job.out / _JOB, job, "a study of context", _comparable)
    yield Message(text=f"One scale: {'; '.join(one)}. Several: {'; '.join(several)}.")
    report: dict[str, Any] = {}
    files: dict[str, str] = {}
    for event in experiment_events(experiment):
        if isinstance(event, Result):
            report, files = dict(event.values), dict(event.files)
        else:
            yield event
    found = verdict(trial_rows(experiment), one, several)
    found["sentence"] = sentence(found, job)
    best = experiment.variant((found["several"] if found["answer"] == "yes" else found["one"])[-1])
    settled = best.model_copy(update={"out": job.training.out, "time_limit": job.training.time_limit})
    write_text(job.out / "best.json", settled.model_dump_json(indent=1))
    write_json(job.out / "answer.json", found)
    write_text(job.out / "answer.md", f"{found['sentence']}\n\n{table(report)}")
    files |= {name: str(job.out / f"{name}.json") for name in ("best", "answer")} | {"page": str(job.out / "answer.md")}
    yield Message(text=found["sentence"])
    yield Result(values=report | found, files=files)


def _comparable(job: ContextJob) -> dict[str, Any]:
    found: dict[str, Any] = job.model_dump(mode="json", exclude={"out", "resume", "threads"})
    return found


def study(job: ContextJob) -> tuple[ExperimentJob, list[str], list[str]]:
    """The experiment of a study, and the names of its variants with one scale and with several."""
    limits = {"time_limit": job.seconds, "clock": "processor", "validation": 0.0}
    settled, _ = settle(job.training.model_copy(update=limits))
    base: ModelConfig = settled.model
    pixel, unit = (
        (base.pixel, "px")
        if base.mpp is None
        else (base.mpp if isinstance(base.mpp, float) else base.mpp[0], "µm per pixel")
    )
    # A window that the recipe chose follows the resolution of each variant; one that was given stays.
    fields = {"model": base, "size": job.training.size}
    training = job.training.model_copy(update=fields)
    place = "model.pixel" if base.mpp is None else "model.mpp"
    variants: dict[str, dict[str, Any]] = {}
    one, several = [], []
    for times in sorted({1.0, *job.resolutions}):
        name = f"one scale at {pixel * times:.3g} {unit}"
        variants[name] = {place: pixel * times, "model.scales": [1.0], "model.fusion": "mean", "model.field": "same"}
        one.append(name)
    for scales in job.scales:
        name = f"scales {scale_words(scales)} at {pixel:.3g} {unit}"
        fusion = base.fusion if len(base.scales) > 1 else "attention"
        variants[name] = {"model.scales": list(scales), "model.fusion": fusion, "model.field": "concentric"}
        several.append(name)
    experiment = ExperimentJob(
        training=training,
        variants=variants,
        folds=job.folds,
        seeds=job.seeds,
        seconds=job.seconds,
        threads=job.threads,
        scored=job.scored,
        out=job.out / "experiment",
        resume=job.resume and (job.out / "experiment").exists(),
    )
    return experiment, one, several


def verdict(rows: Sequence[dict[str, Any]], one: Sequence[str], several: Sequence[str]) -> dict[str, Any]:
    """The answer from the rows of the trials.

    Returns
    -------
    dict
        ``"answer"``, ``"difference"``, ``"interval"``, ``"groups"``, and for each fold the chosen variants, then the
        ones that are best over all folds.
    """
    (before, first), (after, second) = (_cross_fitted(rows, names) for names in (one, several))
    common = sorted(set(before) & set(after))
    stacks = [_stacked(counts, common) for counts in (before, after)]
    difference = mean_dice(stacks[1].sum(0)) - mean_dice(stacks[0].sum(0))
    interval = paired_interval(stacks[0], stacks[1], mean_dice)
    answer: Answer = "unclear"
    if interval is not None:
        answer = "no" if interval[1] < USEFUL else "yes" if interval[0] > 0 else "unclear"
    return {
        "answer": answer,
        "difference": difference,
        "interval": interval,
        "groups": len(stacks[0]),
        "one": first,
        "several": second,
        "dice": {"one": mean_dice(stacks[0].sum(0)), "several": mean_dice(stacks[1].sum(0))},
    }


def _cross_fitted(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> tuple[dict[Key, Matrix], list[str]]:
    """The counts of each fold by the variant that is best on the other folds; the variants, and the best of all."""
    counts = {name: found for name in names if (found := variant_counts(rows, name))}
    if not counts:
        raise MsunetError(f"None of {'; '.join(names)} could be trained; the table says why for each.")
    folds = sorted({fold for found in counts.values() for fold, _, _ in found})

    def best(used: Sequence[int]) -> str:
        def score(name: str) -> float:
            own = [matrix for (fold, _, _), matrix in counts[name].items() if fold in used]
            return mean_dice(np.sum(own, axis=0)) if own else -1.0

        return max(counts, key=score)

    kept: dict[Key, Matrix] = {}
    chosen = []
    for fold in folds:
        name = best([other for other in folds if other != fold])
        chosen.append(name)
        kept |= {key: matrix for key, matrix in counts[name].items() if key[0] == fold}
    return kept, [*chosen, best(folds)]


def _stacked(counts: dict[Key, Matrix], keys: Sequence[Key]) -> Matrix:
    """Counts of each group over its seeds, `(groups, K+1, K+1)`."""
    groups = sorted({group for _, _, group in keys})
    return np.stack([np.sum([counts[key] for key in keys if key[2] == group], axis=0) for group in groups])


def sentence(found: dict[str, Any], job: ContextJob) -> str:
    """The answer in words, with what to do."""
    dice, interval, groups = found["difference"], found["interval"], found["groups"]
    one, several = found["one"][-1], found["several"][-1]
    size = f"{dice:+.3f} Dice"
    if interval is None:
        return (
            f"Whether context helps cannot be told from one group: several scales are {size} away from one scale. Give "
            "images of more patients or slides."
        )
    spread = f"{size}, 95 % over {groups} groups {interval[0]:+.3f} to {interval[1]:+.3f}"
    if found["answer"] == "yes":
        return f"Context helps here: several scales beat the best single one ({spread}). Train with {several}."
    if found["answer"] == "no":
        return f"Context does not help here: several scales gain less than {USEFUL} ({spread}). Train with {one}."
    more = "more patients or slides" if groups < 8 else f"a longer time than {job.seconds:g} s for each training"
    return f"Whether context helps is not clear ({spread}). Train with {one}, which is faster; {more} may tell."


def scale_words(scales: Sequence[float]) -> str:
    """Scales as 1, 1/2, 1/4."""
    return ", ".join(str(Fraction(s).limit_denominator(8)) for s in scales)
