"""What every reader owes: the same image in any kind of file has the same pixels, µm and grids."""

import json

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from skimage.data import immunohistochemistry

from napari_msunet.geometry import Region, Window, pyramid_shapes
from napari_msunet.slide import build_pyramid, ngff, open_slide, slide_from_array

MPP = (0.5, 0.25)
IMAGE = np.ascontiguousarray(immunohistochemistry()[:411, :502])
LEVELS = [IMAGE]
for _ in range(2):
    padded = np.pad(LEVELS[-1], ((0, LEVELS[-1].shape[0] % 2), (0, LEVELS[-1].shape[1] % 2), (0, 0)), mode="edge")
    height, width = padded.shape[0] // 2, padded.shape[1] // 2
    LEVELS.append(np.rint(padded.reshape(height, 2, width, 2, 3).astype(float).mean((1, 3))).astype(np.uint8))


def write_png(folder):
    Image.fromarray(IMAGE).save(folder / "image.png")
    return folder / "image.png"


def write_tiff(folder):
    resolution = 1e4 / MPP[1], 1e4 / MPP[0]
    tifffile.imwrite(folder / "image.tif", IMAGE, photometric="rgb", resolution=resolution, resolutionunit="CENTIMETER")
    return folder / "image.tif"


def write_tiled_tiff(folder):
    """Levels as reduced pages, as libvips writes them."""
    path = folder / "tiled.tif"
    with tifffile.TiffWriter(path, byteorder=">") as file:
        for number, level in enumerate(LEVELS):
            resolution = tuple(1e4 / m / 2**number for m in MPP[::-1])
            file.write(
                level, photometric="rgb", tile=(64, 64), compression="zlib", resolution=resolution,
                resolutionunit="CENTIMETER", subfiletype=int(number > 0), metadata=None,
            )  # fmt: skip
    return path


def write_planar_tiff(folder):
    path = folder / "planar.tif"
    resolution = 25400 / MPP[1], 25400 / MPP[0]
    tifffile.imwrite(
        path, np.moveaxis(IMAGE, -1, 0), photometric="rgb", planarconfig="separate", compression="lzw", predictor=True,
        rowsperstrip=16, resolution=resolution, resolutionunit="INCH",
    )  # fmt: skip
    return path


def ome_tiff(folder, planes, **metadata):
    path = folder / "image.ome.tif"
    metadata = {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, **metadata}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for number, plane in enumerate(planes):
            options = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib"}
            if number == 0:
                file.write(plane, subifds=len(planes) - 1, metadata=metadata, **options)
            else:
                file.write(plane, subfiletype=1, **options)
    return path


def write_ome_tiff(folder):
    return ome_tiff(folder, LEVELS, axes="YXS")


def zarr_04(group):
    """An image as bioformats2raw writes it: t c z y x, each level in an array of its number."""
    axes = [{"name": n, "type": {"t": "time", "c": "channel"}.get(n, "space")} for n in "tczyx"]
    axes[3]["unit"], axes[4]["unit"] = "micrometer", "nanometer"
    datasets = []
    for number, level in enumerate(LEVELS):
        data = np.moveaxis(level, -1, 0)[None, :, None]
        array = group.create_array(str(number), shape=data.shape, chunks=(1, 1, 1, 100, 100), dtype="uint8")
        array[:] = data
        scale = [1.0, 1.0, 1.0, 0.5 * 2**number, 250.0 * 2**number]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    window = {"min": 0.0, "max": 255.0, "start": 0.0, "end": 255.0}
    colours = zip(("red", "green", "blue"), ("FF0000", "00FF00", "0000FF"), strict=True)
    channels = [{"label": label, "color": colour, "window": window} for label, colour in colours]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    group.attrs["omero"] = {"channels": channels}


def write_zarr_04(folder):
    zarr_04(zarr.create_group(folder / "image4.ome.zarr", zarr_format=2))
    return folder / "image4.ome.zarr"


