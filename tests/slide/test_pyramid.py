"""Writing pyramids, and the metadata of OME-Zarr."""

import hashlib
import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import zarr

from napari_msunet.errors import OutputError, SlideError
from napari_msunet.geometry import Region, pyramid_shapes
from napari_msunet.slide import build_pyramid, ngff, open_slide, slide_from_array
from napari_msunet.slide import pyramid as pyramid_module

RNG = np.random.default_rng(3)
IMAGE = RNG.integers(0, 256, (1301, 2079, 3), dtype=np.uint8)


def halved(image):
    padded = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge").astype(float)
    height, width = padded.shape[0] // 2, padded.shape[1] // 2
    means = padded.reshape(height, 2, width, 2, -1).mean((1, 3))
    return (np.rint(means) if image.dtype.kind == "u" else means).astype(image.dtype)


def bytes_of(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_pyramid_opens_again_as_it_was(tmp_path):
    out = build_pyramid(IMAGE, tmp_path / "new" / "image.ome.zarr", mpp=(0.5, 0.25))
    ngff.validate(out)
    with open_slide(out) as slide:
        assert slide.mpp == (0.5, 0.25)
        assert slide.channels == ("red", "green", "blue")
        assert slide.downsamples == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
        assert [level.shape[:2] for level in slide.levels] == pyramid_shapes(IMAGE.shape[:2])
        expected = IMAGE
        for level in slide.levels:
            np.testing.assert_array_equal(level.compute(), expected)
            expected = halved(expected)
        np.testing.assert_array_equal(slide.read(Region(0, 0, 1301, 2079)), IMAGE)
    assert [p.name for p in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_channels_and_types(tmp_path, dtype):
    image = RNG.integers(0, 60000, (1100, 530, 6)).astype(dtype)
    slide = slide_from_array(image, channels=tuple("abcdef"), background=7)
    out = build_pyramid(slide, tmp_path / "image.ome.zarr")
    ngff.validate(out)
    with open_slide(out) as again:
        assert (again.mpp, again.channels, again.dtype) == (None, tuple("abcdef"), np.dtype(dtype))
        assert again.background.tolist() == [7] * 6
        np.testing.assert_array_equal(again.levels[0].compute(), image)
        np.testing.assert_array_equal(again.levels[1].compute(), halved(image))


def test_the_same_image_gives_the_same_bytes(tmp_path, monkeypatch):
    lazy = da.from_array(IMAGE, chunks=(300, 400, 3))
    one = build_pyramid(IMAGE, tmp_path / "a" / "image.ome.zarr", mpp=0.5)
    monkeypatch.setattr(pyramid_module, "BLOCK_BYTES", 1 << 20)
    two = build_pyramid(lazy, tmp_path / "b" / "image.ome.zarr", mpp=0.5)
    assert bytes_of(one) == bytes_of(two)
    three = build_pyramid(IMAGE ^ 1, tmp_path / "c" / "image.ome.zarr", mpp=0.5)
    assert bytes_of(one) != bytes_of(three)


def test_what_is_there_stays_unless_told_otherwise(tmp_path):
    out = build_pyramid(IMAGE, tmp_path / "image.ome.zarr")
    before = bytes_of(out)
    with pytest.raises(OutputError, match="exists already"):
        build_pyramid(IMAGE[:50], out)
    assert bytes_of(out) == before
    build_pyramid(IMAGE[:50], out, overwrite=True)
    with open_slide(out) as slide:
        assert slide.shape == (50, 2079, 3)
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        build_pyramid(IMAGE, tmp_path / "file" / "image.ome.zarr")


FULL_DISK = """
import resource, sys
import numpy as np
from napari_msunet.errors import OutputError
from napari_msunet.slide import build_pyramid
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    build_pyramid(np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8), sys.argv[1])
except OutputError as error:
    sys.exit(f"OutputError: {error}")
"""


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    out = tmp_path / "image.ome.zarr"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(out)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"OutputError: {out} cannot be written")
    assert list(tmp_path.iterdir()) == []


def test_an_error_on_the_way_leaves_nothing_behind(tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_pyramid(IMAGE, tmp_path / "image.ome.zarr", progress=stop)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG junk")
    with pytest.raises(SlideError):
        build_pyramid(tmp_path / "bad.png", tmp_path / "image.ome.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.png"]


def test_progress_reaches_its_end(tmp_path):
    seen = []
    build_pyramid(IMAGE, tmp_path / "image.ome.zarr", progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(tmp_path):
    """A lazy image of 1.2 GB (20,000 x 20,000 x 3) is written with less than 700 MiB more than at the start."""
    script = """
import sys, resource
import dask.array as da, numpy as np
from napari_msunet.slide import build_pyramid
def make(block_info=None):
    place = block_info[None]["array-location"]
    shape = tuple(b - a for a, b in place)
    return np.full(shape, (place[0][0] + place[1][0]) // 97 % 256, np.uint8)
image = da.map_blocks(make, chunks=((1000,) * 20, (1000,) * 20, (3,)), dtype=np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
build_pyramid(image, sys.argv[1], mpp=0.5)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "big.ome.zarr")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 700
    with open_slide(tmp_path / "big.ome.zarr") as slide:
        assert slide.read(Region(7500, 3500, 1, 1))[0, 0, 0] == 10000 // 97 % 256


def test_label_metadata(tmp_path):
    shapes = [(700, 500), (350, 250)]
    attributes = ngff.label_attributes(
        "cells", shapes, (0.5, 0.25), ("gland", "nucleus"), ["#ff0000", (0, 255, 0, 128)]
    )
    label = attributes["ome"]["image-label"]
    assert label["properties"] == [{"label-value": 1, "name": "gland"}, {"label-value": 2, "name": "nucleus"}]
    assert label["colors"] == [
        {"label-value": 1, "rgba": [255, 0, 0, 255]},
        {"label-value": 2, "rgba": [0, 255, 0, 128]},
    ]
    group = zarr.create_group(tmp_path / "labels.ome.zarr", attributes=attributes)
    for number, shape in enumerate(shapes):
        group.create_array(str(number), shape=shape, chunks=(256, 256), dtype="uint8", dimension_names=("y", "x"))
    ngff.validate(tmp_path / "labels.ome.zarr")
    with open_slide(tmp_path / "labels.ome.zarr") as slide:
        assert (slide.shape, slide.mpp, slide.background.tolist()) == ((700, 500, 1), (0.5, 0.25), [0])


def test_validate_finds_what_is_wrong(tmp_path):
    out = build_pyramid(IMAGE, tmp_path / "image.ome.zarr")
    group = zarr.open_group(out, mode="r+")
    ome = dict(group.attrs["ome"])
    ome["multiscales"][0]["datasets"][1]["path"] = "elsewhere"
    group.attrs["ome"] = ome
    with pytest.raises(SlideError, match="no valid OME-Zarr"):
        ngff.validate(out)


def test_validate_agrees_with_a_file_of_another_program(shared_data):
    ngff.validate(shared_data / "slides" / "CMU-1-Small-Region.ome.zarr")
