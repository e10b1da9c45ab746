"""What numbers mean: kind and range of every type, encoding and format, decided once for a slide or a set."""

import numpy as np
import pytest
import tifffile
import zarr

from napari_msunet.config import TrainedOn
from napari_msunet.errors import NotNumbersError, SlideError
from napari_msunet.geometry import Region
from napari_msunet.slide import build_pyramid, open_slide, slide_from_array, tissue_mask
from napari_msunet.slide.appearance import display_limits, seen_by
from napari_msunet.slide.numbers import Scale, decide, to_unit, unit_scale


def picture(side=200, seed=0):
    """Glass with a piece of tissue, and pixels of pure black and white."""
    values = np.full((side, side, 3), 240.0)
    values[40:120, 50:150] = (190, 110, 170)
    values += np.random.default_rng(seed).normal(0, 4, values.shape)
    values[:8, :8], values[:8, 8:16] = 0, 255
    return values.clip(0, 255).round()


TYPES = {
    "uint8": (np.uint8, 1, "file", (0, 255)),
    "uint16": (np.uint16, 257, "file", (0, 65535)),
    "8 bits in uint16": (np.uint16, 1, "guess", (0, 255)),
    "10 bits in 16": (np.uint16, 1023 / 255, "guess", (0, 1023)),
    "12 bits in 16": (np.uint16, 4095 / 255, "guess", (0, 4095)),
    "14 bits in 16": (np.uint16, 16383 / 255, "guess", (0, 16383)),
    "int16": (np.int16, 32767 / 255, "file", (0, 32767)),
    "12 bits in int16": (np.int16, 4095 / 255, "guess", (0, 4095)),
    "int8": (np.int8, 127 / 255, "file", (0, 127)),
    "uint32": (np.uint32, 257, "guess", (0, 65535)),
    "full uint32": (np.uint32, (2**32 - 1) / 255, "guess", (0, 2**32 - 1)),
    "float 0-1": (np.float32, 1 / 255, "guess", (0, 1)),
    "float 0-1.0001": (np.float32, 1.0001 / 255, "guess", (0, 1)),
    "float16 0-1": (np.float16, 1 / 255, "guess", (0, 1)),
    "float64 0-1": (np.float64, 1 / 255, "guess", (0, 1)),
    "float 0-255": (np.float32, 1, "guess", (0, 255)),
    "float 0-65535": (np.float32, 257, "guess", (0, 65535)),
}


@pytest.mark.parametrize("name", TYPES)
def test_the_same_picture_in_any_type_is_the_same_in_0_to_1(name):
    dtype, factor, origin, value_range = TYPES[name]
    values = picture() * factor
    array = values.round().astype(dtype) if np.dtype(dtype).kind in "iu" else values.astype(dtype)
    slide = slide_from_array(array)
    numbers = slide.numbers
    assert (numbers.kind, numbers.value_range, numbers.range_from) == ("brightfield", value_range, origin)
    sure = origin == "file" or value_range == (0, 1)
    assert (numbers.doubt is None) == sure
    unit = to_unit(slide.read(Region(0, 0, 200, 200)), unit_scale(numbers.value_range))
    step = 1e-6 if np.dtype(dtype).kind in "u" else 1e-3 if dtype == np.float16 else 5e-3
    assert np.abs(unit - picture() / 255).max() < max(step, 0.5 / factor / 255 if dtype in (np.uint16, np.int16) else 0)
    assert to_unit(slide.background[None, None], unit_scale(numbers.value_range)).tolist() == [[[1, 1, 1]]]


@pytest.mark.parametrize(
    ("array", "value_range"),
    [
        (np.array([[-1024, 3071]] * 64, np.int16), (-8192, 8191)),
        (np.array([[-30000, 30000]] * 64, np.int16), (-32768, 32767)),
        (np.array([[-100, 100]] * 64, np.int8), (-128, 127)),
        (np.array([[-3.2, 4.1]] * 64, np.float32), (-8, 8)),
        (np.array([[-0.03, 0.98]] * 64, np.float32), (0, 1)),
        (np.array([[-0.9, 0.98]] * 64, np.float32), (-1, 1)),
        (np.zeros((64, 64), np.uint16), (0, 65535)),
        (np.zeros((64, 64), np.float32), (0, 1)),
        (np.full((64, 64), 700, np.uint16), (0, 1023)),
        (np.ones((64, 64), bool), (0, 255)),
    ],
)
def test_signed_constant_and_overshooting_values(array, value_range):
    slide = slide_from_array(array)
    assert slide.value_range == value_range
    assert slide.background == value_range[0] or slide.kind == "brightfield"


def test_a_hot_pixel_does_not_decide_and_is_told():
    values = np.random.default_rng(0).random((256, 256)).astype(np.float32)
    values[17, 40] = 1e6
    assert slide_from_array(values).value_range == (0, 1)
    camera = (values.clip(0, 1) * 3000).astype(np.uint16)
    camera[3, 3] = 65535
    numbers = slide_from_array(camera).numbers
    assert numbers.value_range == (0, 4095)
    assert "65535" in numbers.doubt


