"""Where numbers and outlines come from: slide, model, run, settings and version, kept in each file of them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from napari_msunet.labels import LabelStore, Run
from napari_msunet.names import printable

KEY = "napari_msunet"
"""The member of a GeoJSON, and the key of Parquet's metadata."""


def provenance(store: LabelStore, job: BaseModel, instances: str | None = None) -> dict[str, Any]:
    """Where a table or file of a store comes from, as plain values.

    Parameters
    ----------
    store : LabelStore
    job : BaseModel
        What was asked for; its fields are the settings, those that are not given left out.
    instances : str, optional
        The key of the run whose instances are the objects, or "newest".

    Returns
    -------
    dict
        "slide" (name), "labels" (name), "model" (fingerprints, with commas), "run" (key), "prediction" (options of the
        run), "settings" and "version". What is not known is empty.
    """
    from importlib.metadata import version

    run = _run(store, instances)
    settings = {} if run is None else dict(run.description.get("settings") or {})
    given = job.model_dump(mode="json", exclude_defaults=True)
    for name in ("labels", "out", "slide", "tissue", "regions"):  # names of files, not the folders of one machine
        if given.get(name):
            given[name] = printable(getattr(job, name).name)
    return {
        "slide": store.info.slide or given.get("slide", ""),
        "labels": printable(store.path.name),
        "model": ", ".join(map(str, settings.get("models", ()))),
        "run": "" if run is None else run.key,
        "prediction": {} if run is None else run.description.get("options") or settings.get("postprocess") or {},
        "settings": given,
        "version": f"napari-msunet {version('napari-msunet')}",
    }


def _run(store: LabelStore, instances: str | None) -> Run | None:
    """The run that the labels were predicted by: the newest that is complete."""
    whole = [run for run in store.runs if run.complete]
    if instances not in (None, "newest"):
        return next((run for run in whole if run.key == instances), None)
    if instances is not None:
        whole = [run for run in whole if "instances" in run.outputs]
    return max(whole, key=lambda run: (run.path / "run.json").stat().st_mtime_ns, default=None)
