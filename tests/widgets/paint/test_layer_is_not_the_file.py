"""Layers as other readers make them: what is shown is what the dock works on, or a sentence says why not."""

import numpy as np
import pytest
import tifffile
from napari.layers import Image
from napari.layers._source import layer_source

from napari_msunet.geometry import Region
from napari_msunet.widgets.layer_slides import slide_of

SHAPE = (200, 300)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)


def opened_by_another(path, data, **options):
    with layer_source(path=str(path), reader_plugin="another"):
        return Image(data, **options)


def shows(layer, expected):
    slide = slide_of(layer)
    got = slide.read(Region(0, 0, *slide.shape[:2]))
    return np.array_equal(got, expected if expected.ndim == 3 else expected[..., None])


@pytest.fixture
def written(tmp_path, image):
    tifffile.imwrite(tmp_path / "one.tif", image, photometric="rgb")
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as file:
        for part in (image, 255 - image):
            file.write(part, photometric="rgb", metadata={"axes": "YXS"})
    channels = np.moveaxis(np.dstack([image, image[..., :1] // 2]), -1, 0)
    tifffile.imwrite(tmp_path / "four.ome.tif", channels, ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    return tmp_path


def test_the_same_pixels_are_the_file(written, image):
    layer = opened_by_another(written / "one.tif", image, rgb=True)
    assert slide_of(layer).path == written / "one.tif"
    pyramid = opened_by_another(written / "one.tif", [image, image[::2, ::2]], rgb=True, multiscale=True)
    assert slide_of(pyramid).path == written / "one.tif"


@pytest.mark.parametrize("what", ["scene", "channel", "turned", "mirrored", "edited", "one pixel", "darker"])
def test_other_pixels_are_not_the_file(written, image, what, messages):
    corner = image.copy()
    corner[150, 77] += 40
    name, data = {
        "scene": ("two.ome.tif", 255 - image),
        "channel": ("four.ome.tif", image[..., 1]),
        "turned": ("one.tif", image[::-1, ::-1].copy()),
        "mirrored": ("one.tif", image[:, ::-1].copy()),
        "edited": ("one.tif", 255 - image),
        "one pixel": ("one.tif", corner),
        "darker": ("one.tif", image // 2),
    }[what]
    layer = opened_by_another(written / name, data, rgb=data.ndim == 3)
    assert slide_of(layer).path is None
    assert shows(layer, data)
    assert f"does not show what {name} is read as" in messages[-1].message


def test_data_that_is_replaced_or_written_into(written, image):
    layer = opened_by_another(written / "one.tif", image.copy(), rgb=True)
    assert slide_of(layer).path is not None
    layer.data[...] = 255 - image
    assert slide_of(layer).path is None
    assert shows(layer, 255 - image)
    layer.data = image
    assert slide_of(layer).path is not None


def test_a_large_white_slide_with_a_speck_is_told_from_its_mirror(tmp_path):
    image = np.full((4096, 4096, 3), 255, np.uint8)
    image[100:2000, 100:1500] = (120, 40, 110)
    tifffile.imwrite(tmp_path / "large.tif", image, photometric="rgb", tile=(256, 256), compression="zlib")
    assert slide_of(opened_by_another(tmp_path / "large.tif", image, rgb=True)).path is not None
    assert slide_of(opened_by_another(tmp_path / "large.tif", image[:, ::-1].copy(), rgb=True)).path is None


def test_a_coarse_level_of_something_else(written, image):
    layer = opened_by_another(written / "one.tif", [image, 255 - image[::2, ::2] // 3], rgb=True, multiscale=True)
    assert slide_of(layer).path is None


@pytest.fixture
def messages():
    from napari.utils.notifications import notification_manager

    found = []
    notification_manager.notification_ready.connect(found.append)
    yield found
    notification_manager.notification_ready.disconnect(found.append)
