"""Folders and slides become items; what does not fit gives one sentence."""

from pathlib import Path

import numpy as np
import pytest
from data.making import CONFIG, write_folder
from PIL import Image

from napari_msunet.config import FolderSource, ModelConfig, SlideSource
from napari_msunet.constants import IGNORED
from napari_msunet.data import load_sources
from napari_msunet.errors import MissingMppError, MsunetError, SlideError, SourceError
from napari_msunet.geometry import Region, Window
from napari_msunet.labels import LabelStore
from napari_msunet.slide import build_pyramid, open_slide


def source(images: Path, masks: Path, **options) -> FolderSource:
    return FolderSource(images=images, masks=masks, **({"mpp": 1.0} | options))


def test_a_folder_becomes_items(tmp_path: Path):
    images, masks = write_folder(tmp_path, 3)
    items = load_sources([source(images, masks, mpp=0.5)], CONFIG)
    assert [i.name for i in items] == ["name0", "name1", "name2"]
    assert items[0].grid.shape == (40, 48)
    truth = items[0].truth_on_target(items[0].grid.whole)
    assert set(np.unique(truth)) == {0, 1}
    whole = items[0].truth.read(items[0].truth.grid.whole)
    np.testing.assert_array_equal(whole, np.asarray(Image.open(masks / "name0.png")))
    assert items[0].truth.read(Window(-1, 0, 2, 1)).tolist() == [[IGNORED], [0]]


def test_several_sources_and_roles(tmp_path: Path):
    a, b = write_folder(tmp_path / "a", 2), write_folder(tmp_path / "b", 1, (64, 80))
    items = load_sources([source(*a, role="train"), source(*b, role="test")], CONFIG)
    assert [i.role for i in items] == ["train", "train", "test"]


def test_0_255_is_read_and_said(tmp_path: Path):
    images, masks = write_folder(tmp_path, 2, value=255)
    said: list[tuple[str, str]] = []
    items = load_sources([source(images, masks)], CONFIG, lambda level, text: said.append((level, text)))
    assert any("255" in text and "disc" in text for _, text in said)
    assert set(np.unique(items[0].truth_on_target(items[0].grid.whole))) == {0, 1}


def test_one_folder_with_a_suffix(tmp_path: Path):
    images, masks = write_folder(tmp_path, 2)
    for path in masks.iterdir():
        path.rename(images / f"{path.stem}_mask.png")
    items = load_sources([source(images, images, mask_suffix="_mask")], CONFIG)
    assert [i.name for i in items] == ["name0", "name1"]
    with pytest.raises(SourceError, match="mask_suffix"):
        load_sources([source(images, images)], CONFIG)


def test_images_without_a_mask_are_left_out_and_said(tmp_path: Path):
    images, masks = write_folder(tmp_path, 3)
    (masks / "name1.png").unlink()
    said: list[str] = []
    items = load_sources([source(images, masks)], CONFIG, lambda level, text: said.append(f"{level}: {text}"))
    assert [i.name for i in items] == ["name0", "name2"]
    assert any(s.startswith("warning") and "name1" in s for s in said)


def test_the_table_gives_group_and_mpp(tmp_path: Path):
    images, masks = write_folder(tmp_path, 2)
    table = tmp_path / "table.csv"
    table.write_text("﻿image;mpp;patient\nname0.png;0.5;p1\nname1;2;p2\n", encoding="utf-8")
    items = load_sources([source(images, masks, mpp=None, table=table, group="patient")], CONFIG)
    assert [i.group for i in items] == ["p1", "p2"]
    assert [i.grid.shape for i in items] == [(40, 48), (160, 192)]


def test_the_group_as_a_pattern(tmp_path: Path):
    images, masks = write_folder(tmp_path, 2)
    assert [i.group for i in load_sources([source(images, masks, group="name(.)")], CONFIG)] == ["0", "1"]
    assert [i.group for i in load_sources([source(images, masks, group="^....")], CONFIG)] == ["name", "name"]