def test_a_person_is_believed_before_the_file_and_the_pixels():
    slide = slide_from_array(picture().astype(np.uint16), kind="fluorescence", value_range=(10, 500))
    assert (slide.kind, slide.numbers.kind_from) == ("fluorescence", "person")
    assert (slide.value_range, slide.numbers.range_from) == ((10.0, 500.0), "person")
    assert slide.background.tolist() == [10, 10, 10]
    for wrong in ((1, 1), (2, 1), (0, np.nan), 5, "ab"):
        with pytest.raises(SlideError, match="range of values"):
            slide_from_array(picture(), value_range=wrong)
    with pytest.raises(SlideError, match="kind of image"):
        slide_from_array(picture(), kind="bright")


def planes(path, values, **more):
    meta = {"axes": "CYX", "PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0} | more
    tifffile.imwrite(path, np.moveaxis(values, -1, 0), ome=True, photometric="minisblack", metadata=meta)
    return path


def test_a_stained_section_stored_as_planes_is_bright_field(tmp_path):
    values = picture().astype(np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", values, photometric="rgb", resolution=(5000, 5000), resolutionunit=3)
    group = zarr.open_group(tmp_path / "bare.ome.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(3, 200, 200), dtype="u1", chunks=(1, 64, 64))[...] = np.moveaxis(values, -1, 0)
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1, 2, 2]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "name": "x", "axes": axes, "datasets": datasets}]
    right = tissue_mask(open_slide(tmp_path / "rgb.tif")).mask
    assert 0.15 < right.mean() < 0.25
    names = {"Channel": {"Name": ["Red", "Green", "Blue"]}}
    for slide in (
        open_slide(planes(tmp_path / "named.ome.tif", values, **names)),
        open_slide(planes(tmp_path / "unnamed.ome.tif", values)),
        open_slide(tmp_path / "bare.ome.zarr"),
        slide_from_array(np.dstack([values] * 1), mpp=2.0),
    ):
        assert (slide.kind, slide.numbers.kind_from) == ("brightfield", "guess")
        assert slide.background.tolist() == [255, 255, 255]
        assert (tissue_mask(slide).mask == right).all()


def test_three_fluorescence_channels_are_no_bright_field(tmp_path):
    rng = np.random.default_rng(0)
    glow = rng.gamma(1, 6, (200, 200, 3))
    glow[50:100, 50:100] += 150
    values = glow.clip(0, 255).astype(np.uint8)
    assert open_slide(planes(tmp_path / "a.ome.tif", values)).kind == "fluorescence"
    named = open_slide(planes(tmp_path / "b.ome.tif", values + 90, Channel={"Name": ["DAPI", "FITC", "Cy3"]}))
    assert (named.kind, named.numbers.kind_from) == ("fluorescence", "file")
    assert slide_from_array(values).kind == "fluorescence"  # three channels of nobody knows what, dark
    assert slide_from_array(np.dstack([values, values])[..., :4]).kind == "fluorescence"
    told = open_slide(planes(tmp_path / "c.ome.tif", values, Channel={"ContrastMethod": ["Brightfield"] * 3}))
    assert (told.kind, told.numbers.kind_from) == ("brightfield", "file")


def test_grey_bright_field_and_grey_fluorescence():
    grey = picture().mean(2)
    assert slide_from_array(grey.astype(np.uint8)).kind == "brightfield"
    assert slide_from_array((255 - grey).astype(np.uint8)).kind == "fluorescence"


def test_what_files_say_of_their_range(tmp_path):
    values = (picture()[..., 0] * 3).astype(np.uint16)
    wide = {"extratags": [(340, "H", 1, 0, True), (341, "H", 1, 2000, True)]}
    tifffile.imwrite(tmp_path / "tags.tif", values, **wide)
    tifffile.imwrite(tmp_path / "most.tif", values, extratags=[(281, "H", 1, 4095, True)])
    tifffile.imwrite(tmp_path / "own.tif", values, extratags=[(281, "H", 1, int(values.max()), True)])
    tifffile.imwrite(tmp_path / "ome.ome.tif", values, metadata={"axes": "YX", "SignificantBits": 14})
    tifffile.imwrite(tmp_path / "silent.tif", values)
    said = {name: open_slide(tmp_path / name).numbers for name in ("tags.tif", "most.tif", "ome.ome.tif")}
    assert {n: (s.value_range, s.range_from, s.doubt) for n, s in said.items()} == {
        "tags.tif": ((0, 2000), "file", None),
        "most.tif": ((0, 4095), "file", None),
        "ome.ome.tif": ((0, 16383), "file", None),
    }
    for name in ("own.tif", "silent.tif"):  # the largest value of one image is no range
        assert open_slide(tmp_path / name).numbers.range_from == "guess"
        assert open_slide(tmp_path / name).value_range == (0, 1023)


