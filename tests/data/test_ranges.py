"""What numbers mean in a set of images: decided for the set, told, and brought to 0..1 alike."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from napari_msunet.config import (
    Augmentation,
    FolderSource,
    ModelConfig,
    Normalisation,
    TableSource,
    TrainedOn,
    UNetConfig,
)
from napari_msunet.data import load_sources
from napari_msunet.data.augmentation import Views, augment
from napari_msunet.data.loader import Crops
from napari_msunet.data.ranges import trained_on
from napari_msunet.errors import NotNumbersError, SourceError
from napari_msunet.geometry import Window

GREY = ModelConfig(classes=("a",), mpp=0.5, scales=(1.0,), channels=1, branch=UNetConfig(depth=1, width=2))


def folder(path, arrays, masks=True):
    """Images as TIFF, and masks."""
    (path / "i").mkdir(parents=True)
    (path / "m").mkdir()
    for number, array in enumerate(arrays):
        tifffile.imwrite(path / "i" / f"{number}.tif", array)
        mask = np.zeros(array.shape[:2], np.uint8)
        mask[4:20, 4:20] = 1
        Image.fromarray(mask).save(path / "m" / f"{number}.png")
    return FolderSource(images=path / "i", masks=path / "m", mpp=0.5)


def glow(seed, top, dtype):
    values = np.random.default_rng(seed).gamma(1, 0.1, (48, 48)).clip(0, 1) * top
    values[8:12, 8:12] = top
    return values.round().astype(dtype) if np.dtype(dtype).kind in "iu" else values.astype(dtype)


def read(item):
    crops = Crops(list(GREY.ratios), lambda w: [w])
    return crops.read(item, Window(0, 0, 48, 48))


def test_a_dim_image_has_the_range_of_its_set(tmp_path):
    said = []
    source = folder(tmp_path, [glow(0, 3000, np.uint16), glow(1, 900, np.uint16)])
    items = load_sources([source], GREY, lambda level, text: said.append((level, text)))
    assert [i.numbers.value_range for i in items] == [(0, 4095), (0, 4095)]
    assert read(items[1]).inputs[0].max() == pytest.approx(900 / 4095, abs=1e-6)
    assert not read(items[1]).brightfield
    doubts = [text for level, text in said if level == "warning"]
    assert len(doubts) == 1
    assert "0 to 4095" in doubts[0]
    assert trained_on(items, lambda *_: None) == TrainedOn(kind="fluorescence", ranges={"uint16": (0, 4095)})
    with items[1].open() as slide:  # alone it would be taken for 10 bits
        assert slide.value_range == (0, 1023)
    assert items[1].slide.value_range == (0, 4095)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.uint32, np.float64])
def test_the_same_values_are_the_same_in_any_type(tmp_path, dtype):
    items = load_sources([folder(tmp_path, [glow(0, 3000, np.uint16).astype(dtype)])], GREY)
    expected = glow(0, 3000, np.uint16)[..., None] / np.float32(4095)
    np.testing.assert_allclose(read(items[0]).inputs[0], expected, atol=1e-6)


def test_types_of_a_mixed_set_are_told_apart(tmp_path):
    arrays = [glow(0, 250, np.uint8), glow(1, 1, np.float32), glow(2, 60000, np.uint16), glow(3, 0.4, np.float32)]
    items = load_sources([folder(tmp_path, arrays)], GREY)
    assert [i.numbers.value_range for i in items] == [(0, 255), (0, 1), (0, 65535), (0, 1)]
    assert read(items[0]).inputs[0].dtype == np.uint8
    assert read(items[3]).inputs[0].max() == pytest.approx(0.4)


def test_a_person_says_it_for_all_or_in_a_table(tmp_path):
    source = folder(tmp_path, [glow(0, 3000, np.uint16), glow(1, 900, np.uint16)])
    given = source.model_copy(update={"value_range": (0, 16383), "image_kind": "brightfield"})
    items = load_sources([given], GREY)
    assert {(i.numbers.value_range, i.numbers.kind, i.numbers.range_from) for i in items} == {
        ((0, 16383), "brightfield", "person")
    }
    rows = "images,masks,mpp,kind,value_range\ni/0.tif,m/0.png,0.5,Brightfield,0-4095\ni/1.tif,m/1.png,0.5,,\n"
    (tmp_path / "t.csv").write_text(rows)
    first, second = load_sources([TableSource(table=tmp_path / "t.csv")], GREY)
    assert (first.numbers.kind, first.numbers.value_range) == ("brightfield", (0, 4095))
    assert (second.numbers.kind, second.numbers.value_range) == ("fluorescence", (0, 1023))
    (tmp_path / "t.csv").write_text(rows.replace("0-4095", "4095"))
    with pytest.raises(SourceError, match=r"t\.csv.*'4095' is no range"):
        load_sources([TableSource(table=tmp_path / "t.csv")], GREY)


def test_images_are_brought_to_what_a_model_learned(tmp_path):
    source = folder(tmp_path, [glow(0, 900, np.uint16)])
    fitted = GREY.model_copy(update={"normalisation": Normalisation(mean=(0.1,), std=(0.1,))})
    kept = TrainedOn(kind="fluorescence", ranges={"uint16": (0, 4095)})
    (item,) = load_sources([source], fitted.model_copy(update={"trained_on": kept}))
    assert read(item).inputs[0].max() == pytest.approx(900 / 4095)
    (item,) = load_sources([source], fitted)  # a model of before
    assert read(item).inputs[0].max() == pytest.approx(900 / 65535)


def test_values_that_are_no_numbers_name_the_image(tmp_path):
    bad = glow(0, 1, np.float32)
    bad[:, :9] = np.nan
    items = load_sources([folder(tmp_path, [bad])], GREY)
    with pytest.raises(NotNumbersError, match=r"0\.tif"):
        read(items[0])


def test_only_bright_field_gets_another_stain():
    windows = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    options = Augmentation.none().model_copy(update={"stain": 0.5, "saturation": 0.5})
    views = Views((32, 32), [(32, 32)], [1.0])
    truth = torch.zeros(4, 32, 32, dtype=torch.uint8)
    kinds = torch.tensor([True, False, True, False])
    changed = augment([windows], truth, views, options, 1, kinds).inputs[0]
    difference = (changed - windows).abs().amax((1, 2, 3))
    assert (difference[kinds] > 0.02).all()
    assert (difference[~kinds] < 1e-5).all()
    every = augment([windows], truth, views, options, 1).inputs[0]
    torch.testing.assert_close(changed[kinds], every[kinds])
