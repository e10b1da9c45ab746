"""What is looked for in folders: the same endings everywhere."""

from pathlib import Path

import pytest

from napari_msunet.data.folders import pair_files, read_table
from napari_msunet.data.published.entry import with_outlines
from napari_msunet.inference.slide_inputs import slide_inputs
from napari_msunet.slide.slide import DOUBLE, READABLE, SLIDES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty file of each kind, some with two dots, and one in capitals."""
    folder = tmp_path / "images"
    folder.mkdir()
    for ending in (*READABLE, *DOUBLE, ".QPTIFF"):
        (folder / f"{ending.strip('.').replace('.', '-')}-scan{ending}").touch()
    return folder


def names(folder: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in folder.iterdir()}


def test_folders_of_slides_to_predict(folder: Path, tmp_path: Path):
    (folder / "ome-zarr-scan.ome.zarr").unlink()  # a folder, as every zarr
    found = {given.out.name.removesuffix(".ome.zarr") for given in slide_inputs([folder], tmp_path)}
    assert found == names(folder)


def test_folders_of_images_to_train_on(folder: Path, tmp_path: Path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in names(folder):
        (masks / f"{name}.png").touch()
    pairs, alone = pair_files(folder, masks)
    assert ({name for name, _, _ in pairs}, alone) == (names(folder), [])


def test_names_in_tables_with_their_endings(folder: Path, tmp_path: Path):
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["name", *(path.name for path in folder.iterdir())]))
    assert names(folder) <= set(read_table(table)[1])


def test_slides_with_outlines_beside_them(folder: Path):
    found = {image.suffix for image, _ in with_outlines(folder)}
    assert {*SLIDES, ".QPTIFF"} <= found
