"""Masks: their values as class numbers, and the majority on another grid."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from napari_msunet.config import FolderSource
from napari_msunet.config.base import fields_of, read_text
from napari_msunet.constants import IGNORED
from napari_msunet.data.masks import class_numbers, majority, read_mask
from napari_msunet.data.truth import MaskTruth, cut_out
from napari_msunet.errors import SourceError
from napari_msunet.geometry import Grid, Window


def test_class_numbers_stay():
    truth, stretched = class_numbers(np.array([[0, 2], [1, 2]]), "classes", ("a", "b"), "m")
    assert truth.dtype == np.uint8
    assert truth.tolist() == [[0, 2], [1, 2]]
    assert not stretched


def test_255_is_the_only_class():
    truth, stretched = class_numbers(np.array([[0, 255]]), "classes", ("a",), "m")
    assert truth.tolist() == [[0, 1]]
    assert stretched
    assert not class_numbers(np.zeros((2, 2), int), "classes", ("a",), "m")[1]


def test_instances_are_the_first_class():
    truth, _ = class_numbers(np.array([[0, 7], [300, 70000]]), "instances", ("a", "b"), "m")
    assert truth.tolist() == [[0, 1], [1, 1]]


def test_values_by_name():
    values = {3: "b", 7: "a", 9: "background", 255: "ignored"}
    truth, _ = class_numbers(np.array([[0, 3, 7, 9, 255]]), values, ("a", "b"), "m")
    assert truth.tolist() == [[0, 2, 1, 0, IGNORED]]


@pytest.mark.parametrize(
    ("mask", "values", "classes", "words"),
    [
        ([[0, 4, 9]], "classes", ("a", "b"), ["4, 9", "a, b", "instances"]),
        ([[0, 128, 255]], "classes", ("a",), ["128, 255"]),
        ([[0, 255]], "classes", ("a", "b"), ["255"]),
        ([[-1, 0]], "instances", ("a",), ["below 0"]),
        ([[0, 5]], {1: "a"}, ("a",), ["5", "does not name"]),
        ([[0, 1]], {1: "c"}, ("a",), ["c", "classes are a"]),
    ],
)
def test_wrong_values_are_listed(mask, values, classes, words):
    with pytest.raises(SourceError) as error:
        class_numbers(np.array(mask), values, classes, "m.png")
    assert all(word in str(error.value) for word in words)


def test_masks_of_all_kinds_are_read(tmp_path: Path):
    values = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    palette = Image.fromarray(values).convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(values).save(tmp_path / "grey.png")
    Image.fromarray(np.repeat(values[..., None], 3, -1)).save(tmp_path / "rgb.png")
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "sixteen.png")
    tifffile.imwrite(tmp_path / "a.tif", values.astype(np.int32))
    tifffile.imwrite(tmp_path / "float.tif", values.astype(np.float32))
    np.save(tmp_path / "a.npy", values)
    for name in ("palette.png", "grey.png", "rgb.png", "sixteen.png", "a.tif", "float.tif", "a.npy"):
        assert read_mask(tmp_path / name).tolist() == values.tolist(), name


def test_unreadable_masks_say_so(tmp_path: Path):
    (tmp_path / "text.png").write_text("no image")
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[0, 0, 0] = 9
    Image.fromarray(colour).save(tmp_path / "colour.png")
    tifffile.imwrite(tmp_path / "half.tif", np.full((2, 2), 0.5, np.float32))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, word in (
        ("text.png", "cannot be read"),
        ("colour.png", "colour"),
        ("half.tif", "fractions"),
        ("pickle.npy", "cannot be read"),
    ):
        with pytest.raises(SourceError, match=word):
            read_mask(tmp_path / name)


def by_hand(values, ratio, window):
    """The majority by counting the area of each source pixel, one target pixel at a time."""
    result = np.full(window.shape, IGNORED, np.uint8)
    for i in range(window.height):
        for j in range(window.width):
            votes: dict[int, float] = {}
            y0, x0 = (window.y + i) * ratio, (window.x + j) * ratio
            for y in range(int(np.floor(y0)), int(np.ceil(y0 + ratio)) + 1):
                for x in range(int(np.floor(x0)), int(np.ceil(x0 + ratio)) + 1):
                    area = max(0, min(y + 1, y0 + ratio) - max(y, y0)) * max(0, min(x + 1, x0 + ratio) - max(x, x0))
                    if (
                        area > 1e-6
                        and 0 <= y < values.shape[0]
                        and 0 <= x < values.shape[1]
                        and values[y, x] != IGNORED
                    ):
                        votes[int(values[y, x])] = votes.get(int(values[y, x]), 0) + area
            if votes:
                most = max(votes.values())
                tied = [v for v, n in votes.items() if n > most - 1e-6]
                result[i, j] = min(tied, key=lambda v: (v == 0, v))
    return result


@settings(max_examples=40, deadline=None)
@given(
    ratio=st.sampled_from([0.5, 0.75, 1.0, 1.5, 2.0, 2.6, 3.0]),
    y=st.integers(-3, 6),
    x=st.integers(-3, 6),
    seed=st.integers(0, 1000),
)
def test_majority_is_what_covers_most(ratio, y, x, seed):
    rng = np.random.default_rng(seed)
    values = rng.choice(np.array([0, 1, 2, IGNORED], np.uint8), (13, 11), p=[0.3, 0.3, 0.2, 0.2])
    own, grid = Grid((13, 11), (1.0, 1.0)), Grid((13, 11), (ratio, ratio))
    window = Window(y, x, 5, 4)
    found = majority(lambda w: cut_out(values, w), own, grid, window)
    np.testing.assert_array_equal(found, by_hand(values, ratio, window))


def test_a_tie_goes_to_a_class():
    values = np.array([[0, 2], [1, 0]], np.uint8)
    own, grid = Grid((2, 2), (1.0, 1.0)), Grid((2, 2), (2.0, 2.0))
    # Two votes for background beat one for each class; with one pixel ignored it is a tie of three.
    assert majority(lambda w: cut_out(values, w), own, grid, grid.whole).tolist() == [[0]]
    values[0, 0] = IGNORED
    assert majority(lambda w: cut_out(values, w), own, grid, grid.whole).tolist() == [[1]]


def test_a_released_mask_is_not_read_again_where_it_packs_well():
    from napari_msunet.data.truth import WholeTruth

    loads = []

    def load(values):
        loads.append(1)
        return values

    plain = np.zeros((200, 300), np.uint8)
    plain[50:90, 10:200] = 2
    noisy = np.random.default_rng(0).integers(0, 2, (900, 900), np.uint8)
    for values, expected in ((plain, 1), (noisy, 3)):
        loads.clear()
        truth = WholeTruth(lambda values=values: load(values), values.shape, "it")
        for _ in range(3):
            found = truth.mask()
            assert np.array_equal(found, values)
            found.setflags(write=True)
            truth.release()
        assert len(loads) == expected


TABLE = {"#ff0000": "a", "0/255/0": "b", "#ffffff": "ignored"}
COLOURED = np.array([[0, 1, 2], [3, 1, 0]])
PAINT = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [255, 255, 255]], np.uint8)
MEANT = np.array([[0, 1, 2], [255, 1, 0]])


def as_palette(path):
    image = Image.fromarray(COLOURED.astype(np.uint8), "P")
    image.putpalette(PAINT.tobytes())
    image.save(path)


COLOUR_FILES = {
    "colours.png": lambda p: Image.fromarray(PAINT[COLOURED]).save(p),
    "opacity.png": lambda p: Image.fromarray(np.dstack([PAINT[COLOURED], COLOURED.astype(np.uint8) * 80])).save(p),
    "palette.png": as_palette,
    "colours.bmp": lambda p: Image.fromarray(PAINT[COLOURED]).save(p),
    "colours.tif": lambda p: tifffile.imwrite(p, PAINT[COLOURED], photometric="rgb", compression="lzw"),
    "colours.npy": lambda p: np.save(p, PAINT[COLOURED]),
}


def colour_truth(path, table=None, classes=("a", "b")):
    source = FolderSource(images=path.parent, masks=path.parent, values=table or TABLE)
    return MaskTruth(path, COLOURED.shape, source.values, classes).mask()


@pytest.mark.parametrize("name", COLOUR_FILES)
def test_a_table_of_colours(tmp_path, name):
    COLOUR_FILES[name](tmp_path / name)
    assert colour_truth(tmp_path / name).tolist() == MEANT.tolist()


def test_black_is_background_unless_it_is_named(tmp_path):
    COLOUR_FILES["colours.png"](tmp_path / "m.png")
    table = {"#000000": "b", "255 0 0": "a", "#00FF00": "background", "#ffffff": "background"}
    assert colour_truth(tmp_path / "m.png", table).tolist() == [[2, 1, 0], [0, 1, 2]]


def test_grey_masks_are_colours_too(tmp_path):
    Image.fromarray(np.where(COLOURED == 1, 255, 0).astype(np.uint8)).save(tmp_path / "m.png")
    assert colour_truth(tmp_path / "m.png", {"#ffffff": "a"}).tolist() == (COLOURED == 1).astype(int).tolist()


@pytest.mark.parametrize(
    ("write", "table", "says"),
    [
        (COLOUR_FILES["colours.png"], {"#ff0000": "a"}, r"the colours #00ff00, #ffffff \(2 pixels\), which the table"),
        (COLOUR_FILES["colours.png"], {"#ff0000": "c"}, "said to mean c, but the model's classes are a, b"),
        (lambda p: Image.fromarray(PAINT[COLOURED]).save(p, format="JPEG"), TABLE, "a JPEG, which changes colours"),
        (lambda p: tifffile.imwrite(p, PAINT[COLOURED].astype(np.uint16), photometric="rgb"), TABLE, "of 8 bits"),
    ],
)
def test_colours_that_cannot_be_read_are_refused(tmp_path, write, table, says):
    path = tmp_path / ("m.jpg" if "JPEG" in says else "m.tif" if "8 bits" in says else "m.png")
    write(path)
    with pytest.raises(SourceError, match=says):
        colour_truth(path, table)


@pytest.mark.parametrize("colour", ["#ff00", "red", "256/0/0", "1/2"])
def test_what_is_no_colour_is_refused(colour):
    with pytest.raises(ValidationError, match="no colour"):
        FolderSource(images="i", masks="m", values={colour: "a"})


def test_colours_on_the_command_line_and_in_job_files():
    (field,) = (f for f in fields_of(FolderSource) if f.name == "values")
    assert read_text(field.info, "#ff0000=a,0/0/255=b") == {"#ff0000": "a", "#0000ff": "b"}
    assert read_text(field.info, "1=a,2=b") == {1: "a", 2: "b"}
    source = FolderSource(images="i", masks="m", values=TABLE)
    assert FolderSource.model_validate_json(source.model_dump_json()) == source
