"""What a careful colleague would say before a training, in plain sentences: what the training itself will say, and what
it will cost. No Qt, and no torch as far as devices are not asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from napari_msunet._io import read_json
from napari_msunet.config import ModelConfig, SettledTrainJob, SlideSource, TrainJob
from napari_msunet.errors import MsunetError
from napari_msunet.training.prepare import Prepared, loss_windows, prepare_data, settle_training
from napari_msunet.training.progress import Finding
from napari_msunet.training.record import RunFolder
from napari_msunet.wording import duration, gigabytes

_BASE_BYTES = 700e6  # torch and Lightning themselves
_FEW_PIXELS = 500
_FEW_STEPS = 100


def check(job: TrainJob, runs: Path | None = None, devices: bool = True) -> list[Finding]:
    """Look at a training before it starts: what it would say, learn from and cost.

    It prepares the data as the training does, by the same functions: what a training refuses is an error, what it warns
    of is a warning. Reads the sources (each image and mask is opened once), so it belongs into a thread. Weights are
    not read, and no window of the images.

    Parameters
    ----------
    job : TrainJob
    runs : Path, optional
        Folder of earlier training runs on this machine, from which the time of a step is known.
    devices : bool
        Whether the job's device must be here. The window leaves that to the worker, which may be on another machine
        and has torch, which it takes.

    Returns
    -------
    list of Finding
    """
    findings: list[Finding] = []

    def say(level: str, text: str) -> None:
        findings.append(Finding("warning" if level == "warning" else "ok", text))

    try:
        if devices and (job.device not in ("auto", "cpu") or job.devices * job.nodes > 1):
            _check_devices(job)
        folder = RunFolder(job)
        settled, _ = settle_training(job, folder, say)
    except MsunetError as error:
        return [*findings, Finding("error", str(error))]
    steps = None
    try:
        prepared = prepare_data(settled, say, settled.resume and folder.checkpoint.exists())
        prepared.release()
        steps = prepared.steps
        findings += _about(prepared)
    except MsunetError as error:
        findings.append(Finding("error", str(error)))
    try:
        findings.append(check_memory(settled))
        findings.append(check_time(settled, steps, measured_rate(runs) if runs else None))
    except MsunetError:
        pass  # windows that cannot be: said above
    return findings


def _check_devices(job: TrainJob) -> None:
    from napari_msunet.inference.network import pick_device
    from napari_msunet.training.distributed import check_devices

    check_devices(job, pick_device(job.device))


def _about(prepared: Prepared) -> list[Finding]:
    """What is about to happen, and how much there is to learn from."""
    findings = [Finding("ok", f"{prepared.words()}."), *check_classes(prepared.config.classes, prepared.pixels)]
    if any(isinstance(source, SlideSource) and source.edited_only for source in prepared.job.sources):
        findings.append(Finding("ok", "Of corrected predictions, only the pixels you changed count as true."))
    return findings


def check_classes(classes: Sequence[str], pixels: Sequence[int]) -> list[Finding]:
    """Sentences about classes of which there is little; of what lacks wholly, the training itself warns.

    Parameters
    ----------
    classes : sequence of str
    pixels : sequence of int
        Of background and of classes 1..K on the training side, at the model's resolution.
    """
    named = list(zip(("background", *classes), pixels, strict=True))
    findings = [
        Finding("warning", f"{name} has only about {count:,.0f} annotated pixels: more places would help.")
        for name, count in named
        if 0 < count < _FEW_PIXELS
    ]
    if not findings and all(pixels):
        known = ", ".join(f"{name} {_short(count)}" for name, count in named)
        findings.append(Finding("ok", f"Every class has annotated pixels to learn from: {known}."))
    return findings


def _short(pixels: float) -> str:
    """A number of pixels in two figures."""
    for size, name in ((1e6, " M"), (1e3, " k")):
        if pixels >= size:
            return f"{pixels / size:.2g}{name}" if pixels < 100 * size else f"{pixels / size:.0f}{name}"
    return f"{pixels:.0f}"


def windows_of(job: SettledTrainJob) -> tuple[ModelConfig, int]:
    """The config on the grid of the loss, and the side of a training window in its pixels."""
    seen, size, _ = loss_windows(job, job.model, lambda level, text: None)
    return seen, size


def _planes(job: SettledTrainJob) -> list[tuple[Any, float]]:
    """Each branch's config, and how many pixels its window has."""
    model, size = windows_of(job)
    sides = [size if model.field == "concentric" and s < 1 else size * s for s in model.scales]
    return [(branch, side * side) for branch, side in zip(model.branches, sides, strict=True)]


