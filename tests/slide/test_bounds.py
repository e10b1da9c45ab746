"""A slide that declares bounds is its bounds, at every level (a small Leica SCN file, written here)."""

import numpy as np
import pytest
import tifffile
from skimage.data import immunohistochemistry

from napari_msunet.geometry import Region, Window
from napari_msunet.slide import open_slide

NM = 500  # nanometres per pixel
CORNER = 300, 600
IMAGE = """<image name="{name}" uuid="{name}"><creationDate>2020-01-01T00:00:00Z</creationDate>
<device model="x" version="1"/><pixels sizeX="512" sizeY="512">{levels}</pixels>
<view sizeX="{width}" sizeY="{height}" offsetX="{x}" offsetY="{y}" spacingZ="0"/><scanSettings>
<objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>
<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>
</illuminationSettings></scanSettings></image>"""
LEVEL = '<dimension sizeX="{n}" sizeY="{n}" r="{r}" ifd="{ifd}"/>'


@pytest.fixture(scope="module")
def scn(tmp_path_factory):
    """A scan of 512 x 512 pixels, at `CORNER` of a glass of 1500 x 2000."""
    image = np.ascontiguousarray(immunohistochemistry()[:512, :512])
    half = np.rint(image.reshape(256, 2, 256, 2, 3).astype(float).mean((1, 3))).astype(np.uint8)
    height, width = 1500 * NM, 2000 * NM
    macro = IMAGE.format(name="macro", levels=LEVEL.format(n=64, r=0, ifd=2), width=width, height=height, x=0, y=0)
    levels = LEVEL.format(n=512, r=0, ifd=0) + LEVEL.format(n=256, r=1, ifd=1)
    place = {"width": 512 * NM, "height": 512 * NM, "y": CORNER[0] * NM, "x": CORNER[1] * NM}
    main = IMAGE.format(name="main", levels=levels, **place)
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="u">'
        f'<collection name="c" uuid="u" barcode="" sizeX="{width}" sizeY="{height}">{macro}{main}</collection></scn>'
    )
    path = tmp_path_factory.mktemp("scn") / "slide.scn"
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for number, pixels in enumerate((image, half, half[:64, :64])):
            file.write(
                pixels, photometric="rgb", tile=(min(256, len(pixels)),) * 2, compression="jpeg",
                compressionargs={"level": 95}, description=xml if number == 0 else None, metadata=None, software=False,
                resolution=(1e7 / NM, 1e7 / NM), resolutionunit="CENTIMETER",
            )  # fmt: skip
    return path


def test_the_slide_is_its_bounds(scn):
    with open_slide(scn) as slide, tifffile.TiffFile(scn) as file:
        assert slide.properties["openslide.bounds-x"] == str(CORNER[1])
        assert slide.shape == (512, 512, 3)
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert slide.downsamples == ((1.0, 1.0), (2.0, 2.0))
        for page, level in zip(file.pages, slide.levels, strict=False):
            stored = page.asarray().astype(int)
            assert level.shape == stored.shape
            assert abs(level.compute() - stored).max() <= 8  # two JPEG decoders


def test_outside_the_bounds_is_background(scn):
    with open_slide(scn) as slide:
        around = slide.read(Region(-20, -30, 552, 572))
        assert around[:20].min() == around[:, :30].min() == around[532:].min() == around[:, 542:].min() == 255
        np.testing.assert_array_equal(around[20:532, 30:542], slide.read(Region(0, 0, 512, 512)))
        grid = slide.grid(1.0)
        assert grid.shape == (256, 256)
        assert slide.read_window(grid, Window(255, 255, 2, 2))[1].min() == 255
