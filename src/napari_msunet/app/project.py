"""A project: the folder ``NAME.msunet/`` with everything made from some slides, and the options that were chosen."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import platformdirs
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from napari_msunet._io import make_folder, read_json, write_json
from napari_msunet.config import GivenRange, ImageSet, Kind, ModelConfig, Positive, Role
from napari_msunet.errors import MsunetError, StoreError

ENDING = ".msunet"
FILE = "project.json"
ROOMS = ("annotations", "models", "predictions", "runs", "slides", "tissue")

SCHEMA_VERSION = 1


class ProjectError(MsunetError):
    """A project folder cannot be used."""


Ring = tuple[tuple[float, float], ...]


class FileReference(BaseModel):
    """The path of a file, kept so that the file is found again after the project, or both together, were moved.

    Attributes
    ----------
    relative : str
        The path from the project's folder, with forward slashes; tried first. Empty for a file on another drive.
    absolute : str, optional
        The whole path; None for a file inside the project.
    """

    model_config = ConfigDict(frozen=True)

    relative: str
    absolute: str | None = None


class SlideNote(BaseModel):
    """A slide of the project.

    Attributes
    ----------
    mpp : (y, x) or "px", optional
        µm per pixel that a person gave, because the file has none.
    kind, value_range : optional
        What its values mean, where a person gave it.
    identity : str, optional
        Hash of the slide's content, by which it is recognised after it was moved.
    annotation, labels : FileReference, optional
        Its annotation and its predicted, corrected labels.
    tissue : FileReference, optional
        The label store of its tissue.
    corrections : bool
        Whether corrected pixels of `labels` count as truth in training.
    regions : tuple of rings
        The drawn regions in which to predict: corners in level-0 pixels, `(y, x)`.
    """

    model_config = ConfigDict(frozen=True)

    path: FileReference
    mpp: tuple[Positive, Positive] | Literal["px"] | None = None
    kind: Kind | None = None
    value_range: GivenRange | None = None
    identity: str | None = None
    role: Role = "auto"
    annotation: FileReference | None = None
    labels: FileReference | None = None
    tissue: FileReference | None = None
    corrections: bool = False
    regions: tuple[Ring, ...] = ()


class ProjectNote(BaseModel):
    """The contents of ``project.json``: the slides, the sources and the options; no pixels and no weights."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    classes: tuple[str, ...] = ()
    slides: tuple[SlideNote, ...] = ()
    sets: tuple[ImageSet, ...] = Field(default=(), validation_alias=AliasChoices("sets", "folders"))
    model: ModelConfig | None = None
    model_path: FileReference | None = None
    ensemble: tuple[FileReference, ...] = ()
    train: dict[str, Any] = Field(default_factory=dict)
    predict: dict[str, Any] = Field(default_factory=dict)

    @field_validator("schema_version")
    @classmethod
    def _known(cls, version: int) -> int:
        if version > SCHEMA_VERSION:
            raise ValueError(f"it was written by a newer napari-msunet (schema {version}): update it")
        return version


class Project:
    """The folder of a project.

    It is made by `Project.create` and opened by `Project.open`.

    Attributes
    ----------
    folder : Path
        ``NAME.msunet``.
    note : ProjectNote
        The contents of `project.json`; `save` replaces them.
    """

    def __init__(self, folder: Path, note: ProjectNote) -> None:
        self.folder = folder
        self.note = note

    @classmethod
    def create(cls, folder: str | Path) -> Self:
        """Make the folder, or open the project that is there.

        Raises
        ------
        ProjectError
            If there is something else at that path.
        OutputError
            If the folder cannot be written.
        """
        where = _absolute(folder)
        if (where / FILE).exists():
            return cls.open(where)
        if where.exists() and (not where.is_dir() or any(where.iterdir())):
            raise ProjectError(f"{where} is there already and is no project; choose another name.")
        project = cls(where, ProjectNote())
        for room in ROOMS:
            make_folder(where / room)
        project.save(project.note)
        return project

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a project.

        Raises
        ------
        ProjectError
            If the folder is no project, damaged, or from a newer version.
        """
        where = _absolute(folder)
        if where.name == FILE:
            where = where.parent
        if not (where / FILE).is_file():
            raise ProjectError(
                f"{where} is no project of napari-msunet (it has no {FILE}); choose a folder NAME{ENDING}."
            )
        try:
            return cls(where, ProjectNote.model_validate(read_json(where / FILE)))
        except (ValidationError, StoreError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise ProjectError(
                f"{where / FILE} cannot be used: {str(reason).removeprefix('Value error, ').rstrip('.')}."
            ) from error

    @property
    def name(self) -> str:
        """The folder's name without its ending."""
        return self.folder.name.removesuffix(ENDING)

    def save(self, note: ProjectNote) -> None:
        """Write `project.json`, whole or not at all; `OutputError` if the disk refuses."""
        write_json(self.folder / FILE, note.model_dump(mode="json"))
        self.note = note

    # --------------------------------------------------------------------------------------------------------- places

    def place(self, path: str | Path) -> FileReference:
        """The reference to `path` that is kept in the project."""
        where = _absolute(path)
        try:
            relative = Path(os.path.relpath(where, self.folder)).as_posix()
        except ValueError:  # Windows: the file is on another drive
            return FileReference(relative="", absolute=str(where))
        return FileReference(relative=relative, absolute=None if self.folder in where.parents else str(where))

    def find(self, place: FileReference) -> Path:
        """The present path of a file; where it is not found, the path that it had."""
        absolute = Path(place.absolute) if place.absolute else None
        near = _absolute(self.folder / place.relative) if place.relative else None
        for path in (near, absolute):
            if path is not None and path.exists():
                return path
        return absolute or near or self.folder

    def annotation_path(self, slide: str) -> Path:
        """A free path for the annotation of a slide of this name."""
        return self._free("annotations", slide, ".ome.zarr")

    def labels_path(self, slide: str) -> Path:
        """A free path for the predicted labels of a slide of this name."""
        return self._free("predictions", slide, ".ome.zarr")

    def tissue_path(self, slide: str) -> Path:
        """A free path for the tissue of a slide of this name."""
        return self._free("tissue", slide, ".ome.zarr")

    def slide_path(self, name: str) -> Path:
        """A free path for a pyramid of a layer without a file."""
        return self._free("slides", name, ".ome.zarr")

    def model_path(self, name: str) -> Path:
        """A free path for a model that was made without training."""
        return self._free("models", name, ".safetensors")

    def new_run(self) -> Path:
        """A free folder for a training, named by the time."""
        return self._free("runs", datetime.now().strftime("%Y-%m-%d %H.%M.%S"), "")

    def _free(self, room: str, name: str, ending: str) -> Path:
        clean = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", name).strip(". ") or "unnamed"
        path, number = self.folder / room / f"{clean}{ending}", 2
        while path.exists():
            path, number = self.folder / room / f"{clean} {number}{ending}", number + 1
        return path


def default_folder(slide: str | Path | None) -> Path:
    """The default folder of a project: beside the slide, else in the user's documents.

    The folder may exist already, and may then be the project of an earlier day.
    """
    if slide is not None:
        path = _absolute(slide)
        if os.access(path.parent, os.W_OK):
            return path.parent / f"{path.name.split('.')[0]}{ENDING}"
        return Path(platformdirs.user_documents_dir()) / f"{path.name.split('.')[0]}{ENDING}"
    return Path(platformdirs.user_documents_dir()) / f"napari{ENDING}"


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))
