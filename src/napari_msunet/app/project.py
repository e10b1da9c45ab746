"""A project: the folder ``NAME.msunet/`` with everything made from some slides, and the options that were chosen."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import platformdirs
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from napari_msunet._io import make_folder, read_json, write_json
from napari_msunet.config import GivenRange, ImageSet, Kind, ModelConfig, Positive, Role
from napari_msunet.errors import MsunetError, StoreError, StoreLockedError
from napari_msunet.jobs.settings import load_settings, save_settings
from napari_msunet.labels.lock import WriterLock

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


View = tuple[float, float, float]


class MapsNote(BaseModel):
    """The maps and instances of a run that were in the viewer, and which of these layers were visible, by name."""

    model_config = ConfigDict(frozen=True)

    run: str
    visible: tuple[str, ...] = ()


SlideRole = Role | Literal["none"]
"""What a slide is for; "none": nothing of it takes part in a training."""


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
    view : (y, x, zoom), optional
        What was in view: the centre in level-0 pixels, and pixels of the screen for each of them.
    maps : MapsNote, optional
        The maps of a prediction that were in the viewer.
    queue : (by, size), optional
        The ranking of its places to review, and their side in pixels of the labels.
    """

    model_config = ConfigDict(frozen=True)

    path: FileReference
    mpp: tuple[Positive, Positive] | Literal["px"] | None = None
    kind: Kind | None = None
    value_range: GivenRange | None = None
    identity: str | None = None
    role: SlideRole = "auto"
    annotation: FileReference | None = None
    labels: FileReference | None = None
    tissue: FileReference | None = None
    corrections: bool = False
    regions: tuple[Ring, ...] = ()
    view: View | None = None
    maps: MapsNote | None = None
    queue: tuple[str, int] | None = None


class ModelName(BaseModel):
    """The name that a person gave to a model."""

    model_config = ConfigDict(frozen=True)

    path: FileReference
    name: str


class ProjectNote(BaseModel):
    """The contents of ``project.json``: the slides, the sources and the options; no pixels and no weights.

    Attributes
    ----------
    active : FileReference, optional
        The slide that was shown.
    step : str
        The step of the dock that was open.
    training : FileReference, optional
        The folder of the training that was under way; it stays where the training was interrupted.
    names : tuple of ModelName
        The names that a person gave to models.
    """

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
    measure: dict[str, Any] = Field(default_factory=dict)
    active: FileReference | None = None
    step: str = ""
    training: FileReference | None = None
    names: tuple[ModelName, ...] = ()

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
        self._lock = WriterLock(folder, f"The project {self.name}")

    @classmethod
    def create(cls, folder: str | Path) -> Self:
        """Make the folder, or open the project that is there.

        Raises
        ------
        ProjectError
            If there is something else at that path, or it lies inside another project.
        OutputError
            If the folder cannot be written.
        """
        where = _absolute(folder)
        if (where / FILE).exists():
            return cls.open(where)
        if (around := project_around(where)) is not None:
            raise ProjectError(
                f"{where.name} would lie inside the project {around}: open that project, or choose a folder outside it."
            )
        if where.exists() and (not where.is_dir() or any(where.iterdir())):
            raise ProjectError(f"{where} is there already and is no project; choose another name.")
        project = cls(where, ProjectNote())
        for room in ROOMS:
            make_folder(where / room)
        project.save(project.note)
        return project

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a project: its folder, or anything inside it.

        Raises
        ------
        ProjectError
            If the folder is no project, damaged, or from a newer version.
        """
        where = _absolute(folder)
        if where.name == FILE:
            where = where.parent
        where = project_around(where) or where
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

    def hold(self) -> None:
        """Keep other windows from opening the project until `release`; two would overwrite each other's changes.

        Raises
        ------
        ProjectError
            If another window, of this process or another one, holds it.
        OutputError
            If the folder cannot be written.
        """
        if self._lock.held:
            return
        try:
            self._lock.acquire()
        except StoreLockedError:
            raise ProjectError(
                f"The project {self.name} is open already, by {self._lock.holder()}: go on there, or close it there "
                "first."
            ) from None

    def release(self) -> None:
        """Let other windows open the project."""
        self._lock.release()

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


def project_around(path: Path) -> Path | None:
    """The folder of the project that a path lies in, or is; None where there is none.

    Other programs have a ``project.json`` too, so a folder around the path only counts by its ending.
    """
    named = (folder for folder in (path, *path.parents) if folder == path or folder.name.endswith(ENDING))
    return next((folder for folder in named if (folder / FILE).is_file()), None)


def default_folder(slide: str | Path | None) -> Path:
    """The default folder of a project: the one the slide lies in, else beside it, else in the user's documents.

    The folder may exist already, and may then be the project of an earlier day.
    """
    if slide is not None:
        path = _absolute(slide)
        if (around := project_around(path.parent)) is not None:
            return around
        if os.access(path.parent, os.W_OK):
            return path.parent / f"{path.name.split('.')[0]}{ENDING}"
        return Path(platformdirs.user_documents_dir()) / f"{path.name.split('.')[0]}{ENDING}"
    return Path(platformdirs.user_documents_dir()) / f"napari{ENDING}"


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))


# ----------------------------------------------------------------------------------------------------------------------
# The projects that were open last, in the settings of a person.

_RECENT = 8
"""Projects that are remembered."""


def recent_projects() -> list[Path]:
    """The folders of the projects that were open last and are still there, the newest first."""
    try:
        found = load_settings().recent
    except MsunetError:  # whoever needs the settings for work says so
        return []
    return [path for path in map(Path, found) if (path / FILE).is_file()]


def note_recent(folder: Path) -> None:
    """Remember that a project was opened; settings that cannot be read or written stay as they are."""
    with suppress(MsunetError):
        settings = load_settings()
        recent = (str(folder), *(one for one in settings.recent if one != str(folder)))[:_RECENT]
        if recent != settings.recent:
            save_settings(settings.model_copy(update={"recent": recent}))
