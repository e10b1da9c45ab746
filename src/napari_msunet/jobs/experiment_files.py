"""Experiments and searches in files: their images lie in a folder that is named when they start; a short mode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from napari_msunet.config import ExperimentJob, TuneJob
from napari_msunet.errors import MsunetError
from napari_msunet.jobs.run import parse_job

_DATA = '"DATA/'


def needs_data(file: Path) -> bool:
    """Whether the paths of an experiment file begin with DATA, for which a folder is to be given."""
    return _DATA in json.dumps(_values(file))


def read_experiment(file: Path, data: Path | None = None, short: bool = False) -> ExperimentJob:
    """The experiment in a file; see `read_comparison`, `MsunetError` where it is a search."""
    job = read_comparison(file, data, short)
    if not isinstance(job, ExperimentJob):
        raise MsunetError(f"{file} is a search; open it on the command line, or give a file whose job is experiment.")
    return job


def read_comparison(file: Path, data: Path | None = None, short: bool = False) -> ExperimentJob | TuneJob:
    """The experiment, or the search, in a file.

    Parameters
    ----------
    file : Path
        A JSON file with the fields of an `ExperimentJob` or a `TuneJob`, and perhaps "short": the fields that differ in
        a first look.
    data : Path, optional
        The folder that DATA stands for at the beginning of paths.
    short : bool
        With the fields under "short".

    Raises
    ------
    MsunetError
        If the file cannot be read, holds another job, has no short mode, or needs a folder that is not given.
    """
    values = _values(file)
    fewer = values.pop("short", None)
    if short and not isinstance(fewer, dict):
        raise MsunetError(f'{file} does not say what is different in short: give it an object "short".')
    if short and fewer:
        values |= fewer
    text = json.dumps(values)
    if _DATA in text and data is None:
        raise MsunetError(f"{file} has its images in DATA/...: give the folder that this is with --data.")
    if data is not None:
        text = text.replace(_DATA, json.dumps(f"{data.as_posix()}/")[:-1])
    job = parse_job(text, f"The experiment file {file}")
    if not isinstance(job, ExperimentJob | TuneJob):
        raise MsunetError(f"{file} is a job of another kind ({job.job}); give one whose job is experiment.")
    return job


def _values(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise MsunetError(f"The experiment file {file} cannot be read ({error}); give a JSON file.") from error
    if not isinstance(values, dict):
        raise MsunetError(f"The experiment file {file} holds no object; give a JSON file with the fields of one.")
    return values
