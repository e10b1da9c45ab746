"""Maps of previews and runs as layers that lie over the slide."""

import shutil

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_msunet.config import ModelConfig, PreviewJob, UNetConfig
from napari_msunet.errors import OutputError
from napari_msunet.widgets.layer_slides import is_slide
from napari_msunet.widgets.placement import to_world
from napari_msunet.widgets.prediction.explanation import add_map, add_preview, open_preview
from napari_msunet.widgets.samples import slide_path
from napari_msunet.widgets.slide_layers import add_slide

REGION = (403.0, 801.0, 300.0, 260.0)
SCALES = ("scale 1", "scale 1/2")


@pytest.fixture(scope="module")
def previews(tmp_path_factory):
    """What the job itself writes, for a fusion with weights and one without."""
    import torch

    import napari_msunet as ms

    folder = tmp_path_factory.mktemp("previews")
    for fusion in ("attention", "mean"):
        torch.manual_seed(0)
        config = ModelConfig(
            classes=("gland", "gap"), mpp=1.0, scales=(1.0, 0.5), fusion=fusion, branch=UNetConfig(depth=1, width=4)
        )
        file = folder / f"{fusion}.safetensors"
        ms.save_model(ms.build_model(config), file)
        list(ms.run(PreviewJob(slide=slide_path(), model=file, out=folder / fusion, region=REGION)))
    return folder


@pytest.fixture
def viewer():
    return ViewerModel()


def test_all_maps_by_name(viewer, previews):
    layer = add_slide(viewer, slide_path())
    layers = add_preview(viewer, previews / "attention", layer)
    names = [one.name for one in layers]
    assert sorted(names) == sorted(
        [f"{c} ({m})" for c in ("gland", "gap") for m in ("fused", *SCALES)] + [f"weight of {s}" for s in SCALES]
    )
    assert [one.name for one in layers if one.visible] == ["gland (fused)"]
    assert {one.colormap.name for one in layers if "weight" in one.name} == {"viridis"}
    assert {one.colormap.name for one in layers if "weight" not in one.name} == {"magma"}
    assert all(one.contrast_limits == [0, 1] for one in layers)
    assert not any(is_slide(one) for one in layers)


def test_a_fusion_without_weights_has_no_maps_of_them(viewer, previews):
    assert not any("weight" in one.name for one in add_preview(viewer, previews / "mean"))


@pytest.mark.parametrize("moved", [{}, {"scale": (2.0, 3.0), "translate": (50, -7)}])
def test_maps_lie_exactly_over_the_slide(viewer, previews, moved):
    layer = add_slide(viewer, slide_path())
    for name, value in moved.items():
        setattr(layer, name, value)
    (fused, _) = add_map(viewer, previews / "attention", "fused", layer)
    preview = open_preview(previews / "attention")
    shape = np.array(fused.data.shape)
    corners = np.array([[0, 0], shape])
    expected = corners * preview.pixel + preview.corner
    np.testing.assert_allclose(to_world(viewer, fused, corners), to_world(viewer, layer, expected), atol=1e-9)
    low, high = np.array(REGION[:2]), np.add(REGION[:2], REGION[2:])
    assert (np.abs(expected[0] - low) <= preview.pixel).all()
    assert (np.abs(expected[1] - high) <= preview.pixel).all()


def test_without_the_layer_they_lie_by_micrometres(viewer, previews):
    layer = add_slide(viewer, slide_path())
    (over, _) = add_map(viewer, previews / "attention", "scale 1/2", layer)
    (alone, _) = add_map(viewer, previews / "attention", "scale 1/2")
    np.testing.assert_allclose(over.scale, alone.scale)
    np.testing.assert_allclose(over.translate, alone.translate, atol=1e-9)
    assert over.units == alone.units


def test_values_are_those_of_the_job(viewer, previews):
    preview = open_preview(previews / "attention")
    layers = {one.name: one for one in add_preview(viewer, previews / "attention")}
    for plane, name in enumerate(("gland", "gap"), 1):
        np.testing.assert_array_equal(layers[f"{name} (scale 1/2)"].data, preview.maps["scale 1/2"][plane])
    total = sum(layers[f"weight of {scale}"].data for scale in SCALES)
    np.testing.assert_allclose(total, 1, atol=2e-3)


def test_removing_one_leaves_the_others(viewer, previews, tmp_path):
    shutil.copytree(previews / "attention", tmp_path / "copy")
    layers = add_preview(viewer, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy")
    viewer.layers.remove(layers[0])
    assert len(viewer.layers) == len(layers) - 1
    assert np.isfinite(layers[1].data).all()


def test_large_maps_stay_on_disk(viewer, previews, monkeypatch):
    monkeypatch.setattr("napari_msunet.widgets.prediction.explanation.IN_MEMORY", 100)
    monkeypatch.setattr("napari_msunet.widgets.prediction.explanation.OVERVIEW_SIDE", 64)
    (fused, _) = add_map(viewer, previews / "attention", "fused")
    assert fused.multiscale
    assert max(fused.data[-1].shape) <= 64
    np.testing.assert_array_equal(fused.data[0], open_preview(previews / "attention").maps["fused"][1])


def test_what_is_not_there_is_said(viewer, previews, tmp_path):
    with pytest.raises(OutputError, match="holds no maps"):
        add_preview(viewer, tmp_path)
    with pytest.raises(OutputError, match="weights"):
        add_map(viewer, previews / "mean", "weights")
