"""Sound files that are not read: each is named by its content, with what to do, and never called damaged."""

import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_msunet.app.describe import describe
from napari_msunet.errors import SlideError
from napari_msunet.slide import open_slide
from napari_msunet.slide.slide import open_backend

NOISE = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)


def dicom(modality, sop_class, explicit, preamble):
    """The first elements of a DICOM file."""

    def element(number, kind, value):
        value += b"\0" * (len(value) % 2)
        length = kind + struct.pack("<H", len(value)) if explicit else struct.pack("<I", len(value))
        return struct.pack("<HH", 8, number) + length + value

    found = element(0x08, b"CS", b"ORIGINAL") + element(0x16, b"UI", sop_class) + element(0x60, b"CS", modality)
    return (bytes(128) + b"DICM" if preamble else b"") + found + bytes(600)


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("preamble", [False, True])
def test_dicom(tmp_path, explicit, preamble):
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(b"OT", b"1.2.840.10008.5.1.4.1.1.7", explicit, preamble))
    assert "DICOM file without a slide in it (its modality is OT)" in refused(path)
    path.write_bytes(dicom(b"SM", b"1.2.840.10008.5.1.4.1.1.77.1.6", explicit, preamble))
    assert "DICOM slide" in refused(path)


def refused(path):
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    message = str(caught.value)
    assert str(path) in message
    assert "damaged" not in message
    assert "\n" not in message
    return message


def test_vsi_by_its_name_and_by_its_content(tmp_path):
    tifffile.imwrite(tmp_path / "a.vsi", NOISE, photometric="rgb")
    assert "Olympus VSI" in refused(tmp_path / "a.vsi")
    data = bytearray((tmp_path / "a.vsi").read_bytes())
    data[8:14] = b"\x18\0IS\x92\x01"
    (tmp_path / "a.tif").write_bytes(data)
    assert ".ets" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\xda\xce\xbe\x0a", "ND2"),
        (b"\x70\0\0\0", "LIF"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"GIF89a", "GIF"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"SIS\0", ".ets"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"\0\0\0\x20ftypheic", "HEIC"),
        (b"PK\x03\x04", "ZIP"),
        (b"8BPS", "Photoshop"),
        (b"\x93NUMPY", "slide_from_array"),
        (b"<Annotations><Annotation/></Annotations>", "HALO"),
        (b"<?xml version='1.0'?>\n<ASAP_Annotations/>", "ASAP"),
        (b'{"type": "FeatureCollection", "features": []}', "GeoJSON"),
        (b"<annotations><version>1.1</version></annotations>", "CVAT"),
        (b'{"version": "5.7.0", "shapes": []}', "labelme"),
        (b'{"data_row": {"id": "1"}}', "Labelbox"),
        (b"<?xml version='1.0'?><DataObject ObjectType='DPUfsImport'>", "iSyntax"),
    ],
)
def test_other_kinds_are_named(tmp_path, start, words):
    (tmp_path / "a.tif").write_bytes(start + bytes(300))
    assert words in refused(tmp_path / "a.tif")


def test_jpeg_that_pillow_does_not_decode(tmp_path):
    wide = imagecodecs.jpeg_encode(NOISE.astype(np.uint16) * 16, bitspersample=12)
    (tmp_path / "a.jpg").write_bytes(wide)
    with pytest.raises(SlideError, match=r"not supported.*JPEG of 12 bits"), open_slide(tmp_path / "a.jpg") as slide:
        slide.check_levels()


def test_a_codec_of_zarr_that_is_not_there(tmp_path):
    path = tmp_path / "a.ome.zarr"
    group = zarr.create_group(path, zarr_format=2)
    group.create_array("0", shape=(1, 60, 70), chunks=(1, 60, 70), dtype="uint8")[:] = 1
    axes = [{"name": n, "type": "channel" if n == "c" else "space"} for n in "cyx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    open_slide(path).close()
    meta = path / "0" / ".zarray"
    text = meta.read_text()
    start = text.index("{", text.index('"compressor"'))
    meta.write_text(text[:start] + '{"id": "unheard_of"}' + text[text.index("}", start) + 1 :])
    with pytest.raises(SlideError, match=r"not supported.*unheard_of"):
        open_slide(path)


def test_info_reads_a_tile_of_every_level(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for number in range(2):
            data = NOISE[:: 2**number, :: 2**number]
            file.write(data, photometric="rgb", tile=(16, 16), compression="zlib", subfiletype=number, metadata=None)
    assert len(describe(path)["downsamples"]) == 2
    with tifffile.TiffFile(path) as file:
        begin, length = file.pages[1].dataoffsets[0], file.pages[1].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[begin : begin + length] = b"\x55" * length
    path.write_bytes(data)
    open_slide(path).close()
    with pytest.raises(SlideError, match=r"damaged.*level 1"):
        describe(path)


def test_info_says_how_pixels_were_read(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(NOISE).quantize(9).save(tmp_path / "a.png", exif=exif)
    found = describe(tmp_path / "a.png")
    assert (found["height"], found["width"]) == (70, 60)
    assert [word for word in ("orientation tag is 6", "palette") if word in " ".join(found["read_as"])] == [
        "orientation tag is 6",
        "palette",
    ]
    Image.fromarray(NOISE).save(tmp_path / "b.png")
    assert "read_as" not in describe(tmp_path / "b.png")


def test_info_of_outlines(tmp_path):
    (tmp_path / "a.geojson").write_text(
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"classification": {"name": '
        '"gland"}}, "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]}}]}'
    )
    found = describe(tmp_path / "a.geojson")
    assert (found["is"], found["shapes"], found["classes"]) == ("outlines", 1, ["gland: 1"])


def test_the_first_of_several_planes_is_said(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([NOISE[..., 0]] * 3), photometric="minisblack")
    assert "3 planes" in describe(tmp_path / "a.tif")["read_as"][0]
    backend = open_backend(tmp_path / "a.tif")
    assert backend.planes == 3
    backend.close()
