"""What is of the wrong type gets one sentence, whichever public function it is given to."""

import numpy as np
import pytest

import napari_msunet as ms
from napari_msunet.geometry import Window, as_region


@pytest.fixture
def slide():
    return ms.slide_from_array(np.full((60, 60, 3), 200, np.uint8), mpp=0.5)


@pytest.fixture
def labels(tmp_path):
    with ms.LabelStore.create(tmp_path / "l.ome.zarr", shape=(60, 60), mpp=0.5, classes=("a",)) as made:
        yield made


@pytest.fixture
def model():
    config = ms.ModelConfig(classes=("a",), mpp=0.5, scales=(1.0,), branch=ms.UNetConfig(depth=1, width=4))
    return ms.build_model(config)


def test_four_numbers_are_a_region(slide, labels, model, tmp_path):
    for value in ((0, 0, 9, 8), [0, 0, 9, 8], np.array([0, 0, 9, 8]), Window(0, 0, 9, 8), ms.Region(0, 0, 9, 8)):
        assert as_region(value) == ms.Region(0, 0, 9, 8)
    assert slide.read((0, 0, 9, 8)).shape == (9, 8, 3)
    assert labels.read((0, 0, 9, 8)).shape == (9, 8)
    assert labels.write((0, 0, 9, 8), 1) > 0
    labels.release((0, 0, 9, 8))
    with ms.predict(slide, model, out=tmp_path / "p.ome.zarr", region=(0, 0, 9, 9)) as made:
        assert sum(w.height * w.width for w in made.runs[0].done.values()) == 81


@pytest.mark.parametrize("value", ["view", (0, 0, 9), 5, None, ("a", 0, 9, 9), object()])
def test_what_is_no_region(slide, labels, model, tmp_path, value):
    for call in (slide.read, labels.read, labels.release, lambda region: labels.write(region, 1)):
        with pytest.raises(ms.MsunetError, match="is no region; give Region"):
            call(value)
    if value is not None:
        with pytest.raises(ms.MsunetError, match="is no region; give Region"):
            ms.predict(slide, model, out=tmp_path / "p.ome.zarr", region=value)
    with pytest.raises(ms.MsunetError, match="no number"):
        ms.Region("0", 0, 9, 9)


@pytest.mark.parametrize("value", [None, 3, object()])
def test_what_is_no_path(slide, model, value):
    calls = (
        ms.open_slide,
        ms.open_labels,
        ms.load_model,
        ms.job_from_json,
        ms.review_queue,
        lambda out: ms.save_model(model, out),
        lambda out: ms.build_pyramid(np.zeros((9, 9, 3), np.uint8), out, mpp=1),
        lambda out: ms.LabelStore.create(out, shape=(9, 9)),
        lambda out: ms.predict(slide, model, out=out),
        lambda path: ms.predict(slide, path, out="x.ome.zarr"),
    )
    for call in calls:
        with pytest.raises(ms.MsunetError, match="is no path; give the path of"):
            call(value)


def test_others(labels, tmp_path):
    with pytest.raises(ms.MsunetError, match="is one text"):
        ms.LabelStore.create(tmp_path / "m.ome.zarr", shape=(9, 9), classes="gland")
    with pytest.raises(ms.MsunetError, match="needs a shape"):
        ms.LabelStore.create(tmp_path / "m.ome.zarr", shape=9)
    with pytest.raises(ms.MsunetError, match="is no slide"):
        ms.tissue_mask(tmp_path / "s.svs")
    with pytest.raises(ms.MsunetError, match="is no ModelConfig"):
        ms.build_model(None)
    with pytest.raises(ms.MsunetError, match="is no model"):
        ms.save_model(3, tmp_path / "m.safetensors")
    with pytest.raises(ms.MsunetError, match="'big' pixels are too small"):
        ms.review_queue(labels, by="distance", size="big")
