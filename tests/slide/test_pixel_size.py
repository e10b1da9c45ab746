"""What files and people say about the size of a pixel, and what of it is believed: the same for every reader."""

import json
from math import inf, nan

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_msunet.app.describe import describe
from napari_msunet.errors import MissingMppError, SlideError, StoreError
from napari_msunet.slide import build_pyramid, ngff, open_slide, slide_from_array
from napari_msunet.slide.pixel_size import believed, parse_mpp

IMAGE = np.random.default_rng(0).integers(0, 255, (300, 260, 3), dtype=np.uint8)


def write_ome_tiff(folder, y, x):
    metadata = {"axes": "YXS", "PhysicalSizeX": x, "PhysicalSizeY": y}
    tifffile.imwrite(folder / "image.ome.tif", IMAGE, photometric="rgb", ome=True, metadata=metadata)
    return folder / "image.ome.tif"


def write_ome_zarr(folder, y, x, version="0.5"):
    axes = ["c", "y", "x"]
    path = folder / "image.ome.zarr"
    listed = [
        {"name": a, "type": "space", "unit": "micrometer"} if a != "c" else {"name": a, "type": "channel"} for a in axes
    ]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, y, x]}]}]
    ome = {"version": version, "multiscales": [{"axes": listed, "datasets": datasets, "name": "image"}]}
    if version == "0.4":
        ome["multiscales"][0]["version"] = version
        group = zarr.create_group(path, zarr_format=2, attributes={"multiscales": ome["multiscales"]})
    else:
        group = zarr.create_group(path, zarr_format=3, attributes={"ome": ome})
    group.create_array("0", data=np.moveaxis(IMAGE, -1, 0), chunks=(3, 128, 128))
    return path


def write_old_ome_zarr(folder, y, x):
    return write_ome_zarr(folder, y, x, "0.4")


def write_svs(folder, y, x):
    text = f"Aperio Image Library v1\r\n260x300 [0,0 260x300] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = {x}"
    tifffile.imwrite(
        folder / "image.svs", IMAGE, photometric="rgb", tile=(64, 64), compression="jpeg", description=text,
        metadata=None,
    )  # fmt: skip
    return folder / "image.svs"


def write_imagej(folder, y, x):
    path = folder / "image.tif"
    tifffile.imwrite(path, IMAGE[..., 0], imagej=True, resolution=(1 / x, 1 / y), metadata={"unit": "um"})
    return path


def write_tiff(folder, y, x):
    path = folder / "tags.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", resolution=(1e4 / x, 1e4 / y), resolutionunit="CENTIMETER")
    return path


def write_png(folder, y, x):
    Image.fromarray(IMAGE).save(folder / "image.png", dpi=(25400 / x, 25400 / y))
    return folder / "image.png"


ANY_NUMBER = [write_ome_tiff, write_ome_zarr, write_old_ome_zarr]
"""Formats that can say zero, negative and infinite sizes."""
ALL = [*ANY_NUMBER, write_svs, write_imagej, write_tiff, write_png]
STRANGE = [(0.0, 0.0), (-0.5, -0.5), (nan, nan), (inf, inf), (500.0, 500.0), (1e9, 1e9), (0.004, 0.004), (0.25, 3.0)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("write", ALL)
def test_a_micrographs_size_is_believed(write, tmp_path):
    with open_slide(write(tmp_path, 0.25, 0.25)) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.25), rel=1e-3)
        assert slide.mpp_note == ""


@pytest.mark.parametrize(
    ("write", "said"),
    [(write, said) for write in ANY_NUMBER for said in STRANGE]
    + [(write, said) for write in ALL[len(ANY_NUMBER) :] for said in [(500.0, 500.0), (0.004, 0.004)]]
    + [(write, (0.25, 3.0)) for write in (write_imagej, write_tiff, write_png)],
)
def test_another_is_left_out_with_a_sentence(write, said, tmp_path):
    path = write(tmp_path, *said)
    with open_slide(path) as slide:
        assert slide.mpp is None
        assert f"{said[1]:g}"[:3] in slide.mpp_note or write is write_png
        assert slide.mpp_note.endswith("so it is left out.")
        assert slide.grid().shape == (300, 260)
        with pytest.raises(MissingMppError, match="left out"):
            slide.grid(0.5)
    assert "left out" in describe(path)["um_per_pixel"]
    with open_slide(path, mpp=0.3) as slide:
        assert (slide.mpp, slide.mpp_note) == ((0.3, 0.3), "")


