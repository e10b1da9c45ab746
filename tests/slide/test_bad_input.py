"""Files that are no image, damaged files, and files cut short: one clear sentence each."""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

import napari_msunet
from napari_msunet.errors import SlideError
from napari_msunet.geometry import Region
from napari_msunet.slide import build_pyramid, open_slide, slide_from_array

SLIDE = Path(napari_msunet.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"
NOISE = np.random.default_rng(0).integers(0, 256, (600, 500, 3), dtype=np.uint8)


def sentence_of(path):
    """The error of opening and reading a whole file; one sentence (no line breaks) that names it."""
    with pytest.raises(SlideError) as caught, open_slide(path) as slide:
        slide.read(Region(0, 0, *slide.shape[:2]))
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


def cut(path, share, name):
    """A copy of a file's first part."""
    data = path.read_bytes()
    target = name.with_suffix(path.suffix)
    target.write_bytes(data[: int(len(data) * share)])
    return target


def damage(path, start, length=3000):
    data = bytearray(path.read_bytes())
    begin = int(len(data) * start)
    data[begin : begin + length] = b"\x55" * length
    path.write_bytes(data)
    return path


def test_no_such_file(tmp_path):
    assert "not there" in sentence_of(tmp_path / "nothing.svs")


@pytest.mark.parametrize("name", ["text.svs", "text.png", "text.tif", "text.ndpi", "text"])
@pytest.mark.parametrize("content", [b"", b"hello", b"<xml/>\n" * 1000])
def test_no_image(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "no image" in sentence_of(tmp_path / name)


def test_a_folder_that_is_no_image(tmp_path):
    assert "no OME-Zarr" in sentence_of(tmp_path)
    zarr.create_group(tmp_path / "plain.zarr")
    assert "without an OME-Zarr image" in sentence_of(tmp_path / "plain.zarr")
    zarr.create_array(tmp_path / "array.zarr", shape=(5, 5), dtype="uint8")
    assert sentence_of(tmp_path / "array.zarr")


def test_the_broken_svs(shared_data):
    assert "no image" in sentence_of(shared_data / "slides" / "broken.svs")


def test_dicom_without_its_package_is_said(shared_data, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "napari-msunet[dicom]" in sentence_of(shared_data / "slides" / "dicom-wsm.dcm")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
@pytest.mark.parametrize(
    "name", ["CMU-1-Small-Region.svs", "tcga-no-mpp.svs", "fluorescence-dapi.ndpi", "vectra-3channel.qptiff"]
)
def test_slides_cut_short(shared_data, tmp_path, name, share):
    assert "cut short" in sentence_of(cut(shared_data / "slides" / name, share, tmp_path / "slide"))


def test_a_damaged_svs(shared_data, tmp_path):
    path = shutil.copyfile(shared_data / "slides" / "CMU-1-Small-Region.svs", tmp_path / "slide.svs")
    assert "damaged" in sentence_of(damage(path, 0.25, 200_000))


def one_damaged_tile(path):
    """The demo slide, of which one JPEG tile of 240 pixels is no JPEG; where it is: its row and column among them."""
    shutil.copyfile(SLIDE, path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        begin, length = page.dataoffsets[43], page.databytecounts[43]
        place = divmod(43, -(-page.shape[1] // 240))
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(bytes(length))
    return place


def test_one_damaged_tile_of_an_svs_spoils_no_other(tmp_path):
    row, column = one_damaged_tile(tmp_path / "slide.svs")

    def read(place):
        with suppress(SlideError):
            return damaged.read(Region(240 * place[0] + 20, 240 * place[1] + 20, 200, 200))

    places = [(y, x) for y in range(12) for x in range(9) if (y // 2, x // 2) != (row // 2, column // 2)]  # chunks
    with open_slide(tmp_path / "slide.svs") as damaged, open_slide(SLIDE) as whole:
        assert read((row, column)) is None
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(read, [place for p in places for place in (p, (row, column))]))
        assert found[1::2] == [None] * len(places)
        for (y, x), pixels in zip(places, found[::2], strict=True):
            assert np.array_equal(pixels, whole.read(Region(240 * y + 20, 240 * x + 20, 200, 200)))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_pictures_cut_short(tmp_path, suffix):
    Image.fromarray(NOISE).save(tmp_path / f"whole{suffix}")
    assert "cut short" in sentence_of(cut(tmp_path / f"whole{suffix}", 0.5, tmp_path / "half"))


@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib", "tile": (64, 64)}, {"compression": "lzw", "rowsperstrip": 9}]
)
def test_tiff_cut_short_or_damaged(tmp_path, options):
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, NOISE, photometric="rgb", **options)
    assert "cut short" in sentence_of(cut(path, 0.6, tmp_path / "half"))
    if options:
        assert "damaged" in sentence_of(damage(path, 0.5))


def test_damaged_ome_zarr(tmp_path):
    def pyramid(name):
        return build_pyramid(NOISE, tmp_path / name)

    one = pyramid("chunk.ome.zarr")
    (one / "0" / "c" / "0" / "0" / "0").write_bytes(b"junk")
    assert "damaged" in sentence_of(one)
    two = pyramid("level.ome.zarr")
    shutil.rmtree(two / "0")
    assert "lacks '0'" in sentence_of(two)
    three = pyramid("metadata.ome.zarr")
    (three / "zarr.json").write_text("{")
    assert "damaged" in sentence_of(three)
    four = pyramid("version.ome.zarr")
    group = zarr.open_group(four, mode="r+")
    group.attrs["ome"] = {**group.attrs["ome"], "multiscales": [{"axes": []}]}
    assert "not valid OME-Zarr" in sentence_of(four)


def test_mrxs_without_its_folder(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "slide.jpg")
    path = (tmp_path / "slide.jpg").rename(tmp_path / "slide.mrxs")
    assert "folder" in sentence_of(path)


@pytest.mark.parametrize("mpp", [0, -0.5, float("inf")])
def test_mpp_is_checked_before_the_file(mpp):
    with pytest.raises(SlideError, match="no µm per pixel"):
        open_slide("anything.svs", mpp=mpp)


@pytest.mark.parametrize(
    "array", [np.zeros(5), np.zeros((2, 3, 4, 5)), np.zeros((0, 5)), np.zeros((5, 5), complex), np.array([["a"]])]
)
def test_arrays_that_are_no_image(array):
    with pytest.raises(SlideError, match="is no image"):
        slide_from_array(array)


def test_channel_names_must_fit():
    with pytest.raises(SlideError, match="2 channel names"):
        slide_from_array(NOISE, channels=("a", "b"))
