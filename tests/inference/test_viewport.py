"""What is in view comes first; a large view is shown by its coarsest scale before its tiles, at no further work."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import napari_msunet
from napari_msunet.config import Drawn, ModelConfig, PredictOptions, UNetConfig
from napari_msunet.events import FirstLook, RegionDone, Stop, parse_event, stoppable
from napari_msunet.geometry import Window
from napari_msunet.inference import viewport
from napari_msunet.inference.engine import as_input
from napari_msunet.inference.network import TorchNetwork
from napari_msunet.inference.predict import prediction
from napari_msunet.labels import open_labels
from napari_msunet.models import build_model
from napari_msunet.slide import open_slide

SLIDE = Path(napari_msunet.__file__).parent / "demo_data" / "CMU-1-Small-Region.svs"
EVERYTHING = (0.0, 0.0, 3000.0, 3000.0)


@pytest.fixture(scope="module")
def slide():
    with open_slide(SLIDE) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(slide):
    torch.manual_seed(3)
    made = build_model(ModelConfig(classes=("a", "b"), mpp=1.0, branch=UNetConfig(depth=2, width=4), fusion="mean"))
    with torch.no_grad():
        head = made.eval().branches[2].head
        head.bias.sub_(coarse_logits(made, slide).mean((0, 2, 3)))  # so that its classes vary over the slide
    return made


def coarse_logits(model, slide):
    """What the branch at a quarter says of the whole slide, in one piece."""
    grid, margin = slide.grid(model.config.target_mpp).scaled(Fraction(1, 4)), 64
    padded = grid.whole.padded(margin).aligned(4)
    x = torch.from_numpy(as_input(slide.read_window(grid, padded)))[None]
    with torch.inference_mode():
        z = model.class_logits(model.run_branch(2, x))
    return z[(..., *grid.whole.slices((padded.y, padded.x)))]


@pytest.fixture
def branches(monkeypatch):
    """How many windows each branch was given."""
    seen = []
    run = TorchNetwork.run
    monkeypatch.setattr(TorchNetwork, "run", lambda self, b, x, keep: seen.append(b) or run(self, b, x, keep))
    return seen


def predicted(slide, model, out, view, **options):
    stop = Stop()
    stop.look(view)
    with stoppable(stop):
        return list(prediction(slide, [model], out, PredictOptions(tile=256, **options)))


def test_a_large_view_is_shown_by_its_coarsest_scale_first(slide, model, tmp_path, monkeypatch, branches):
    nobody = predicted(slide, model, tmp_path / "nobody.zarr", None)
    work = sorted(branches)
    branches.clear()
    monkeypatch.setattr(viewport, "LARGE", 300_000)
    events = predicted(slide, model, tmp_path / "seen.zarr", EVERYTHING)
    assert sorted(branches) == work, "what was looked at first is not computed twice"
    assert not any(isinstance(e, FirstLook) for e in nobody)
    looks = [e for e in events if isinstance(e, FirstLook)]
    tiles = [n for n, e in enumerate(events) if isinstance(e, RegionDone)]
    assert looks
    assert max(n for n, e in enumerate(events) if isinstance(e, FirstLook)) < tiles[1]

    alone = coarse_logits(model, slide)[0].argmax(0).numpy()
    assert np.bincount(alone.ravel(), minlength=3).max() < 0.9 * alone.size
    shown = np.full(alone.shape, 9)
    for look in looks:
        assert parse_event(look.model_dump_json()) == look
        assert (look.height, look.width) == (4 * look.rows, 4 * look.columns)
        part = Window(look.y // 4, look.x // 4, look.rows, look.columns).intersection(Window(0, 0, *shown.shape))
        shown[part.slices()] = look.array()[: part.height, : part.width]
    assert np.mean(shown == alone) > 0.999

    with open_labels(tmp_path / "nobody.zarr") as a, open_labels(tmp_path / "seen.zarr") as b:
        assert np.array_equal(
            np.asarray(a.runs[-1].read(Window(0, 0, *a.shape))), b.runs[-1].read(Window(0, 0, *b.shape))
        )


def test_a_small_view_is_not(slide, model, tmp_path, monkeypatch):
    monkeypatch.setattr(viewport, "LARGE", 300_000)
    events = predicted(slide, model, tmp_path / "seen.zarr", (1000.0, 1000.0, 300.0, 300.0))
    assert not any(isinstance(e, FirstLook) for e in events)
    first = next(e for e in events if isinstance(e, RegionDone))
    assert not Window(first.y, first.x, first.height, first.width).intersection(Window(500, 500, 150, 150)).empty


def test_first_looks_keep_to_what_is_wanted(slide, model, tmp_path, monkeypatch):
    monkeypatch.setattr(viewport, "LARGE", 100_000)
    with torch.no_grad():
        always = build_model(model.config).eval()
        for branch in always.branches:
            branch.head.weight.zero_()
            branch.head.bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
    corners = ((200.0, 200.0), (200.0, 1800.0), (1800.0, 200.0))
    drawn = Drawn(polygons=(corners,))
    events = predicted(slide, always, tmp_path / "drawn.zarr", EVERYTHING, where=drawn)
    looks = [e for e in events if isinstance(e, FirstLook)]
    count = sum(int((look.array() == 1).sum()) for look in looks)
    assert count * 16 == pytest.approx(
        1600 * 1600 / 2 / 4, rel=0.03
    )  # µm² of the triangle at 0.5 µm, in pixels of 1 µm
