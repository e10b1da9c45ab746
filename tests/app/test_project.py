"""A project's folder: made, opened, moved; what is damaged or foreign is said in one sentence."""

from __future__ import annotations

import json
import shutil

import pytest

from napari_msunet.app.project import FILE, ROOMS, Project, ProjectError, ProjectNote, SlideNote, default_folder
from napari_msunet.config import FolderSource, ModelConfig
from napari_msunet.errors import OutputError


def test_a_new_project_has_its_rooms_and_opens_again(tmp_path):
    project = Project.create(tmp_path / "gland.msunet")
    assert project.name == "gland"
    assert all((project.folder / room).is_dir() for room in ROOMS)
    note = ProjectNote(
        classes=("gland",),
        folders=(FolderSource(images="a", masks="b", values={1: "gland"}),),
        model=ModelConfig(classes=("gland",), mpp=0.5),
        train={"epochs": 3},
    )
    project.save(note)
    assert Project.open(project.folder).note == note
    assert Project.create(project.folder).note == note
    assert Project.open(project.folder / FILE).folder == project.folder


def test_moving_the_folder_breaks_nothing_that_lives_in_it(tmp_path):
    (tmp_path / "here").mkdir()
    slide = tmp_path / "here" / "a.svs"
    slide.write_bytes(b"slide")
    project = Project.create(tmp_path / "here" / "a.msunet")
    inside = project.annotation_path("a")
    inside.mkdir()
    project.save(ProjectNote(slides=(SlideNote(path=project.place(slide), annotation=project.place(inside)),)))
    assert str(tmp_path) not in json.dumps(json.loads((project.folder / FILE).read_text())["slides"][0]["annotation"])

    moved = Project.open(shutil.move(project.folder, tmp_path / "elsewhere.msunet"))
    note = moved.note.slides[0]
    assert moved.find(note.annotation) == moved.folder / "annotations" / "a.ome.zarr"
    assert moved.find(note.path) == slide  # it stayed where it was

    shutil.move(tmp_path / "elsewhere.msunet", tmp_path / "here" / "a.msunet")
    both = tmp_path / "both"
    shutil.move(tmp_path / "here", both)  # slide and project together
    again = Project.open(both / "a.msunet")
    assert again.find(again.note.slides[0].path) == both / "a.svs"


def test_what_is_gone_is_where_it_was(tmp_path):
    project = Project.create(tmp_path / "a.msunet")
    place = project.place(tmp_path / "gone.svs")
    assert project.find(place) == tmp_path / "gone.svs"


def test_names_are_free_and_fit_every_system(tmp_path):
    project = Project.create(tmp_path / "a.msunet")
    first = project.annotation_path('x/y:"z"')
    assert first.name == "x_y__z_.ome.zarr"
    first.mkdir()
    assert project.annotation_path('x/y:"z"').name == "x_y__z_ 2.ome.zarr"


def test_it_goes_beside_the_slide_else_into_the_documents(tmp_path):
    assert default_folder(tmp_path / "a.ome.tif") == tmp_path / "a.msunet"
    assert default_folder(tmp_path / "not there" / "a.svs").name == "a.msunet"
    assert default_folder(tmp_path / "not there" / "a.svs").parent != tmp_path / "not there"


def test_what_is_no_project_is_said(tmp_path):
    with pytest.raises(ProjectError, match="is no project of napari-msunet"):
        Project.open(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ProjectError, match="is there already and is no project"):
        Project.create(tmp_path / "full")
    (tmp_path / "file").write_text("")
    with pytest.raises((OutputError, ProjectError)):
        Project.create(tmp_path / "file" / "a.msunet")


@pytest.mark.parametrize(
    ("text", "words"), [("{", "no JSON"), ('{"schema_version": 9}', "newer"), ('{"slides": 3}', "cannot be used")]
)
def test_a_damaged_or_newer_project_is_said(tmp_path, text, words):
    project = Project.create(tmp_path / "a.msunet")
    (project.folder / FILE).write_text(text)
    with pytest.raises(ProjectError, match=words):
        Project.open(project.folder)
