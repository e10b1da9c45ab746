"""One mask in every coding of its numbers: the same truth, or a doubt that is said, or a refusal."""

import numpy as np
import pytest
import tifffile
from image_writing import png_of, write_bits
from PIL import Image

from napari_msunet.config import FolderSource, ModelConfig, UNetConfig
from napari_msunet.data.masks import choose_reading, read_mask_file
from napari_msunet.data.sources import load_sources
from napari_msunet.errors import SourceError

CELL = np.zeros((20, 30), bool)
CELL[4:14, 6:26] = True
CELL[4, 6] = False  # so that a mask that is turned is another one
WHITE = (CELL * 255).astype(np.uint8)
TWO = CELL.astype(np.uint8)
TWO[10:14, 6:26] = 2
OBJECTS = TWO.astype(np.uint16) * 300


def png(path, array, **options):
    Image.fromarray(array).save(path, **options)


def tiff(path, array, **options):
    tifffile.imwrite(path, array, metadata=None, **options)


def palette(path, index, colours, **options):
    image = Image.fromarray(index.astype(np.uint8), "L").convert("P")
    image.putpalette(np.asarray(colours, np.uint8).ravel().tolist())
    image.putdata(index.ravel().tolist())
    image.save(path, **options)


def exif(number):
    found = Image.Exif()
    found[274] = number
    return {"exif": found}