def write_bioformats2raw(folder):
    path = folder / "raw.ome.zarr"
    root = zarr.create_group(path, zarr_format=2, attributes={"bioformats2raw.layout": 3})
    root.create_group("OME", attributes={"series": ["first"]})
    zarr_04(root.create_group("first"))
    return path


def write_zarr_05(folder):
    path = folder / "image5.ome.zarr"
    attributes = ngff.image_attributes(
        "image", [np.moveaxis(level, -1, 0).shape for level in LEVELS], "cyx", MPP, ("red", "green", "blue")
    )
    group = zarr.create_group(path, zarr_format=3, attributes=attributes)
    for number, level in enumerate(LEVELS):
        group.create_array(str(number), data=np.moveaxis(level, -1, 0), chunks=(1, 70, 90))
    return path


def write_pyramid(folder):
    return build_pyramid(IMAGE, folder / "pyramid.ome.zarr", mpp=MPP)


WRITERS = {
    f.__name__.removeprefix("write_"): f
    for f in (
        write_png, write_tiff, write_tiled_tiff, write_planar_tiff, write_ome_tiff, write_zarr_04, write_bioformats2raw,
        write_zarr_05, write_pyramid,
    )
}  # fmt: skip
KINDS = [*WRITERS, "array", "dask"]
WITH_LEVELS = ("tiled_tiff", "ome_tiff", "zarr_04", "bioformats2raw", "zarr_05")
GIVES_NO_MPP = ("png", "array", "dask")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(scope="module", params=KINDS)
def slide(request, folder):
    mpp = MPP if request.param in GIVES_NO_MPP else None
    if request.param == "array":
        opened = slide_from_array(IMAGE, mpp=mpp)
    elif request.param == "dask":
        opened = slide_from_array(da.from_array(IMAGE, chunks=(100, 130, 2)), mpp=mpp)
    else:
        opened = open_slide(WRITERS[request.param](folder), mpp=mpp)
    opened.written_as = request.param
    with opened:
        yield opened


def test_facts(slide):
    assert slide.shape == IMAGE.shape
    assert slide.dtype == np.uint8
    assert slide.mpp == pytest.approx(MPP)
    assert slide.channels == ("red", "green", "blue")
    assert slide.background.tolist() == [255, 255, 255]
    assert slide.downsamples == (
        ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0)) if slide.written_as in WITH_LEVELS else ((1.0, 1.0),)
    )
    json.dumps(slide.properties)
    assert all(isinstance(v, str) for v in slide.properties.values())


def test_pixels(slide):
    np.testing.assert_array_equal(slide.read(Region(0, 0, *IMAGE.shape[:2])), IMAGE)
    np.testing.assert_array_equal(slide.read(Region(-3, 400, 50, 200))[3:, :102], IMAGE[:47, 400:])
    for level, expected in zip(slide.levels, LEVELS, strict=False):
        assert level.dtype == np.uint8
        np.testing.assert_array_equal(level.compute(), expected)


def test_grids(slide):
    reference = slide_from_array(LEVELS if slide.written_as in WITH_LEVELS else IMAGE, mpp=MPP)
    for mpp in (0.62, (0.5, 0.25), (1.0, 0.5), 0.3, (2.0, 1.0)):
        grid = slide.grid(mpp)
        assert grid.shape == reference.grid(mpp).shape
        window = Window(-7, 11, 90, 130)
        expected = reference.read_window(reference.grid(mpp), window)
        difference = slide.read_window(grid, window).astype(int) - expected
        assert abs(difference).max() <= 1  # µm per pixel may differ in the last bit


def test_identity_is_of_the_content(folder, tmp_path):
    for kind in ("png", "tiff", "zarr_04"):
        path = WRITERS[kind](tmp_path)
        with open_slide(path) as one:
            first = one.identity
        moved = path.rename(tmp_path / f"moved-{path.name}")
        with open_slide(moved, mpp=3) as two:
            assert two.identity == first
    other = IMAGE.copy()
    other[200, 200, 0] ^= 1
    assert slide_from_array(other).identity != slide_from_array(IMAGE).identity
    Image.fromarray(other).save(tmp_path / "other.png")
    with open_slide(tmp_path / "other.png") as two, open_slide(tmp_path / "moved-image.png") as one:
        assert two.identity != one.identity