@pytest.mark.parametrize("text", ["zero", "nan", "-1"])
def test_an_svs_whose_size_is_no_number(text, tmp_path):
    with open_slide(write_svs(tmp_path, text, text)) as slide:
        assert slide.mpp is None
        assert "no size of a pixel" in slide.mpp_note


def test_nothing_said_is_no_sentence(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    with open_slide(tmp_path / "image.png") as slide:
        assert (slide.mpp, slide.mpp_note) == (None, "")
    assert describe(tmp_path / "image.png")["um_per_pixel"] == "unknown: the file does not say it"


@pytest.mark.parametrize("mpp", [0.004, 0.0001, 35.0, (0.25, 3.0)])
def test_a_person_is_believed_also_in_what_is_written_then(mpp, tmp_path):
    pair = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    with open_slide(write_ome_tiff(tmp_path, 500, 500), mpp=mpp) as slide:
        assert slide.mpp == pair
        build_pyramid(slide, tmp_path / "copy.ome.zarr")
    with open_slide(tmp_path / "copy.ome.zarr") as slide:
        assert (slide.mpp, slide.mpp_note) == (pair, "")


def test_a_label_stores_own_size_is_believed_where_it_is_opened_as_an_image(tmp_path):
    from napari_msunet.labels import LabelStore

    LabelStore.create(tmp_path / "labels.ome.zarr", shape=(64, 64), mpp=0.004, classes=("a",))
    with open_slide(tmp_path / "labels.ome.zarr") as slide:
        assert slide.mpp == (0.004, 0.004)


@pytest.mark.parametrize("mpp", [0, -1, nan, inf, "wide", "0,5", "", (1, 2, 3), (0.5, 0), (0.5, nan)])
def test_what_is_no_size_is_refused_from_a_person(mpp, tmp_path):
    from napari_msunet.labels import LabelStore

    with pytest.raises(SlideError, match="above zero"):
        slide_from_array(IMAGE, mpp=mpp)
    with pytest.raises(StoreError, match="above zero"):
        LabelStore.create(tmp_path / "labels.ome.zarr", shape=(64, 64), mpp=mpp, classes=("a",))
    assert not list(tmp_path.iterdir())


def test_pixels_can_be_asked_for_where_the_file_gives_a_size(tmp_path):
    with open_slide(write_ome_tiff(tmp_path, 0.25, 0.25), mpp="px") as slide:
        assert slide.mpp is None
        assert slide.grid().shape == (300, 260)
        with pytest.raises(MissingMppError, match="opened in pixels"):
            slide.grid(0.5)
        copy = build_pyramid(slide, tmp_path / "copy.ome.zarr")
    with open_slide(copy) as slide:
        assert (slide.mpp, slide.mpp_note) == (None, "")
    axes = json.loads((copy / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["axes"]
    assert not any("unit" in axis for axis in axes)
    ngff.validate(copy)


@pytest.mark.parametrize(("text", "value"), [("0.25", 0.25), (" 0.004 ", 0.004), ("px", "px"), (" ", None)])
def test_cells_of_tables(text, value):
    assert parse_mpp(text, "Row 2") == value


@pytest.mark.parametrize("text", ["0", "-0.5", "nan", "inf", "0.5 kg", "half"])
def test_cells_that_are_no_size(text):
    with pytest.raises(SlideError, match=f"Row 2 has '{text}'"):
        parse_mpp(text, "Row 2")


def test_the_limits_themselves_are_believed():
    assert believed((0.01, 0.01)) == ((0.01, 0.01), "")
    assert believed((20.0, 5.0)) == ((20.0, 5.0), "")
    assert believed((20.1, 20.1))[0] is None
    assert believed((0.0099, 0.0099))[0] is None
    assert believed((20.0, 4.9))[0] is None


def test_a_grid_of_absurd_size_is_refused_at_once():
    slide = slide_from_array(np.zeros((1400, 1600, 3), np.uint8), mpp=500)
    with pytest.raises(SlideError, match=r"1400 x 1600 pixels \(500 µm per pixel\) at 0.5 .* 1,400,000 x 1,600,000"):
        slide.grid(0.5)
    assert slide.grid(50).shape == (14000, 16000)
    with pytest.raises(SlideError, match="more than can be computed"):
        slide_from_array(np.zeros((20, 20), np.uint8), mpp=500).grid(0.5)