GREYS = np.array([[0, 65535]] * 3)
COLOURS = np.zeros((3, 16), int)
COLOURS[0, 1] = 50000
BLACK, SNOW, RED = (0, 0, 0), (255, 255, 255), (200, 0, 0)
FULL = np.full(CELL.shape, 255, np.uint8)
# name: how it is written, and whether another reading is possible
ONE_CLASS = {
    "grey.png": (lambda p: png(p, WHITE), False),
    "numbers.png": (lambda p: png(p, CELL.astype(np.uint8)), False),
    "bit.png": (lambda p: png(p, CELL), False),
    "two bits.png": (lambda p: palette(p, TWO > 0, [BLACK, SNOW], bits=2), False),
    "sixteen.png": (lambda p: png(p, CELL.astype(np.uint16)), False),
    "colours.png": (lambda p: png(p, np.dstack([WHITE] * 3)), False),
    "palette.png": (lambda p: palette(p, CELL, [BLACK, RED]), False),
    "palette without black.png": (lambda p: palette(p, CELL, [RED, (0, 9, 200)]), False),
    "white ground.png": (lambda p: palette(p, CELL, [SNOW, RED]), False),
    "turned palette.png": (lambda p: palette(p, ~CELL, [SNOW, BLACK]), True),
    "quantised.png": (lambda p: Image.fromarray(WHITE).convert("RGB").quantize(2).save(p), True),
    "white on transparent.png": (lambda p: png(p, np.dstack([FULL] * 3 + [WHITE])), True),
    "black on transparent.png": (lambda p: png(p, np.dstack([FULL * 0] * 3 + [WHITE])), True),
    "grey and alpha.png": (lambda p: png(p, np.dstack([FULL, WHITE])), True),
    "white on clear black.png": (lambda p: png(p, np.dstack([WHITE] * 3 + [WHITE])), False),
    "opaque.png": (lambda p: png(p, np.dstack([WHITE] * 3 + [FULL])), False),
    "clear ground.png": (lambda p: palette(p, CELL, [SNOW, SNOW], transparency=0), False),
    "grey.bmp": (lambda p: png(p, WHITE), False),
    "bit.bmp": (lambda p: png(p, CELL), False),
    "bit.tif": (lambda p: tiff(p, CELL, photometric="minisblack"), False),
    "grey.tif": (lambda p: tiff(p, WHITE, compression="lzw", predictor=True), False),
    "big-endian.tif": (lambda p: tiff(p, CELL.astype(">u2"), byteorder=">"), False),
    "float.tif": (lambda p: tiff(p, CELL.astype(np.float32)), False),
    "signed.tif": (lambda p: tiff(p, CELL.astype(np.int32)), False),
    "tiles.tif": (lambda p: tiff(p, WHITE, tile=(16, 16), compression="zlib"), False),
    "planes.tif": (lambda p: tiff(p, np.stack([WHITE] * 3), photometric="rgb", planarconfig="separate"), False),
    "ycbcr.tif": (lambda p: tiff(p, np.dstack([WHITE, FULL // 2 + 1, FULL // 2 + 1]), photometric="ycbcr"), False),
    "white is zero, bit.tif": (lambda p: tiff(p, ~CELL, photometric="miniswhite", software="scanner"), True),
    "white is zero.tif": (lambda p: tiff(p, 255 - WHITE, photometric="miniswhite"), True),
    "white is zero, 16.tif": (lambda p: tiff(p, 65535 - CELL.astype(np.uint16), photometric="miniswhite"), False),
    "inverted lut.tif": (lambda p: tifffile.imwrite(p, WHITE, imagej=True, photometric="miniswhite"), True),
    "turned.png": (lambda p: png(p, np.ascontiguousarray(WHITE[::-1, ::-1]), **exif(3)), False),
    "lying.png": (lambda p: png(p, np.ascontiguousarray(np.rot90(WHITE)), **exif(6)), False),
    "lying.tif": (lambda p: tiff(p, np.rot90(WHITE), extratags=[(274, 3, 1, 6, True)]), False),
    "palette of one bit.tif": (lambda p: write_bits(p, CELL.astype(np.uint8), 1, 3, COLOURS[:, :2]), False),
    "palette of four bits.tif": (lambda p: write_bits(p, CELL.astype(np.uint8), 4, 3, COLOURS), False),
    "palette of sixteen bits.tif": (lambda p: write_bits(p, CELL.astype(int), 16, 3, np.tile(COLOURS, 4096)), False),
    "turned palette of one bit.tif": (lambda p: write_bits(p, (~CELL).astype(np.uint8), 1, 3, GREYS[:, ::-1]), True),
    "four bits.tif": (lambda p: write_bits(p, CELL.astype(np.uint8), 4, 1), False),
    "four bits, white.tif": (lambda p: write_bits(p, CELL.astype(np.uint8) * 15, 4, 1), False),
    "two bits, white.png": (lambda p: p.write_bytes(png_of(2, 0, CELL.astype(np.uint8) * 3)), False),
    "four bits.png": (lambda p: p.write_bytes(png_of(4, 0, CELL.astype(np.uint8))), False),
    "array.npy": (lambda p: np.save(p, CELL), False),
}


@pytest.mark.parametrize("name", ONE_CLASS)
def test_one_class(tmp_path, name):
    write, doubtful = ONE_CLASS[name]
    write(tmp_path / name)
    found = choose_reading(read_mask_file(tmp_path / name), "classes", ("cell",), name)
    np.testing.assert_array_equal(found.truth, CELL)
    assert (found.doubt is not None) == doubtful, found.doubt
    if doubtful:
        assert "two ways" in found.doubt


TWO_CLASSES = {
    "grey.png": lambda p: png(p, TWO),
    "palette.png": lambda p: palette(p, TWO, [BLACK, RED, (0, 200, 0)]),
    "grey palette.png": lambda p: palette(p, TWO, [BLACK, (128,) * 3, SNOW]),
    "white ground.png": lambda p: palette(p, TWO, [SNOW, RED, (0, 200, 0)]),
    "two bits.png": lambda p: palette(p, TWO, [BLACK, RED, SNOW], bits=2),
    "white is zero.tif": lambda p: tiff(p, TWO, photometric="miniswhite"),
    "palette.tif": lambda p: tiff(p, TWO, photometric="palette", colormap=np.arange(768, dtype="u2").reshape(3, 256)),
    "opaque where it is known.png": lambda p: png(p, np.dstack([TWO] * 3 + [WHITE])),
    "stack of one.tif": lambda p: tiff(p, TWO[None]),
}


@pytest.mark.parametrize("name", TWO_CLASSES)
def test_two_classes_where_only_one_reading_fits(tmp_path, name):
    TWO_CLASSES[name](tmp_path / name)
    found = choose_reading(read_mask_file(tmp_path / name), "classes", ("a", "b"), name)
    np.testing.assert_array_equal(found.truth, TWO)
    assert found.doubt is None


def test_numbers_of_objects(tmp_path):
    for name, write in {
        "a.png": lambda p: png(p, OBJECTS),
        "b.tif": lambda p: tiff(p, OBJECTS, photometric="miniswhite"),
        "c.tif": lambda p: tiff(p, OBJECTS.astype(np.float32)),
    }.items():
        write(tmp_path / name)
        found = choose_reading(read_mask_file(tmp_path / name), "instances", ("a",), name)
        np.testing.assert_array_equal(found.numbers, OBJECTS)
    Image.fromarray(TWO).save(tmp_path / "d.jpg")
    for values, classes in (("instances", ("a",)), ("classes", ("a", "b"))):
        with pytest.raises(SourceError, match="JPEG, which changes numbers"):
            choose_reading(read_mask_file(tmp_path / "d.jpg"), values, classes, "d.jpg")


def test_a_person_says_which_reading_is_meant(tmp_path):
    path = tmp_path / "a.png"
    palette(path, ~CELL, [SNOW, BLACK])
    by_place = choose_reading(read_mask_file(path), {0: "background", 1: "cell"}, ("cell",), "a")
    np.testing.assert_array_equal(by_place.truth, ~CELL)
    shown = choose_reading(read_mask_file(path), {255: "cell"}, ("cell",), "a")
    np.testing.assert_array_equal(shown.truth, CELL)
    assert by_place.doubt is shown.doubt is None


def test_bits_of_which_nobody_knows_what_is_white_are_asked_about(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, CELL)  # writes that 0 is white
    with pytest.raises(SourceError, match=r"0 is white.*--values 1=NAME"):
        choose_reading(read_mask_file(path), "classes", ("cell",), "a")
    for values, truth in (({1: "cell"}, CELL), ({0: "cell", 1: "background"}, ~CELL)):
        found = choose_reading(read_mask_file(path), values, ("cell",), "a")
        np.testing.assert_array_equal(found.truth, truth)
        assert found.doubt is None


def test_an_object_in_the_place_of_the_background_is_asked_about(tmp_path):
    path = tmp_path / "a.png"
    for name, colours, options in (("black", [RED, BLACK], {}), ("clear", [RED, (9, 9, 200)], {"transparency": 1})):
        palette(path, ~CELL, colours, **options)
        with pytest.raises(SourceError, match=r"two ways.*--values 0=NAME,1=background") as error:
            choose_reading(read_mask_file(path), "classes", ("cell",), name)
        assert "(200, 0, 0)" in str(error.value)
        found = choose_reading(read_mask_file(path), {0: "cell", 1: "background"}, ("cell",), name)
        np.testing.assert_array_equal(found.truth, CELL)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: png(p, np.dstack([WHITE, WHITE // 2, WHITE])), "colour image"),
        (lambda p: png(p, np.dstack([TWO * 100] * 3 + [np.clip(WHITE, 100, 180)])), "half transparent"),
        (lambda p: palette(p, TWO, [SNOW, BLACK, (128,) * 3]), "128"),
        (lambda p: tifffile.imwrite(p, np.stack([WHITE, WHITE]), photometric="minisblack"), "holds 2 images"),
        (lambda p: tiff(p, WHITE.astype(np.float32), photometric="miniswhite"), "WhiteIsZero"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, write, words):
    path = tmp_path / ("a.tif" if words in ("holds 2 images", "WhiteIsZero") else "a.png")
    write(path)
    with pytest.raises(SourceError, match=words):
        choose_reading(read_mask_file(path), "classes", ("a", "b"), str(path))


def loaded(folder):
    said = []
    source = FolderSource(images=folder / "images", masks=folder / "masks", mpp=0.5)
    config = ModelConfig(
        classes=("cell",), mpp=0.5, scales=(1.0,), channels=3, fusion="mean", branch=UNetConfig(depth=1, width=4)
    )
    return load_sources([source], config, lambda level, text: said.append((level, text))), said


def pair(folder, image_turn, mask_turn, array=WHITE):
    for name in ("images", "masks"):
        (folder / name).mkdir()
    image = np.dstack([np.full_like(array, 200)] * 3)
    png(folder / "images" / "a.png", image, **exif(image_turn))
    png(folder / "masks" / "a.png", array, **exif(mask_turn))


def test_image_and_mask_that_are_turned_alike(tmp_path):
    pair(tmp_path, 6, 6, np.ascontiguousarray(np.rot90(WHITE)))
    (item,), said = loaded(tmp_path)
    np.testing.assert_array_equal(item.truth.mask(), CELL)
    assert [level for level, _ in said] == ["info"]


def test_a_mask_that_is_turned_otherwise_than_its_image_is_said(tmp_path):
    pair(tmp_path, 3, 1)
    _, said = loaded(tmp_path)
    assert any(level == "warning" and "orientation tag 1, and its image by 3" in text for level, text in said)


def test_a_mask_that_fits_no_longer_is_told_why(tmp_path):
    pair(tmp_path, 6, 1)
    with pytest.raises(SourceError, match="orientation tag: it is 6 in the image and 1 in the mask"):
        loaded(tmp_path)


def test_a_doubt_is_said_with_the_name_of_the_mask(tmp_path):
    pair(tmp_path, 1, 1)
    palette(tmp_path / "masks" / "a.png", ~CELL, [SNOW, BLACK])
    (item,), said = loaded(tmp_path)
    np.testing.assert_array_equal(item.truth.mask(), CELL)
    assert any(level == "warning" and "a.png" in text and "two ways" in text for level, text in said)