def test_units_of_ome_zarr_are_needed(tmp_path):
    path = write_zarr_04(tmp_path)
    group = zarr.open_group(path, mode="r+")
    multiscales = group.attrs["multiscales"]
    for axis in multiscales[0]["axes"]:
        axis.pop("unit", None)
    group.attrs["multiscales"] = multiscales
    with open_slide(path) as slide:
        assert slide.mpp is None


@pytest.mark.parametrize(("per_inch", "expected"), [(300, None), (72, None), (25400 / 0.5, (0.5, 0.5)), (1e9, None)])
def test_resolution_tags_of_printers_are_no_mpp(tmp_path, per_inch, expected):
    tifffile.imwrite(
        tmp_path / "a.tif", IMAGE, resolution=(per_inch, per_inch), resolutionunit="INCH", photometric="rgb"
    )
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == (None if expected is None else pytest.approx(expected, rel=1e-6))


def test_mpp_given_wins(tmp_path):
    with open_slide(write_tiff(tmp_path), mpp=0.7) as slide:
        assert slide.mpp == (0.7, 0.7)


def test_channels_time_and_depth_of_ome_tiff(tmp_path):
    stack = np.random.default_rng(1).integers(0, 65536, (2, 3, 4, 90, 110), dtype=np.uint16)
    metadata = {
        "axes": "TZCYX",
        "Channel": {"Name": ["DAPI", "FITC", "Cy3", "Cy5"]},
        "PhysicalSizeX": 1,
        "PhysicalSizeY": 1,
    }
    tifffile.imwrite(tmp_path / "stack.ome.tif", stack, metadata=metadata, photometric="minisblack", tile=(32, 32))
    with open_slide(tmp_path / "stack.ome.tif") as slide:
        assert slide.shape == (90, 110, 4)
        assert slide.channels == ("DAPI", "FITC", "Cy3", "Cy5")
        assert slide.background.tolist() == [0] * 4
        np.testing.assert_array_equal(slide.read(Region(0, 0, 90, 110)), np.moveaxis(stack[0, 0], 0, -1))


def test_imagej_tiff(tmp_path):
    data = np.random.default_rng(1).integers(0, 65536, (3, 90, 110), dtype=np.uint16)
    tifffile.imwrite(
        tmp_path / "ij.tif", data, imagej=True, resolution=(1 / 0.2, 1 / 0.4), metadata={"unit": "um", "axes": "CYX"}
    )
    with open_slide(tmp_path / "ij.tif") as slide:
        assert slide.mpp == pytest.approx((0.4, 0.2))
        np.testing.assert_array_equal(slide.read(Region(0, 0, 90, 110)), np.moveaxis(data, 0, -1))


