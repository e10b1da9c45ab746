"""Labels of a view by a model file: those of a prediction, within the time that is given."""

from pathlib import Path

import numpy as np
import pytest
from inference.test_instant import SLIDE, TINY, varied

from napari_msunet.config import LiveRequest, ModelConfig
from napari_msunet.events import Answered, Event, Result, Stop, stoppable
from napari_msunet.geometry import Window
from napari_msunet.inference import live
from napari_msunet.inference.image import predict_image
from napari_msunet.inference.live import LiveLabels
from napari_msunet.models import save_model
from napari_msunet.slide import open_slide

VIEW = (300.0, 500.0, 800.0, 1000.0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "model.safetensors"
    with open_slide(SLIDE) as slide:
        model = varied(ModelConfig(classes=("a", "b"), mpp=1.0, scales=(1.0, 0.5), branch=TINY), slide)
    save_model(model, path, {"best_epoch": 7})
    return model, path


def labelled(labels: LiveLabels, path: Path, **more: object) -> tuple[list[Answered], Result]:
    """What a request gives."""
    with stoppable(Stop()):  # as in the worker; the engine asks it what is in view
        found: list[Event] = list(labels.label(LiveRequest(model=path, slide=SLIDE, **{"view": VIEW, **more})))
    *tiles, result = found
    assert isinstance(result, Result)
    assert all(isinstance(tile, Answered) for tile in tiles)
    return tiles, result


def image(tiles: list[Answered]) -> np.ndarray:
    out = np.full(tiles[0].shape, 255, np.uint8)
    for tile in tiles:
        out[Window(tile.y, tile.x, tile.rows, tile.columns).slices()] = tile.array()
    return out


def test_a_view_has_the_labels_of_a_prediction(saved):
    model, path = saved
    tiles, result = labelled(LiveLabels(), path)
    with open_slide(SLIDE) as slide:
        whole = predict_image(model, slide)["fused"].argmax(0)
        window = slide.grid(model.config.target).centres(live.Region(*VIEW))
    shown = image(tiles)
    assert len(np.unique(whole)) > 1
    assert ((shown != 255).sum()) == window.height * window.width
    assert (shown[window.slices()] == whole[window.slices()]).mean() > 0.9999  # ties apart
    assert {tile.model for tile in tiles} == {model.fingerprint} == {result.values["model"]}
    assert result.values["epoch"] == 7
    assert result.values["whole"] is True


def test_a_large_view_begins_in_its_middle_and_ends_with_its_time(saved, monkeypatch):
    monkeypatch.setattr(live, "SMALL", 0)
    monkeypatch.setattr(live, "TILE", 128)
    labels, (_, path) = LiveLabels(), saved
    whole, result = labelled(labels, path)
    assert len(whole) > 4
    assert result.values["whole"] is True
    some, result = labelled(labels, path, seconds=1e-6)
    assert 0 < len(some) < len(whole)
    assert result.values["whole"] is False
    middle = np.array([VIEW[0] + VIEW[2] / 2, VIEW[1] + VIEW[3] / 2]) / some[0].pixel
    away = np.abs(np.array([(t.y + t.rows / 2, t.x + t.columns / 2) for t in whole]) - middle).sum(1)
    assert away[0] == away.min()
    monkeypatch.setattr(live, "MOST_PIXELS", 10_000)
    part, result = labelled(labels, path)
    assert sum(tile.rows * tile.columns for tile in part) <= 10_000
    assert result.values["whole"] is False


def test_without_a_model_or_with_the_one_that_is_shown_nothing_is_computed(saved, tmp_path):
    model, path = saved
    assert labelled(LiveLabels(), tmp_path / "none.safetensors") == ([], Result(values={"seconds": 0.0, "model": ""}))
    tiles, result = labelled(LiveLabels(), path, known=model.fingerprint)
    assert tiles == []
    assert "whole" not in result.values
