"""One image in every coding of its pixels: the same values, turned as it says, or refused with the coding's name.

What is right comes from the image itself, and where a coding rounds, from what another library reads of the file.
"""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from image_writing import png_of, write_bits
from PIL import Image, ImageCms, ImageOps
from skimage.data import immunohistochemistry

from napari_msunet.errors import SlideError
from napari_msunet.geometry import Region
from napari_msunet.slide import open_slide

RGB = np.ascontiguousarray(immunohistochemistry()[100:161, 200:290])
GREY = np.ascontiguousarray(RGB[..., 1])
DEEP = RGB.astype(np.uint16) * 257
OPACITY = np.zeros(GREY.shape, np.uint8)
OPACITY[10:50, 20:70] = 255
OPACITY[10:50, 40:50] = 128


def on_white(colours, opacity, white):
    share = opacity[..., None] / white
    return np.rint(colours * share + white * (1 - share))


def read(path):
    with open_slide(path) as slide:
        pixels = slide.read(Region(0, 0, *slide.shape[:2]))
        if len(slide.channels) == 3:
            assert slide.channels == ("red", "green", "blue")
        return pixels


def check(path, expected, tolerance=0):
    found = read(path)
    expected = np.atleast_3d(expected)
    assert found.shape == expected.shape
    assert np.abs(found.astype(float) - expected).max() <= tolerance
    return found


def tiff(path, data, **options):
    tifffile.imwrite(path, data, metadata=None, **options)
    return path


def quantised(bits):
    """The image in so many colours: places, and the palette `(n, 3)`."""
    image = Image.fromarray(RGB).quantize(min(2**bits, 256))
    palette = np.zeros((2**bits, 3), np.uint8)
    given = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)[: 2**bits]
    palette[: len(given)] = given
    return np.asarray(image), palette


