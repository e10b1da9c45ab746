"""A preview's maps are the probabilities of each output, and the fusion's weights, at the right place."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import napari_msunet
from napari_msunet.config import ModelConfig, PreviewJob, UNetConfig
from napari_msunet.errors import OutputError
from napari_msunet.events import Result
from napari_msunet.inference.image import predict_image, preview_events
from napari_msunet.models import build_model, save_model
from napari_msunet.slide import open_slide

SLIDE = Path(napari_msunet.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"


@pytest.mark.parametrize(("fusion", "has_weights"), [("attention", True), ("weighted", True), ("mean", False)])
def test_maps_are_what_the_model_gives_there(fusion, has_weights, tmp_path):
    torch.manual_seed(0)
    config = ModelConfig(classes=("a", "b"), mpp=3.0, fusion=fusion, branch=UNetConfig(depth=2, width=4))
    model = build_model(config)
    save_model(model, tmp_path / "m.safetensors")
    job = PreviewJob(
        slide=SLIDE, model=tmp_path / "m.safetensors", out=tmp_path / "maps", region=(501.0, 702.5, 600.0, 500.0)
    )
    (result,) = list(preview_events(job))
    list(preview_events(job))  # again: replaces
    assert isinstance(result, Result)
    group = zarr.open_group(tmp_path / "maps", mode="r")
    y, x, height, width = group.attrs["window"]
    with open_slide(SLIDE) as slide:
        whole = predict_image(model, slide)
    arrays = {a.attrs["name"]: a[:] for _, a in group.arrays()}
    assert set(arrays) == {*config.outputs} | ({"weights"} if has_weights else set())
    for name, values in arrays.items():
        assert np.abs(values - whole[name][:, y : y + height, x : x + width]).max() < 2e-3, name
    if has_weights:
        assert np.allclose(arrays["weights"].sum(0), 1, atol=2e-3)
        assert len(result.values["mean_weights"]) == 3
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".partial")] == []


def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    config = ModelConfig(classes=("a",), mpp=4, scales=(1.0,), branch=UNetConfig(depth=1, width=4))
    save_model(build_model(config), tmp_path / "m.safetensors")
    job = PreviewJob(
        slide=SLIDE, model=tmp_path / "m.safetensors", out=tmp_path / "file" / "maps", region=(0, 0, 300, 300)
    )
    with pytest.raises(OutputError):
        list(preview_events(job))
