"""Sound files of formats that cannot be read: recognised by their content, with advice on how to convert them."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from napari_msunet.errors import SlideError

START = 4096
"""Number of first bytes that are examined."""

_CONVERT = "export it as OME-TIFF or OME-Zarr with Fiji, QuPath or bfconvert (Bio-Formats), and open that"
_VSI = (
    "an Olympus VSI file, whose pixels lie in .ets files in a folder beside it (the file itself holds only an overview "
    "and a label)"
)
_IMAGE = "save it as TIFF or PNG"
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (10, b"IS\x92\x01", _VSI, _CONVERT),
    (0, b"SIS\0", "an Olympus .ets file, the pixels of a VSI file", f"for the .vsi file it belongs to: {_CONVERT}"),
    (0, b"\xda\xce\xbe\x0a", "a Nikon ND2 file", _CONVERT),
    (0, b"\x70\0\0\0", "a Leica LIF file", _CONVERT),
    (0, b"OLYMPUSRAWFORMAT", "an Olympus OIR file", _CONVERT),
    (0, b"\xd0\xcf\x11\xe0", "a file of an older microscope's program (such as OIB or ZVI)", _CONVERT),
    (0, b"\x89HDF\r\n", "an HDF5 file (such as Imaris)", _CONVERT),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image", _IMAGE),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image", _IMAGE),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", _IMAGE),
    (0, b"\xff\x0a", "a JPEG XL image", _IMAGE),
    (0, b"II\xbc\x01", "a JPEG XR image", _IMAGE),
    (0, b"GIF8", "a GIF image", _IMAGE),
    (8, b"WEBP", "a WebP image", _IMAGE),
    (4, b"ftypavif", "an AVIF image", _IMAGE),
    (4, b"ftyphei", "an HEIC image", _IMAGE),
    (4, b"ftypmif1", "an HEIC image", _IMAGE),
    (0, b"8BPS", "a Photoshop file", _IMAGE),
    (0, b"%PDF", "a PDF", "export its images as TIFF or PNG"),
    (0, b"\x93NUMPY", "a NumPy array", "load it with numpy.load, and give it to slide_from_array or save it as TIFF"),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it first"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"[NanoZoomer", "a list of NDPI files", "give one of the .ndpi files that it names"),
)

_OUTLINES = (
    "give the slide that they lie on, and read them with: napari-msunet import OUTLINES --slide SLIDE --labels NEW"
)
_ROOTS = (
    (b"<Annotations", "outlines of HALO or ImageScope"),
    (b"<ASAP_Annotations", "outlines of ASAP"),
    (b'"FeatureCollection"', "outlines in GeoJSON"),
    (b'"geometry"', "outlines in GeoJSON"),
    (b"<annotations", "outlines of CVAT"),
    (b"<annotation", "annotations in XML"),
    (b'"data_row"', "outlines of Labelbox"),
    (b'"Labeled Data"', "outlines of Labelbox"),
    (b'"shapes"', "outlines of labelme"),
    (b'"segmentation"', "outlines of COCO"),
    (b"be.cytomine.", "outlines of Cytomine"),
)
_ISYNTAX = b"DPUfsImport"

_DICOM_UID = b"1.2.840.10008."
_DICOM_SLIDE = b"1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of VL Whole Slide Microscopy (DICOM PS3.4)."""

_UNSUPPORTED = re.compile(
    r"unsupported (tiff )?(compression|bmp|pixel|bit|photometric|colou?r|jpeg process|jpeg data precision|jpeg colou?r)"
    r"|not supported|not implemented|cannot handle \d+.?bit|codec not available|unknown codec|no codec|requires the '",
    re.IGNORECASE,
)

_FRAMES = {0xC3: "lossless JPEG", 0xC5: "hierarchical JPEG", 0xC9: "JPEG with arithmetic coding"} | {
    **dict.fromkeys((0xC6, 0xC7), "hierarchical JPEG"),
    **dict.fromkeys((0xCA, 0xCB, 0xCD, 0xCE, 0xCF), "JPEG with arithmetic coding"),
}


def not_supported(path: Path, what: str, instead: str = "") -> SlideError:
    """The error about a sound file that is not supported."""
    return SlideError(
        f"{path} is not supported: it holds {what}; {instead or 'save it as RGB or grey of 8 or 16 bits'}."
    )


def is_unsupported(error: BaseException) -> bool:
    """Whether an error of a library means that something is not supported, not that it is damaged."""
    name = type(error).__name__
    if isinstance(error, NotImplementedError | ImportError) or name == "UnknownCodecError":
        return True
    return bool(_UNSUPPORTED.search(str(error)))


def check_foreign(path: Path, start: bytes) -> None:
    """Raise `SlideError` where a file is of a known format that is not supported.

    Parameters
    ----------
    path : Path
    start : bytes
        The first bytes of the file, up to `START`.
    """
    if path.suffix.lower() == ".vsi":
        raise SlideError(f"{path} is {_VSI}; {_CONVERT}.")
    if dicom := _dicom(start):
        raise SlideError(f"{path} is {dicom}.")
    for place, magic, what, do in _MAGIC:
        if start[place : place + len(magic)] == magic:
            raise SlideError(f"{path} is {what}, which cannot be read; {do}.")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _ISYNTAX in text:
        raise SlideError(f"{path} is a Philips iSyntax file, which cannot be read; export it as TIFF or DICOM.")
    if text[:1] in (b"<", b"{", b"["):
        for word, what in _ROOTS:
            if word in text:
                raise SlideError(f"{path} is no image: it holds {what}; {_OUTLINES}.")


def is_dicom_slide(start: bytes) -> bool:
    """Whether a file is of a DICOM slide, by its first bytes."""
    found = _dicom(start)
    return found is not None and found.startswith("a DICOM slide")


def _dicom(start: bytes) -> str | None:
    """A description of a DICOM file, with or without its preamble; None for other files."""
    if start[128:132] != b"DICM":
        if len(start) < 16 or _DICOM_UID not in start:
            return None
        group, element, length = struct.unpack("<HHI", start[:8])
        coded = start[4:6].isalpha() and start[4:6].isupper()
        if group not in (2, 8) or element > 0x0100 or not (coded or length < START):
            return None
    if _DICOM_SLIDE in start:
        return "a DICOM slide, which cannot be read yet; convert it to OME-TIFF or OME-Zarr"
    place = start.find(b"\x08\0\x60\0")  # (0008,0060) Modality
    modality = start[place + 8 : place + 16].split(b"\0")[0][:2].decode("ascii", "replace") if place >= 0 else ""
    named = f" (its modality is {modality})" if modality.isalpha() and modality.isupper() else ""
    if modality == "SM":
        return "a DICOM slide, which cannot be read yet; convert it to OME-TIFF or OME-Zarr"
    return (
        f"a DICOM file without a slide in it{named}, which cannot be read; give a slide, or save the image as TIFF or "
        "PNG"
    )


def jpeg_of_another_kind(path: Path) -> str | None:
    """The kind of a JPEG that Pillow cannot decode (12 bits, lossless, arithmetic coding); None for the usual kinds."""
    with path.open("rb") as file:
        file.seek(2)
        while len(head := file.read(4)) == 4 and head[0] == 0xFF:
            marker, size = head[1], int.from_bytes(head[2:], "big")
            if marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC):
                bits = (file.read(1) or b"\x08")[0]
                return _FRAMES.get(marker) or (f"JPEG of {bits} bits" if bits != 8 else None)
            file.seek(size - 2, 1)
    return None
