"""The verb `retrain`: the next model, from an earlier run and what was corrected since."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from napari_msunet.cli.options import PixelSizeOption, RunOptions
from napari_msunet.cli.running import app, run_or_print
from napari_msunet.config import TrainJob
from napari_msunet.errors import MsunetError
from napari_msunet.retraining import REPLAY, corrections, retraining_job

_RUN = RunOptions()


@app.command
def retrain(
    run: Annotated[Path, Parameter(help="Folder of the earlier training, or the model file in it.")],
    *,
    slide: tuple[Path, ...],
    labels: tuple[Path, ...],
    out: Path,
    mpp: PixelSizeOption | None = None,
    classes: str | None = None,
    fresh: bool = False,
    replay: float = REPLAY,
    epochs: int | None = None,
    time_limit: float | None = None,
    learning_rate: float | None = None,
    options: RunOptions = _RUN,
) -> None:
    """Train the next model on corrections, beside all that the earlier one learned from.

    Pixels that were edited or accepted in review are true, zeros included. Where the earlier run had test images, they
    never train, and old and new model are scored on them at the end.

    Parameters
    ----------
    slide : Path
        A slide whose labels were corrected; give it several times, each with its --labels.
    labels : Path
        Label store of the --slide.
    out : Path
        Folder of the new run.
    mpp : float
        µm per pixel of the slides, when the files do not say it; px: their own pixels, whatever they say.
    classes : str
        Names of classes with commas, where they are others now; those known already keep their weights.
    fresh : bool
        Begin with random weights instead of those of the earlier model.
    replay : float
        Share (0..1) of each batch from what is no correction.
    epochs : int
        Most epochs; without it, as many as before.
    time_limit : float
        Seconds after which training ends with the best model so far; without it, as before.
    learning_rate : float
        Without it, that of before.
    """
    if len(slide) != len(labels):
        raise MsunetError(
            f"--slide was given {len(slide)} times and --labels {len(labels)} times; give one --labels for each."
        )
    corrected = [corrections(s, store, mpp=mpp) for s, store in zip(slide, labels, strict=True)]
    given = {"epochs": epochs, "time_limit": time_limit}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    names = None if classes is None else [name.strip() for name in classes.split(",")]

    def build() -> TrainJob:
        job = retraining_job(run, corrected, out, classes=names, start=not fresh, replay=replay, **changes)
        if learning_rate is None:
            return job
        optimiser = type(job.optimiser).model_validate({**dict(job.optimiser), "learning_rate": learning_rate})
        return job.model_copy(update={"optimiser": optimiser})

    run_or_print(build, options)
