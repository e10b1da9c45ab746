"""Writing a whole model for other programs, in a format chosen by the ending of the path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from napari_msunet._io import output_aside
from napari_msunet.config import ExportModelJob
from napari_msunet.errors import OutputError, as_path
from napari_msunet.events import Event, Message, Result
from napari_msunet.models.bioimageio_package import write_package
from napari_msunet.models.files import load_model
from napari_msunet.models.msunet import MSUNet
from napari_msunet.models.strip_inference import folded
from napari_msunet.models.whole_model import ExportedModel, WholeModel, check_whole, write_network

ENDINGS = (".pt2", ".onnx", ".zip")


def export_model(model: MSUNet, path: str | Path) -> ExportedModel:
    """Write a whole model for other programs, and check it on real tiles.

    Parameters
    ----------
    model : MSUNet
        It is not changed.
    path : str or Path
        ``.pt2`` (`torch.export`), ``.onnx``, or ``.zip`` (a bioimage.io package with ONNX weights); an older file is
        replaced.

    Returns
    -------
    ExportedModel

    Raises
    ------
    ModelError
        If a model of this kind cannot be a function of one window (a classical method, or one that normalises by each
        image's own statistics), a package is missing, or the written model computes something else.
    OutputError
        If the ending is another, or the file cannot be written; nothing is left then.
    """
    path = as_path(path, "the file to write")
    if path.suffix.lower() not in ENDINGS:
        raise OutputError(
            f"{path} does not end in .pt2 (torch.export), .onnx or .zip (bioimage.io); the ending says what is written."
        )
    check_whole(model)
    whole = WholeModel(folded(model).cpu()).eval()
    if path.suffix.lower() == ".zip":
        return write_package(whole, path)
    with output_aside(path) as file:
        return write_network(whole, file, path)


def export_model_events(job: ExportModelJob) -> Iterator[Event]:
    """Write a model for other programs; the events of an `ExportModelJob`."""
    model = load_model(job.model)
    yield Message(text=f"Writing {job.out.name}, and checking it on real tiles.")
    found = export_model(model, job.out)
    if not found.any_size:
        yield Message(
            level="warning", text=f"This model takes windows of {found.size} x {found.size} pixels only in that format."
        )
    if job.out.suffix.lower() == ".zip":
        yield Message(
            text="The package names no licence, and its author is a placeholder: write both into its rdf.yaml before "
            "you share it."
        )
    values = {"difference": found.difference, "any_size": found.any_size, "multiple": found.multiple}
    yield Result(values=values | {"size": found.size}, files={"model": str(job.out)})