STRIPS = {"rowsperstrip": 7}
LAYOUTS = {
    "one piece": {},
    "strips": {**STRIPS, "compression": "lzw", "predictor": True},
    "tiles": {"tile": (16, 32), "compression": "zlib"},
    "big-endian": {"byteorder": ">", "compression": "zlib", "predictor": True},
    "packbits": {"compression": "packbits"},
    "lzma": {"compression": "lzma"},
    "zstd": {"compression": "zstd"},
    "jpeg 2000": {"compression": "jpeg2000"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("data", "photometric"), [(RGB, "rgb"), (DEEP, "rgb"), (GREY, "minisblack")])
def test_layouts_of_tiff(tmp_path, layout, data, photometric):
    assert read(tiff(tmp_path / "a.tif", data, photometric=photometric, **LAYOUTS[layout])).dtype == data.dtype
    check(tmp_path / "a.tif", data)


@pytest.mark.parametrize("data", [RGB, DEEP, DEEP.astype(">u2")])
def test_planes_of_colour(tmp_path, data):
    path = tiff(tmp_path / "a.tif", np.moveaxis(data, -1, 0), photometric="rgb", planarconfig="separate")
    check(path, data)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_palettes_of_tiff(tmp_path, bits):
    if bits == 16:
        places = np.arange(GREY.size, dtype=np.uint16).reshape(GREY.shape)
        palette = np.zeros((2**16, 3), np.uint8)
        palette[: GREY.size] = RGB.reshape(-1, 3)
    else:
        places, palette = quantised(bits)
    write_bits(tmp_path / "a.tif", places, bits, 3, palette.T.astype(np.uint16) * 257)
    check(tmp_path / "a.tif", palette[places])
    if bits < 16:
        check(tmp_path / "a.tif", np.asarray(Image.open(tmp_path / "a.tif").convert("RGB")))
    write_bits(tmp_path / "b.tif", places, bits, 3, palette.T.astype(np.uint16))  # as old programs wrote palettes
    check(tmp_path / "b.tif", palette[places])


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_spread_to_eight(tmp_path, bits, photometric):
    values = GREY >> (8 - bits)
    write_bits(tmp_path / "a.tif", values, bits, photometric)
    shown = values.astype(float) * 255 / (2**bits - 1)
    check(tmp_path / "a.tif", shown if photometric else 255 - shown)
    check(tmp_path / "a.tif", np.asarray(Image.open(tmp_path / "a.tif").convert("L")))


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_grey_of_other_bits_keeps_its_numbers(tmp_path, bits, photometric):
    values = GREY.astype(np.uint16) << (bits - 8)
    write_bits(tmp_path / "a.tif", values, bits, photometric)
    found = check(tmp_path / "a.tif", values if photometric else 2**bits - 1 - values.astype(int))
    assert found.dtype == np.uint16


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "uint32", "uint64"])
def test_white_is_zero(tmp_path, dtype):
    most = np.iinfo(dtype).max
    values = GREY.astype(dtype) * (most // 255)
    check(tiff(tmp_path / "a.tif", most - values, photometric="miniswhite"), values)
    with open_slide(tmp_path / "a.tif") as slide:
        assert "0 is white" in slide.notes[0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_white_is_zero_of_numbers_without_a_largest_is_refused(tmp_path, dtype):
    path = tiff(tmp_path / "a.tif", GREY.astype(dtype), photometric="miniswhite")
    with pytest.raises(SlideError, match=f"not supported.*{dtype}.*WhiteIsZero"):
        open_slide(path)


@pytest.mark.parametrize("colours", [RGB, DEEP])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_transparency_of_tiff(tmp_path, colours, kind):
    white = np.iinfo(colours.dtype).max
    opacity = OPACITY.astype(colours.dtype) * (white // 255)
    stored = colours if kind == "unassalpha" else np.rint(colours * (opacity[..., None] / white))
    data = np.dstack([stored, opacity]).astype(colours.dtype)
    path = tiff(tmp_path / "a.tif", data, photometric="rgb", extrasamples=[kind])
    check(path, on_white(colours, opacity, white), tolerance=1)
    grey = tiff(tmp_path / "b.tif", data[..., [1, 3]], photometric="minisblack", extrasamples=[kind], planarconfig=1)
    check(grey, on_white(colours[..., 1:2], opacity, white), tolerance=1)


def test_a_fourth_sample_that_is_no_transparency_is_a_channel(tmp_path):
    data = np.dstack([RGB, OPACITY])
    found = read(tiff(tmp_path / "a.tif", data, photometric="rgb", extrasamples=["unspecified"]))
    np.testing.assert_array_equal(found, data)


def to_ycbcr(rgb, top):
    r, g, b = np.moveaxis(rgb.astype(float), -1, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    middle = (top + 1) / 2
    cb, cr = (b - y) / 1.772 + middle, (r - y) / 1.402 + middle
    return np.rint(np.clip(np.stack([y, cb, cr], -1), 0, top)).astype(rgb.dtype)


YCBCR = {"photometric": "ycbcr"}


@pytest.mark.parametrize("options", [{}, {"compression": "lzw", **STRIPS}, {"tile": (16, 16), "compression": "zlib"}])
def test_ycbcr_without_jpeg(tmp_path, options):
    path = tiff(tmp_path / "a.tif", to_ycbcr(RGB, 255), **YCBCR, **options)
    found = check(path, RGB, tolerance=2)
    libtiff = imagecodecs.tiff_decode(path.read_bytes(), asrgb=True)[..., :3]
    assert np.abs(found.astype(int) - libtiff).max() <= 1


def test_ycbcr_of_16_bits_and_of_another_black(tmp_path):
    check(tiff(tmp_path / "a.tif", to_ycbcr(DEEP, 65535), **YCBCR), DEEP, tolerance=4)
    narrow = to_ycbcr(RGB, 255).astype(float)
    narrow = (narrow - [0, 128, 128]) * [219 / 255, 112 / 127, 112 / 127] + [16, 128, 128]
    reference = (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1)
    tiff(tmp_path / "b.tif", np.rint(narrow).astype(np.uint8), **YCBCR)
    with tifffile.TiffFile(tmp_path / "b.tif", mode="r+") as file:
        file.pages[0].tags["ReferenceBlackWhite"].overwrite(reference)
    check(tmp_path / "b.tif", RGB, tolerance=4)


def test_jpeg_in_tiff_keeps_its_colours(tmp_path):
    for number, subsampling in enumerate([(1, 1), (2, 2)]):
        path = tmp_path / f"{number}.tif"
        options = {"compression": "jpeg", "compressionargs": {"level": 95}, "tile": (32, 32)}
        tifffile.imwrite(path, RGB, photometric="rgb", subsampling=subsampling, **options)
        found = read(path).astype(int)
        assert np.abs(found - RGB).mean() < 4
        np.testing.assert_array_equal(found, tifffile.imread(path))


@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lab(tmp_path, photometric, dtype):
    signed = np.asarray(ImageCms.applyTransform(Image.fromarray(RGB), TO_LAB), np.uint8)  # a and b about 0
    stored = (signed ^ np.array([0, 128, 128], np.uint8)).astype(float)  # about 128, as in ICC
    if dtype == np.uint16:
        stored = stored * [65280 / 255, 256, 256] if photometric == "icclab" else stored * [257, 256, 256]
    stored = np.rint(stored).astype(dtype)
    if photometric == "cielab":
        stored[..., 1:] ^= 1 << (8 * stored.itemsize - 1)  # about 0, as signed numbers
    path = tiff(tmp_path / "a.tif", stored, photometric=photometric)
    expected = np.asarray(ImageCms.applyTransform(Image.fromarray(signed, "LAB"), FROM_LAB)).astype(float)
    scale = 1 if dtype == np.uint8 else 257
    check(path, expected * scale, tolerance=2 * scale)


SRGB, LAB = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB", 5000)
TO_LAB = ImageCms.buildTransform(SRGB, LAB, "RGB", "LAB")
FROM_LAB = ImageCms.buildTransform(LAB, SRGB, "LAB", "RGB")


def test_cmyk(tmp_path):
    inks = np.asarray(Image.fromarray(RGB).convert("CMYK")).copy()
    inks[::3, :, 3] = 60
    expected = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))
    check(tiff(tmp_path / "a.tif", inks, photometric="separated"), expected)
    deep = tiff(tmp_path / "b.tif", inks.astype(np.uint16) * 257, photometric="separated")
    check(deep, expected.astype(float) * 257, tolerance=257)
    Image.fromarray(inks, "CMYK").save(tmp_path / "c.jpg", quality=95)
    with Image.open(tmp_path / "c.jpg") as image:
        check(tmp_path / "c.jpg", np.asarray(image.convert("RGB")))


def test_png_of_16_bits(tmp_path):
    path = tmp_path / "a.png"
    opacity = OPACITY.astype(np.uint16) * 257
    noisy = DEEP ^ np.uint16(0x2A)  # the lower 8 bits are their own
    for kind, samples, expected in (
        (0, noisy[..., 0], noisy[..., 0]),
        (2, noisy, noisy),
        (4, np.dstack([noisy[..., 0], opacity]), on_white(noisy[..., :1], opacity, 65535)),
        (6, np.dstack([noisy, opacity]), on_white(noisy, opacity, 65535)),
    ):
        path.write_bytes(png_of(16, kind, samples))
        assert check(path, expected).dtype == np.uint16
    clear = struct.pack(">3H", *noisy[3, 4])
    path.write_bytes(png_of(16, 2, noisy, (b"tRNS", clear)))
    expected = np.where((noisy == noisy[3, 4]).all(-1, keepdims=True), 65535, noisy)
    check(path, expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_of_few_bits(tmp_path, bits):
    path = tmp_path / "a.png"
    values = GREY >> (8 - bits)
    path.write_bytes(png_of(bits, 0, values))
    shown = np.rint(values * (255 / (2**bits - 1)))
    check(path, shown)
    clear = int(values[3, 4])
    path.write_bytes(png_of(bits, 0, values, (b"tRNS", struct.pack(">H", clear))))
    check(path, np.where(values == clear, 255, shown))
    places, palette = quantised(bits)
    path.write_bytes(png_of(bits, 3, places, (b"PLTE", palette.tobytes())))
    check(path, palette[places])
    opacity = np.full(2**bits, 255, np.uint8)
    opacity[0] = 64
    path.write_bytes(png_of(bits, 3, places, (b"PLTE", palette.tobytes()), (b"tRNS", opacity.tobytes())))
    check(path, on_white(palette[places].astype(float), opacity[places], 255))


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_modes_of_pillow(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
        image = Image.fromarray(np.dstack([RGB, OPACITY]))
        image = image.convert("RGB").quantize(40) if mode == "P" else image.convert(mode)
        if ending == "bmp" and mode == "LA":
            continue
        image.save(path)
        with Image.open(path) as saved:
            expected = np.asarray(saved.convert("L" if saved.mode in ("1", "L") else "RGB"))
            if saved.mode in ("RGBA", "LA"):
                colours = np.asarray(saved.convert("RGBA"))
                expected = on_white(colours[..., :3].astype(float), colours[..., 3], 255)
                expected = expected[..., :1] if saved.mode == "LA" else expected
        check(path, expected)


def test_an_image_that_is_transparent_everywhere_is_seen(tmp_path):
    Image.fromarray(np.dstack([RGB, OPACITY * 0])).save(tmp_path / "a.png")
    check(tmp_path / "a.png", RGB)


# The stored pixels of which each tag makes the same image (TIFF 6.0, tag 274; EXIF has the same).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.swapaxes(a[::-1, ::-1], 0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("number", STORED)
def test_images_are_turned_as_they_say(tmp_path, number):
    stored = np.ascontiguousarray(STORED[number](RGB))
    exif = Image.Exif()
    exif[274] = number
    resolution = {"resolution": (1e4 / 0.25, 1e4 / 0.5), "resolutionunit": "CENTIMETER"}
    tag = {"extratags": [(274, 3, 1, number, True)]}
    tiff(tmp_path / "a.tif", stored, photometric="rgb", **tag, **resolution)
    tiff(tmp_path / "tiles.tif", stored, photometric="rgb", tile=(16, 32), compression="zlib", **tag)
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    plain = io.BytesIO()
    Image.fromarray(stored).save(plain, "PNG")
    end = plain.getvalue().rindex(b"IEND") - 4
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    (tmp_path / "late.png").write_bytes(plain.getvalue()[:end] + chunk + plain.getvalue()[end:])
    for name in ("a.tif", "tiles.tif", "a.png", "late.png"):
        check(tmp_path / name, RGB)
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    with Image.open(tmp_path / "a.jpg") as image:
        check(tmp_path / "a.jpg", as_meant(np.asarray(image), number))
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.mpp == pytest.approx((0.5, 0.25) if number < 5 else (0.25, 0.5))
        assert (f"orientation tag is {number}" in " ".join(slide.notes)) == (number != 1)


def as_meant(stored, number):
    image = Image.fromarray(stored)
    image.getexif()[274] = number
    return np.asarray(ImageOps.exif_transpose(image))


def test_whole_slides_are_read_as_they_are_stored(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(RGB, photometric="rgb", metadata={"axes": "YXS"}, extratags=[(274, 3, 1, 6, True)])
    check(tmp_path / "a.ome.tif", RGB)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert "not followed" in " ".join(slide.notes)


@pytest.mark.parametrize(
    ("photometric", "words"),
    [("cfa", "CFA"), ("linear_raw", "LINEAR_RAW"), ("logl", "LOGL"), ("itulab", "ITULAB")],
)
def test_codings_that_are_refused_are_named(tmp_path, photometric, words):
    data = GREY if photometric in ("cfa", "logl") else RGB
    tiff(tmp_path / "a.tif", data, photometric="minisblack" if data is GREY else "rgb")
    number = int(tifffile.PHOTOMETRIC[words])
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(number)
    with pytest.raises(SlideError, match=f"not supported.*{words}") as caught:
        open_slide(tmp_path / "a.tif")
    assert "damaged" not in str(caught.value)


def test_codecs_that_are_not_there_are_named(tmp_path):
    tiff(tmp_path / "a.tif", GREY, compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(34676)  # SGI LogLuv
    with pytest.raises(SlideError, match=r"not supported.*SGILOG") as caught:
        open_slide(tmp_path / "a.tif")
    assert "damaged" not in str(caught.value)
    tiff(tmp_path / "b.tif", to_ycbcr(RGB[:60], 255), **YCBCR)
    with tifffile.TiffFile(tmp_path / "b.tif", mode="r+") as file:
        file.pages[0].tags["YCbCrSubSampling"].overwrite((2, 2))
    with pytest.raises(SlideError, match=r"not supported.*subsampled 2 x 2"):
        open_slide(tmp_path / "b.tif")