def test_the_largest_image_of_an_ome_tiff_is_the_slide(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as file:
        file.write(IMAGE[:50, :60], photometric="rgb", metadata={"axes": "YXS", "PhysicalSizeX": 9, "PhysicalSizeY": 9})
        file.write(IMAGE, photometric="rgb", metadata={"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5})
    with open_slide(tmp_path / "two.ome.tif") as slide:
        assert (slide.shape, slide.mpp) == (IMAGE.shape, MPP)


def png(tmp_path, image, **options):
    image.save(tmp_path / "image.png", **options)
    return open_slide(tmp_path / "image.png")


def test_kinds_of_png(tmp_path):
    grey = IMAGE[:40, :50, 1]
    with png(tmp_path, Image.fromarray(grey)) as slide:
        assert (slide.channels, slide.background.tolist()) == (("gray",), [0])
        np.testing.assert_array_equal(slide.read(Region(0, 0, 40, 50))[..., 0], grey)
    deep = grey.astype(np.uint16) * 257
    with png(tmp_path, Image.fromarray(deep)) as slide:
        assert slide.dtype == np.uint16
        np.testing.assert_array_equal(slide.read(Region(0, 0, 40, 50))[..., 0], deep)
    alpha = np.zeros((40, 50, 1), np.uint8)
    alpha[:, 25:] = 255
    with png(tmp_path, Image.fromarray(np.concatenate([IMAGE[:40, :50], alpha], 2))) as slide:
        pixels = slide.read(Region(0, 0, 40, 50))
        assert pixels[:, :25].min() == 255
        np.testing.assert_array_equal(pixels[:, 25:], IMAGE[:40, 25:50])
    palette = Image.fromarray(IMAGE[:40, :50]).quantize(8)
    with png(tmp_path, palette) as slide:
        assert slide.channels == ("red", "green", "blue")
        np.testing.assert_array_equal(slide.read(Region(0, 0, 40, 50)), np.asarray(palette.convert("RGB")))
    with png(tmp_path, Image.fromarray(grey > 100)) as slide:
        assert sorted(np.unique(slide.read(Region(0, 0, 40, 50)))) == [0, 255]


def test_jpeg(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "image.jpg", quality=95)
    with open_slide(tmp_path / "image.jpg") as slide:
        assert slide.mpp is None
        assert abs(slide.read(Region(0, 0, *IMAGE.shape[:2])).astype(int) - IMAGE).mean() < 4


REAL = {
    "CMU-1-Small-Region.svs": ((2967, 2220, 3), 0.499, 255),
    "CMU-1-Small-Region.ome.zarr": ((2967, 2220, 3), 0.499, 255),
    "tcga-no-mpp.svs": ((3567, 4443, 3), None, 255),
    "fluorescence-dapi.ndpi": ((4864, 3968, 3), 0.2282, 0),
    "vectra-3channel.qptiff": ((1440, 1920, 3), 0.4965, 0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_slides(shared_data, name):
    shape, mpp, background = REAL[name]
    with open_slide(shared_data / "slides" / name) as slide:
        assert slide.shape == shape
        assert slide.mpp == (None if mpp is None else pytest.approx((mpp, mpp), rel=1e-3))
        assert slide.background.tolist() == [background] * 3
        assert slide.read(Region(1000, 1000, 300, 300)).std() > 1
        for level, downsample in zip(slide.levels, slide.downsamples, strict=True):
            assert all(abs(n / d - s) <= 1 for n, d, s in zip(shape, downsample, level.shape[:2], strict=False))
        here = slide.levels[-1].compute().astype(float)
        assert here.std() > 1


def test_the_same_slide_as_svs_and_ome_zarr(shared_data):
    slides = shared_data / "slides"
    with (
        open_slide(slides / "CMU-1-Small-Region.svs") as one,
        open_slide(slides / "CMU-1-Small-Region.ome.zarr") as two,
    ):
        grid = one.grid(0.8)
        assert grid == two.grid(0.8)
        window = Window(600, 500, 300, 300)
        np.testing.assert_array_equal(one.read_window(grid, window), two.read_window(grid, window))


def test_levels_of_a_real_slide_show_the_same_place(shared_data):
    """A level with a downsample of 2.0005 counts as 2; its pixels must be those of level 0, averaged."""
    with open_slide(shared_data / "slides" / "tcga-no-mpp.svs", mpp=0.5) as slide:
        assert slide.downsamples == ((1.0, 1.0), (2.0, 2.0))
        window = Window(1400, 1700, 256, 256)
        stored = slide.read_window(slide.grid(1.0), window).astype(float)
        fine = slide.read(Region(2800, 3400, 512, 512)).astype(float)
        averaged = fine.reshape(256, 2, 256, 2, 3).mean((1, 3))
        errors = {
            (dy, dx): abs(stored[8:-8, 8:-8] - np.roll(averaged, (dy, dx), (0, 1))[8:-8, 8:-8]).mean()
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        }
        assert min(errors, key=errors.get) == (0, 0)


def test_pyramid_shapes_are_those_of_our_levels():
    assert pyramid_shapes(IMAGE.shape[:2], 200)[:3] == [level.shape[:2] for level in LEVELS]