@pytest.mark.parametrize(
    ("options", "text", "words"),
    [
        ({"group": "patient"}, "name,person\nname0,a\nname1,b", ["patient", "person", "name0"]),
        ({"group": "patient"}, "name,patient\nname0,a\n", ["patient", "name1"]),
        ({"group": "("}, None, ["regular expression"]),
        ({}, "file,patient\na,b", ["file, patient", "name"]),
        ({"mpp": None}, "name,mpp\nname0,half\nname1,1", ["half", "name0"]),
        ({"mpp": None}, None, ["µm", "name0", "mpp"]),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, options, text, words):
    images, masks = write_folder(tmp_path, 2)
    if text is not None:
        options = options | {"table": tmp_path / "t.csv"}
        options["table"].write_text(text)
    with pytest.raises((SourceError, MissingMppError)) as error:
        load_sources([source(images, masks, **options)], CONFIG)
    assert all(w in str(error.value) for w in words), error.value


def test_a_mask_of_another_size(tmp_path: Path):
    images, masks = write_folder(tmp_path, 2)
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(masks / "name1.png")
    with pytest.raises(SourceError, match=r"name1\.png has 7 x 9 .* 80 x 96"):
        load_sources([source(images, masks)], CONFIG)


def test_a_mask_with_values_that_are_no_class(tmp_path: Path):
    images, masks = write_folder(tmp_path, 2, value=37)
    with pytest.raises(SourceError, match=r"37.*disc.*values="):
        load_sources([source(images, masks)], CONFIG)


def test_other_channels(tmp_path: Path):
    images, masks = write_folder(tmp_path, 1)
    with pytest.raises(SourceError, match="3 channels, the model is set to 1"):
        load_sources([source(images, masks)], CONFIG.model_copy(update={"channels": 1}))


def test_folders_that_are_not_there_or_do_not_pair(tmp_path: Path):
    images, masks = write_folder(tmp_path, 1)
    with pytest.raises(SourceError, match="no folder"):
        load_sources([source(tmp_path / "none", masks)], CONFIG)
    (masks / "name0.png").rename(masks / "other.png")
    with pytest.raises(SourceError, match=r"name0.*other"):
        load_sources([source(images, masks)], CONFIG)
    (masks / "other.jpg").touch()
    with pytest.raises(SourceError, match="both"):
        load_sources([source(images, masks)], CONFIG)


def test_a_file_that_is_no_image(tmp_path: Path):
    images, masks = write_folder(tmp_path, 1)
    (images / "name0.png").write_text("no image")
    with pytest.raises(SlideError):
        load_sources([source(images, masks)], CONFIG)


# -------------------------------------------------------------------------------------------------------------- slides


@pytest.fixture
def pyramid(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "s.png")
    return build_pyramid(tmp_path / "s.png", tmp_path / "s.ome.zarr", mpp=0.5)


def annotated(slide: Path, path: Path, classes=("other", "disc"), mpp=None) -> LabelStore:
    from napari_msunet.slide import open_slide

    with open_slide(slide) as opened:
        return LabelStore.create(path, slide=opened, mpp=mpp, kind="annotation", classes=classes)


def test_an_annotated_slide(pyramid: Path, tmp_path: Path):
    store = annotated(pyramid, tmp_path / "a.ome.zarr")
    store.write(Region(100, 100, 40, 60), np.full((40, 60), 2, np.uint8))
    store.write(Region(200, 200, 20, 20), np.full((20, 20), 255, np.uint8))
    store.write(Region(10, 10, 10, 10), np.full((10, 10), 1, np.uint8))
    store.mark_annotated([(90, 90), (90, 170), (150, 170), (150, 90)])
    said: list[str] = []
    (item,) = load_sources(
        [SlideSource(slide=pyramid, labels=tmp_path / "a.ome.zarr")], CONFIG, lambda level, text: said.append(text)
    )
    assert any("other" in text for text in said)
    own = item.truth.read(item.truth.grid.whole)
    expected = np.full((300, 400), IGNORED, np.uint8)
    expected[90:150, 90:170] = 0
    expected[100:140, 100:160] = 1
    expected[200:220, 200:220] = 0
    np.testing.assert_array_equal(own, expected)
    # At the model's 1 µm per pixel, twice the slide's.
    np.testing.assert_array_equal(item.truth_on_target(item.grid.whole), expected[::2, ::2])
    assert item.group == "s"
    assert set(item.places) == {0, 1}
    store.close()


def test_a_label_store_is_all_truth(pyramid: Path, tmp_path: Path):
    from napari_msunet.slide import open_slide

    with open_slide(pyramid) as slide:
        store = LabelStore.create(tmp_path / "l.ome.zarr", slide=slide, mpp=1.0, kind="labels", classes=("disc",))
    store.write(Region(10, 20, 5, 6), np.full((5, 6), 1, np.uint8))
    (item,) = load_sources([SlideSource(slide=pyramid, labels=tmp_path / "l.ome.zarr")], CONFIG)
    truth = item.truth_on_target(Window(0, 0, 150, 200))
    assert truth.sum() == 30
    assert truth[10:15, 20:26].all()
    assert item.truth_on_target(Window(-1, 0, 1, 2)).tolist() == [[IGNORED, IGNORED]]
    store.close()


@pytest.mark.parametrize("overview_pixels", [2**24, 500])
def test_of_a_corrected_prediction_only_the_edits_are_true(pyramid: Path, tmp_path: Path, monkeypatch, overview_pixels):
    monkeypatch.setattr("napari_msunet.data.truth.OVERVIEW_PIXELS", overview_pixels)
    with open_slide(pyramid) as slide:
        store = LabelStore.create(tmp_path / "corrected.ome.zarr", classes=("disc",), slide=slide)
    run = store.create_run("machine", {}, ("disc",), {"labels": "uint8"})
    with run.writing():
        whole = Window(0, 0, *store.shape)
        run.write(whole, {"labels": np.ones(store.shape, np.uint8)})
        run.finish(0, whole)
    store.merge(run)
    source = SlideSource(slide=pyramid, labels=store.path, edited_only=True)
    with pytest.raises(SourceError, match="Nothing was corrected"):
        load_sources([source], CONFIG)

    mask = np.eye(9, 12, dtype=bool)
    store.write(Window(30, 20, 9, 12), 0, mask)  # taken away, sparsely
    store.write(Window(33, 50, 1, 2), 1)  # confirmed as it is
    (item,) = load_sources([source], CONFIG)
    expected = np.full(store.shape, 255, np.uint8)
    expected[30:39, 20:32][mask] = 0
    expected[33, 50:52] = 1
    np.testing.assert_array_equal(item.truth.read(Window(0, 0, *store.shape)), expected)
    assert sorted(item.places) == [0, 1]
    for value, places in item.places.items():
        pixel = item.truth.overview()[1].pixel[0]
        for y, x in places:
            near = expected[int(y - pixel / 2) : int(y + pixel / 2) + 1, int(x - pixel / 2) : int(x + pixel / 2) + 1]
            assert (near == value).any()
    (all_of_it,) = load_sources([source.model_copy(update={"edited_only": False})], CONFIG)
    assert (all_of_it.truth.read(Window(0, 0, *store.shape)) != 255).all()
    store.close()


def test_stores_that_do_not_fit(pyramid: Path, tmp_path: Path):
    annotated(pyramid, tmp_path / "empty.ome.zarr").close()
    with pytest.raises(SourceError, match="Nothing is annotated in"):
        load_sources([SlideSource(slide=pyramid, labels=tmp_path / "empty.ome.zarr")], CONFIG)
    annotated(pyramid, tmp_path / "names.ome.zarr", classes=("x",)).close()
    with pytest.raises(SourceError, match="none is the same"):
        load_sources([SlideSource(slide=pyramid, labels=tmp_path / "names.ome.zarr")], CONFIG)
    LabelStore.create(tmp_path / "size.ome.zarr", shape=(9, 9), mpp=0.5, classes=("disc",)).close()
    with pytest.raises(SourceError, match="9 x 9"):
        load_sources([SlideSource(slide=pyramid, labels=tmp_path / "size.ome.zarr")], CONFIG)
    with pytest.raises(MsunetError):
        load_sources([SlideSource(slide=pyramid, labels=tmp_path / "none.ome.zarr")], CONFIG)


def test_glands(shared_data: Path):
    folder = shared_data / "glas-dev"
    config = ModelConfig(classes=("gland",), mpp=1.24)
    options = {"values": "instances", "table": folder / "slides.csv", "group": "patient", "mpp": 0.62}
    items = load_sources([source(folder / "images", folder / "masks", **options)], config)
    assert len(items) == 88
    assert items[0].group == "10"
    assert items[0].grid.shape == (261, 388)