def test_a_pyramid_keeps_what_was_decided(tmp_path):
    values = (picture()[..., 0] * 3).astype(np.uint16)
    with slide_from_array(values, mpp=0.5, kind="fluorescence", value_range=(0, 3000)) as slide:
        build_pyramid(slide, tmp_path / "given.ome.zarr")
    numbers = open_slide(tmp_path / "given.ome.zarr").numbers
    assert numbers.value_range == (0, 3000)
    assert (numbers.kind, numbers.kind_from, numbers.range_from) == ("fluorescence", "person", "person")
    build_pyramid(values, tmp_path / "guessed.ome.zarr", mpp=0.5)
    numbers = open_slide(tmp_path / "guessed.ome.zarr").numbers
    assert (numbers.value_range, numbers.range_from) == ((0, 1023), "guess")
    assert "guess" in numbers.doubt


def test_a_range_is_looked_for_in_the_finest_level_too(tmp_path):
    """Small bright things vanish in the averages of a pyramid."""
    values = np.full((2048, 2048), 20, np.uint16)
    values[1000:1004, 1000:1004] = 3000
    build_pyramid(values, tmp_path / "dots.ome.zarr", mpp=0.5)
    attributes = zarr.open_group(tmp_path / "dots.ome.zarr", mode="a").attrs
    attributes["napari_msunet"] = {}
    slide = open_slide(tmp_path / "dots.ome.zarr")
    assert slide.value_range == (0, 4095)


def test_a_set_is_decided_as_a_whole():
    dim, bright = (np.random.default_rng(n).random((64, 64)) for n in (0, 1))
    slides = [slide_from_array((dim * 900).astype(np.uint16)), slide_from_array((bright * 3500).astype(np.uint16))]
    slides.append(slide_from_array((bright * 200).astype(np.uint8)))
    decided = decide([s.info for s in slides], [s.sample for s in slides])
    assert [n.value_range for n in decided] == [(0, 4095), (0, 4095), (0, 255)]


def test_values_that_are_no_numbers_are_a_sentence(tmp_path):
    values = np.random.default_rng(0).random((100, 120)).astype(np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        values[50, 60] = bad
        tifffile.imwrite(tmp_path / "strip.tif", values)
        slide = open_slide(tmp_path / "strip.tif", mpp=0.5)
        assert slide.value_range == (0, 1)
        with pytest.raises(NotNumbersError, match=r"strip\.tif has values that are no numbers"):
            slide.read(Region(0, 0, 100, 120))
        with pytest.raises(NotNumbersError):
            tissue_mask(slide)


def test_contrast_follows_what_a_fluorescence_slide_holds():
    values = np.full((100, 100), 100, np.uint16)
    values[:50] = 900
    low, high = display_limits(slide_from_array(values))
    assert (low, high) == (100, 900)
    assert display_limits(slide_from_array(picture().astype(np.uint8))) == (0, 255)


def test_a_model_sees_a_slide_by_its_own_range_or_the_models():
    rng = np.random.default_rng(0)
    dim = slide_from_array((rng.random((64, 64)) * 3000).astype(np.uint16))
    trained = TrainedOn(kind="fluorescence", ranges={"uint16": (0, 65535)})
    seen = seen_by(trained, dim)  # a dim image of the same type: the numbers mean the same
    assert seen.scale == Scale(0, 65535)
    assert "which was taken" in seen.doubts[0]
    assert seen_by(TrainedOn(kind="fluorescence", ranges={"uint16": (0, 16383)}), dim) == (Scale(0, 16383), ())
    assert seen_by(TrainedOn(kind="fluorescence", ranges={"uint16": (0, 4095)}), dim) == (Scale(0, 4095), ())
    other = seen_by(TrainedOn(kind="fluorescence", ranges={"uint8": (0, 255)}), dim)
    assert other.scale == Scale(0, 4095)
    assert "does not say the range" in other.doubts[0]
    stained = seen_by(TrainedOn(kind="brightfield", ranges={"uint16": (0, 65535)}), dim)
    assert "trained on bright-field" in stained.doubts[0]
    white = slide_from_array((picture() * 16).astype(np.uint16))
    assert seen_by(TrainedOn(kind="brightfield", ranges={"uint16": (0, 65535)}), white).scale == Scale(0, 4095)
    given = slide_from_array(
        (rng.random((64, 64)) * 3000).astype(np.uint16), None, None, None, "fluorescence", (0, 1000)
    )
    assert "cut off" in seen_by(TrainedOn(kind="fluorescence", ranges={}), given).doubts[0]


def test_a_model_from_before_sees_what_it_saw():
    values = (np.random.default_rng(0).random((64, 64)) * 3000).astype(np.uint16)
    seen = seen_by(None, slide_from_array(values))
    assert seen.scale == Scale(0, 65535, clip=False)
    assert "does not say which range" in seen.doubts[0]
    assert seen_by(None, slide_from_array((values >> 4).astype(np.uint8))) == (Scale(0, 255, clip=False), ())
    assert seen_by(None, slide_from_array(values, value_range=(0, 4095))) == (Scale(0, 4095), ())