def step_work(job: SettledTrainJob) -> float:
    """Multiplications of one training step, in 1e9: forward and twice as many backward."""
    total = 0.0
    for branch, pixels in _planes(job):
        widths = branch.widths
        for level, width in enumerate(widths):
            before = widths[level - 1] if level else job.model.channels
            down = 9 * (before * width + width * width)
            up = widths[level + 1] * width + 27 * width * width if level < branch.depth else 0
            total += pixels / 4**level * (down + up)
    return 3 * job.batch_size * total / 1e9


def training_memory(job: SettledTrainJob) -> float:
    """About how many bytes a training needs: what a step keeps for its way back, and the weights with their moments."""
    kept = weights = 0.0
    outputs = len(job.model.classes) + 1
    for branch, pixels in _planes(job):
        widths = branch.widths
        for level, width in enumerate(widths):
            # Of each convolution its input, of each normalisation its input; on the way up also the joined features.
            kept += pixels / 4**level * width * (10 if level < branch.depth else 4)
            before = widths[level - 1] if level else job.model.channels
            weights += 9 * (before + width) * width + (31 * width * width if level < branch.depth else 0)
    logits = windows_of(job)[1] ** 2 * outputs * (len(job.model.scales) + 1) * 6
    return _BASE_BYTES + 4 * job.batch_size * (1.3 * kept + logits) + 16 * weights


def check_memory(job: SettledTrainJob, available: float | None = None) -> Finding:
    """Whether the batch fits into this computer's memory."""
    needed = training_memory(job)
    free = float(psutil.virtual_memory().available) if available is None else available
    text = (
        f"A batch of {job.batch_size} windows of {windows_of(job)[1]} pixels needs about {gigabytes(needed)} of memory"
    )
    if job.device.startswith("cuda"):
        return Finding("ok", f"{text} on {job.device}.")
    if needed > free:
        advice = "choose a smaller batch or smaller windows, or close other programs"
        return Finding("warning", f"{text}, but only {gigabytes(free)} are free: {advice}.")
    return Finding("ok", f"{text}; {gigabytes(free)} are free.")


def measured_rate(runs: Path) -> float | None:
    """Seconds for 1e9 multiplications, from the newest finished training in a folder of runs; None before the first."""
    results = sorted(runs.glob("*/result.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in results:
        try:
            values = read_json(path)
            job = SettledTrainJob.model_validate_json((path.parent / "job.json").read_bytes())
            job = job.model_copy(update={"batch_size": values.get("batch_size", job.batch_size)})
            return float(values["seconds_per_step"]) / step_work(job)
        except (OSError, ValueError, KeyError, TypeError, MsunetError):
            continue  # a damaged run says nothing about the speed
    return None


def check_time(job: SettledTrainJob, steps: int | None, rate: float | None) -> Finding:
    """How long the training will take at most."""
    limit = f"it ends after {duration(job.time_limit)} at the latest" if job.time_limit else ""
    if steps is None or rate is None:
        text = "How long a step takes on this computer is known after the first one"
        return Finding("ok", f"{text}; {limit}." if limit else f"{text}.")
    step = rate * step_work(job)
    whole = job.epochs * steps * step
    text = f"An epoch has {steps} steps of about {step:.2g} s"
    if job.time_limit and whole > job.time_limit:
        total = job.time_limit / step
        text += f"; {duration(job.time_limit)} allow about {total:,.0f} steps"
        return Finding("ok" if total >= _FEW_STEPS else "warning", f"{text}.")
    return Finding("ok", f"{text}; all {job.epochs} epochs take at most {duration(whole)}.")
