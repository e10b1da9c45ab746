"""An image given twice never stands on both sides: by its pixels, in whatever file and under whatever name."""

import shutil

import numpy as np
import pytest
import tifffile
from data.making import CONFIG
from PIL import Image

from napari_msunet.config import FolderSource, TableSource
from napari_msunet.data import load_sources
from napari_msunet.data.split import split
from napari_msunet.errors import SourceError


def folder(path, seeds, masks=None):
    """Images of noise, each with its mask."""
    for kind in ("i", "m"):
        (path / kind).mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        rng = np.random.default_rng(seed)
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path / "i" / f"{name}.png")
        mask = np.zeros((40, 50), np.uint8)
        mask[5:25, 5 : 25 + (masks or {}).get(name, 0)] = 1
        Image.fromarray(mask).save(path / "m" / f"{name}.png")
    return FolderSource(images=path / "i", masks=path / "m", mpp=1.0)


def loaded(*sources):
    said = []
    items = load_sources(sources, CONFIG, lambda level, text: said.append((level, text)))
    return items, [text for level, text in said if level == "warning"]


def test_a_row_twice(tmp_path):
    folder(tmp_path, {"a": 0, "b": 1})
    table = tmp_path / "t.csv"
    table.write_text("Images;MASKS\n\ni/a.png;m/a.png\n;\ni/b.png;m/b.png\ni/../i/a.png;m/a.png\n")
    with pytest.raises(SourceError, match=r"Row 6 of .*t.csv gives the image i/../i/a.png again; remove it"):
        loaded(TableSource(table=table, mpp=1.0))


def test_a_folder_twice_counts_once(tmp_path):
    source = folder(tmp_path, {"a": 0, "b": 1})
    items, warned = loaded(source, source)
    assert [i.name for i in items] == ["a", "b"]
    assert warned[0].startswith("2 images are given again")


def test_other_names_and_files(tmp_path):
    source = folder(tmp_path / "1", {"a": 0, "b": 1, "c": 2})
    other = folder(tmp_path / "2", {"z": 0})
    tifffile.imwrite(tmp_path / "2" / "i" / "y.tif", np.asarray(Image.open(tmp_path / "1" / "i" / "b.png")))
    shutil.copy(tmp_path / "1" / "m" / "b.png", tmp_path / "2" / "m" / "y.png")
    items, warned = loaded(source, other)
    assert [i.name for i in items] == ["a", "b", "c"]
    assert "z.png (as " in warned[0]
    assert "y.tif (as " in warned[0]


def test_two_truths_of_one_image_stay_together(tmp_path):
    first = folder(tmp_path / "1", {"a": 0, "b": 1, "c": 2, "d": 3})
    second = folder(tmp_path / "2", {"a2": 0, "b2": 1, "c2": 2, "d2": 3}, dict.fromkeys(("a2", "b2", "c2", "d2"), 9))
    items, warned = loaded(first, second)
    assert len(items) == 8
    assert any("stay on one side of the split" in text for text in warned)
    for seed in range(4):
        sides = split(items, 0.5, seed, classes=CONFIG.classes)
        train, validate = ({i.name[0] for i in side} for side in (sides.train, sides.validate))
        assert train
        assert validate
        assert not train & validate


def test_groups_are_joined(tmp_path):
    """Two patients share an image (it was filed under both): all of both stand on one side."""
    source = folder(tmp_path, {"p1_a": 0, "p1_b": 1, "p2_a": 0, "p2_b": 2, "p3_a": 3}, {"p2_a": 9})
    items, _ = loaded(source.model_copy(update={"group": r"^(p\d)"}))
    assert [i.group for i in items] == ["p1", "p1", "p1", "p1", "p3"]


def test_roles_by_hand(tmp_path):
    train = folder(tmp_path / "1", {"a": 0, "b": 1}).model_copy(update={"role": "train"})
    test = folder(tmp_path / "2", {"z": 0, "y": 5}).model_copy(update={"role": "test"})
    with pytest.raises(
        SourceError, match=r"a.png and .*z.png have the same pixels, and are given to train and to test"
    ):
        loaded(train, test)
    items, warned = loaded(train.model_copy(update={"role": "auto"}), test)
    assert {i.name: i.role for i in items} == {"b": "auto", "z": "test", "y": "test"}
    assert "a.png (as " in warned[0]


def test_a_frozen_image_in_another_file(tmp_path):
    from napari_msunet.training.held_out import hold_out

    items, _ = loaded(folder(tmp_path, {"a": 0, "b": 1}))
    frozen = hold_out(items[:1], ())
    assert frozen.known(items[1]) is None
    tifffile.imwrite(tmp_path / "i" / "b.tif", np.asarray(Image.open(tmp_path / "i" / "a.png")))
    (tmp_path / "i" / "b.png").unlink()
    (tmp_path / "i" / "a.png").unlink()
    (again,), _ = loaded(FolderSource(images=tmp_path / "i", masks=tmp_path / "m", mpp=1.0))
    assert frozen.known(again).name == "a"
