"""DICOM slides that OpenSlide refuses: values as pydicom gives them, levels, damaged files."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import napari_msunet as ms
from napari_msunet.errors import SlideError
from napari_msunet.slide.dicom_backend import DicomBackend

pydicom = pytest.importorskip("pydicom")
pytestmark = pytest.mark.filterwarnings("ignore")


def write(
    path: Path, pixels: np.ndarray, series: str, sparse: bool = False, kind: str = "VOLUME", tile: int = 64
) -> None:
    """A level of a slide, uncompressed, in tiles."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    tile = 64
    height, width = pixels.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.full((rows * tile, columns * tile, 3), 255, np.uint8)
    padded[:height, :width] = pixels
    places = [(y, x) for y in range(rows) for x in range(columns)]
    data = Dataset()
    if sparse:
        places = places[::-1][: len(places) - 1]  # all but the first, the last first
        data.DimensionOrganizationType = "TILED_SPARSE"
        data.PerFrameFunctionalGroupsSequence = []
        for y, x in places:
            position, frame = Dataset(), Dataset()
            position.RowPositionInTotalImagePixelMatrix = y * tile + 1
            position.ColumnPositionInTotalImagePixelMatrix = x * tile + 1
            frame.PlanePositionSlideSequence = [position]
            data.PerFrameFunctionalGroupsSequence.append(frame)
    spacing, shared = Dataset(), Dataset()
    spacing.PixelSpacing = [0.0005, 0.00025]
    shared.PixelMeasuresSequence = [spacing]
    data.SharedFunctionalGroupsSequence = [shared]
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.6", generate_uid()
    data.SeriesInstanceUID, data.Modality = series, "SM"
    data.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
    data.Rows = data.Columns = tile
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = height, width
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit = 3, 8, 8, 7
    data.PixelRepresentation = data.PlanarConfiguration = 0
    data.PhotometricInterpretation, data.NumberOfFrames = "RGB", len(places)
    data.PixelData = b"".join(padded[y * tile :, x * tile :][:tile, :tile].tobytes() for y, x in places)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(path, enforce_file_format=True)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (300, 430, 3), np.uint8)


def test_all_levels_of_a_series(tmp_path: Path, pixels: np.ndarray):
    write(tmp_path / "a.dcm", pixels[::2, ::2], "1.2.3")
    write(tmp_path / "b.dcm", pixels, "1.2.3")
    write(tmp_path / "label.dcm", pixels[:50, :50], "1.2.3", kind="LABEL")
    write(tmp_path / "other.dcm", pixels, "1.2.4")
    backend = DicomBackend(tmp_path / "a.dcm")
    assert [level.shape for level in backend.info.levels] == [(300, 430), (150, 215)]
    assert backend.info.mpp == pytest.approx((0.5, 0.25))
    backend.close()
    with ms.open_slide(tmp_path / "a.dcm") as slide:
        np.testing.assert_array_equal(np.asarray(slide.levels[0]), pixels)
        np.testing.assert_array_equal(np.asarray(slide.levels[1]), pixels[::2, ::2])
        region = slide.read(ms.Region(37, -20, 150, 200))
        np.testing.assert_array_equal(region[:, 20:], pixels[37:187, :180])
        assert (region[:, :20] == 255).all()
    with pytest.raises(SlideError, match="label"):
        DicomBackend(tmp_path / "label.dcm")


def test_sparse_tiles(tmp_path: Path, pixels: np.ndarray):
    write(tmp_path / "a.dcm", pixels, "1.2.3", sparse=True)
    backend = DicomBackend(tmp_path / "a.dcm")
    found = backend.read_chunk(0, 0, 0)
    wanted = pixels[: found.shape[0], : found.shape[1]].copy()
    wanted[:64, :64] = 255
    np.testing.assert_array_equal(found, wanted)
    backend.close()


def test_the_real_one_as_pydicom_reads_it(shared_data: Path):
    from pydicom.pixels import pixel_array

    path = shared_data / "slides" / "dicom-wsm.dcm"
    with ms.open_slide(path) as slide:
        assert (slide.shape, slide.mpp, slide.kind) == ((2638, 3236, 3), None, "brightfield")
        slide.check_levels()
        for number in (0, 17, 41):
            y, x = (500 * n for n in divmod(number, 7))
            tile = slide.read(ms.Region(y, x, min(500, 2638 - y), min(500, 3236 - x)))
            wanted = pixel_array(path, index=number)[: tile.shape[0], : tile.shape[1]]
            np.testing.assert_array_equal(tile, wanted)


@pytest.mark.parametrize("share", [0.0005, 0.3, 0.9])
def test_cut_short(shared_data: Path, tmp_path: Path, share: float):
    path = shutil.copyfile(shared_data / "slides" / "dicom-wsm.dcm", tmp_path / "slide.dcm")
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    with pytest.raises(SlideError, match=r"cut short|damaged|no image|without"):
        ms.open_slide(path)
