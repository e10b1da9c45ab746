"""Writing the state of the dock into its project, and reading it again later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from napari.utils.notifications import show_info, show_warning
from pydantic import BaseModel, ValidationError

from napari_msunet.app.project import FILE, FileReference, ModelName, Project, ProjectNote, SlideNote, default_folder
from napari_msunet.errors import MsunetError
from napari_msunet.slide import open_slide
from napari_msunet.slide.identity import path_identity
from napari_msunet.widgets.state import MeasureChoices, PredictChoices, SlideRecord, State, TrainChoices


def record_of(path: Path, mpp: tuple[float, float] | Literal["px"] | None = None) -> SlideRecord:
    """A slide's record, from its file.

    Raises
    ------
    SlideError
        If it cannot be read.
    """
    with open_slide(path) as own:
        size, channels, found, numbers = (own.shape[0], own.shape[1]), own.shape[2], own.mpp, own.numbers
        note = own.mpp_note
    identity = path_identity(path) if path.is_file() else None
    record = SlideRecord(path, size, channels, found, numbers=numbers, mpp_note=note, identity=identity)
    if mpp is not None and mpp != found:
        record.give_size(mpp)
    return record


def remember(state: State) -> None:
    """Write the state into its project, if it has one; `OutputError` if the disk refuses."""
    project = state.project
    if project is None:
        return

    def place(path: Path | None) -> FileReference | None:
        return None if path is None else project.place(path)

    slides = tuple(
        SlideNote(
            path=project.place(record.path),
            mpp=record.job_mpp,
            kind=record.kind,
            value_range=record.value_range,
            identity=record.identity,
            role=record.role,
            annotation=place(record.annotation),
            labels=place(record.labels),
            tissue=place(record.tissue),
            corrections=record.corrections,
            regions=record.regions,
            view=record.view,
            maps=record.maps,
            queue=record.queue,
        )
        for record in state.slides
    )
    note = ProjectNote(
        classes=state.classes,
        slides=(*slides, *state.lost),
        sets=tuple(state.sets),
        model=state.model if state.model_chosen else None,
        model_path=place(state.model_path),
        ensemble=tuple(project.place(path) for path in state.ensemble),
        train=_differences(state.train_options),
        predict=_differences(state.predict_options),
        measure=_differences(state.measure_options),
        active=place(state.active.path if state.active else None),
        step=state.step,
        training=place(state.training),
        names=tuple(ModelName(path=project.place(path), name=name) for path, name in state.model_names.items()),
    )
    if note != project.note:
        project.save(note)


def recall(state: State, project: Project) -> list[str]:
    """Set the state to what a project holds.

    Returns
    -------
    list of str
        A sentence for each slide that is not where it was, or that cannot be read.
    """
    note, problems = project.note, []
    state.take_project(project)
    state.lost = []
    for slide in note.slides:
        path = project.find(slide.path)
        try:
            record = state.slide_at(path) or _moved_here(state, slide, path) or record_of(path, slide.mpp)
        except MsunetError as error:
            state.lost.append(slide)
            problems.append(
                f"{path.name} is not where it was ({path.parent}): click it in the list of slides to say where it is "
                "now; its annotation waits for it."
                if not path.exists()
                else str(error)
            )
            continue
        adopt(state, record, slide)
        if record not in state.slides:
            state.slides.append(record)
    if note.classes:
        state.classes = note.classes
    state.sets = list(note.sets)
    if note.model is not None:
        state.set_model(note.model)
    state.model_path = None if note.model_path is None else project.find(note.model_path)
    state.ensemble = tuple(path for path in map(project.find, note.ensemble) if path.is_file())
    for name, kind in (("train", TrainChoices), ("predict", PredictChoices), ("measure", MeasureChoices)):
        try:
            setattr(state, f"{name}_options", kind.model_validate(getattr(note, name)))
        except ValidationError:
            problems.append(f"The options in {project.folder} to {name} cannot be used; the usual ones are taken.")
    active = None if note.active is None else state.slide_at(project.find(note.active))
    if state.active is None and state.slides:
        state.activate(active or state.slides[0])
    state.step = note.step
    state.training = None if note.training is None else project.find(note.training)
    state.model_names = {project.find(one.path): one.name for one in note.names}
    for what in ("project", "slides", "classes", "model", "train", "predict", "results"):
        state.emit(what)
    return problems


def adopt(state: State, record: SlideRecord, slide: SlideNote) -> None:
    """Set what the project keeps about a slide in its record."""
    project = state.project
    if project is None:
        return
    state.lost = [one for one in state.lost if one is not slide]
    record.role, record.corrections, record.regions = slide.role, slide.corrections, slide.regions
    record.view, record.maps, record.queue = slide.view, slide.maps, slide.queue
    if slide.mpp is not None:
        record.give_size(slide.mpp)
    record.kind, record.value_range = slide.kind or record.kind, slide.value_range or record.value_range
    if slide.annotation is not None:  # also an annotation that is gone: a training must not begin without it unnoticed
        record.annotation = project.find(slide.annotation).resolve()
    record.labels = _existing(project, slide.labels) or record.labels
    record.tissue = _existing(project, slide.tissue) or record.tissue
    if record.labels is not None:
        state.predicted.add(record.labels)


def moved(project: Project, record: SlideRecord, lost: Sequence[SlideNote] = ()) -> SlideNote | None:
    """What a project keeps about a slide: the note with its path, or that of a moved slide with the same content."""
    notes = (*lost, *project.note.slides)  # notes of slides that are lost first: they are forgotten by identity
    for slide in notes:
        if project.find(slide.path) == record.path:
            return slide
    for slide in notes:
        if record.identity is not None and slide.identity == record.identity and not project.find(slide.path).exists():
            return slide
    return None


def known_before(state: State, record: SlideRecord) -> None:
    """Set what its project keeps about a slide in its record; the project beside the first slide opens by itself."""
    folder = state.project_folder() if state.slides or state.project else None
    if state.project is None:
        folder = folder or default_folder(record.path)
        if not (folder / FILE).is_file():
            return
        project = Project.open(folder)
        if moved(project, record) is None:
            return
        try:
            state.take_project(project)
        except MsunetError as error:  # the slide can be looked at all the same
            show_warning(str(error))
            return
        state.slides.append(record)
        step = state.step
        for problem in recall(state, project):
            show_warning(problem)
        state.step = step  # a slide was opened: the dock stays where the person is
        show_info(f"The project {project.folder.name} goes on.")
    note = moved(state.project, record, state.lost) if state.project else None
    if note is not None:
        adopt(state, record, note)


def _moved_here(state: State, slide: SlideNote, path: Path) -> SlideRecord | None:
    """The open slide with the content of one that is not where it was."""
    if slide.identity is None or path.exists():
        return None
    return next((record for record in state.slides if record.identity == slide.identity), None)


def _existing(project: Project, place: FileReference | None) -> Path | None:
    path = None if place is None else project.find(place)
    return path.resolve() if path is not None and path.exists() else None


def _differences(options: BaseModel) -> dict[str, object]:
    return options.model_dump(mode="json", exclude_defaults=True)
