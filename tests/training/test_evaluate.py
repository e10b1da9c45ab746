"""Evaluation: at the masks' own resolution, the same in one piece and in windows, and it can tell good from bad."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data.making import CONFIG, array_item, plain_optimiser, write_folder
from torch.nn.functional import interpolate

from napari_msunet.config import EvaluateJob, FolderSource, TrainJob
from napari_msunet.data import load_sources
from napari_msunet.errors import ModelError, OutputError, SourceError
from napari_msunet.events import Message, Progress, Result
from napari_msunet.geometry import Grid, Window
from napari_msunet.inference.image import predict_image
from napari_msunet.models import build_model, load_model, save_model
from napari_msunet.training import evaluate
from napari_msunet.training.evaluate import evaluate_events
from napari_msunet.training.fit import train_events
from napari_msunet.training.scoring import image, panels
from napari_msunet.training.scoring import image as grids
from napari_msunet.training.scoring.metrics import Confusion, report


@pytest.fixture(scope="module")
def setup(tmp_path_factory) -> tuple[Path, FolderSource]:
    """A model trained for a moment at 2 µm per pixel on images of 1 µm per pixel, and their source."""
    root = tmp_path_factory.mktemp("evaluate")
    images, masks = write_folder(root, 5, (83, 97))
    source = FolderSource(images=images, masks=masks, mpp=1.0, group="name(.)")
    model = CONFIG.model_copy(update={"mpp": 2.0})
    job = TrainJob(
        model=model, sources=(source,), out=root / "run", size=32, batch_size=4, epochs=8, steps=4, device="cpu",
        optimiser=plain_optimiser(learning_rate=1e-2),
    )  # fmt: skip
    list(train_events(job))
    return root / "run" / "model.safetensors", source


def test_scores_and_files(setup, tmp_path):
    model, source = setup
    events = list(evaluate_events(EvaluateJob(model=model, sources=(source,), out=tmp_path / "e", device="cpu")))
    result = events[-1]
    assert isinstance(result, Result)
    assert any(isinstance(e, Message) and "trained on" in e.text for e in events)
    assert [e.done for e in events if isinstance(e, Progress)] == [1, 2, 3, 4, 5]
    values = result.values
    assert set(values["pooled"]) == {"fused", "scale 1", "scale 1/2"}
    assert values["pooled"]["fused"]["dice"] > 0.75
    assert values["pooled"]["fused"]["pixels"] == 5 * 83 * 97
    assert values["classes"] == ["disc"]
    assert [i["group"] for i in values["images"]] == list("01234")
    assert json.loads((tmp_path / "e" / "report.json").read_text()) == values
    with (tmp_path / "e" / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 3 * 2
    assert float(rows[0]["dice"]) == pytest.approx(values["images"][0]["fused"]["dice"], abs=1e-5)


def test_shapes_scales_and_pictures(setup, tmp_path):
    path, source = setup
    out, scales = tmp_path / "e", (0.5, 1.0, 2.0)
    job = EvaluateJob(model=path, sources=(source,), out=out, device="cpu", instances="connected", test_scales=scales)
    result = list(evaluate_events(job))[-1]
    values = result.values
    assert values["scales"]["train"] == ["fused", "scale 1", "scale 1/2"]
    fused = values["scales"]["dice"][0]
    assert fused[1] == pytest.approx(values["pooled"]["fused"]["dice"])
    assert fused[0] < fused[1]
    # each branch does best where it was trained, and there it does what it does in the model
    assert values["scales"]["dice"][1][1] == pytest.approx(values["pooled"]["scale 1"]["dice"])
    assert values["scales"]["dice"][2][0] == pytest.approx(values["pooled"]["scale 1/2"]["dice"], abs=0.02)
    assert {"aji", "pq", "hausdorff95 disc", "boundary_iou disc"} <= set(values["means"])
    assert 0.5 < values["images"][0]["instances"]["object_dice"] <= 1
    low, high = values["intervals"]["dice"]["pooled"]
    assert low <= values["pooled"]["fused"]["dice"] <= high
    assert values["model"]["parameters"] == values["model"]["trainable"] > 100
    assert values["training"]["seconds_per_epoch"] > 0
    assert np.sum(values["confusion"]) == values["pooled"]["fused"]["pixels"]
    for name in ("panels", "calibration", "scales"):
        assert Path(result.files[name]).read_bytes().startswith(b"\x89PNG")


def test_pictures_take_no_second_prediction(setup, tmp_path, monkeypatch):
    path, source = setup
    drawn, scored = [], {}

    def score(model, item, *given, **options):
        assert item.name not in scored
        scored[item.name] = image.score_item(model, item, *given, **options)
        return scored[item.name]

    monkeypatch.setattr(evaluate, "score_item", score)
    monkeypatch.setattr(evaluate, "draw_panels", lambda path, rows, classes: drawn.extend(rows))
    list(evaluate_events(EvaluateJob(model=path, sources=(source,), out=tmp_path / "e", device="cpu")))
    assert len(scored) == 5
    assert [title.split()[1].strip(",") for title, *_ in drawn] == ["best", "median", "worst"]
    for title, picture, truth, predicted in drawn:
        found = scored[title.split()[0]]
        np.testing.assert_array_equal(truth, found.truth)
        np.testing.assert_array_equal(predicted, found.predicted)
        assert picture.shape[:2] == truth.shape


def test_of_a_large_image_a_part_is_shown(monkeypatch):
    monkeypatch.setattr(panels, "SIDE", 40)
    truth = np.arange(150 * 200, dtype=np.uint32).reshape(150, 200).astype(np.uint8) % 3
    kept = panels.keep(truth, 1 - truth % 2)
    window = kept.window
    assert (window.shape, kept.step) == ((80, 80), 2)
    title, picture, shown, predicted = panels.item_panel("one", array_item(truth), kept)
    np.testing.assert_array_equal(shown, truth[window.slices()][::2, ::2])
    np.testing.assert_array_equal(predicted, (1 - truth % 2)[window.slices()][::2, ::2])
    assert (title, picture.shape) == ("one", (40, 40, 3))


def test_it_is_what_one_computes_by_hand(setup):
    """Probabilities by torch's own bilinear on an image whose sides are whole target pixels."""
    path, _ = setup
    model = load_model(path)
    truth = np.zeros((80, 96), np.uint8)
    truth[20:50, 30:70] = 1
    truth[:5] = 255
    item = array_item(truth, mpp=2.0)
    counts = image.score_item(model, item, "cpu").counts
    maps = predict_image(model, item.slide, device="cpu")
    for name, confusion in counts.items():
        up = interpolate(torch.from_numpy(maps[name])[None], (80, 96), mode="bilinear", align_corners=False)[0]
        expected = Confusion(2)
        expected.add(up.argmax(0), torch.from_numpy(truth))
        assert np.abs(confusion.matrix - expected.matrix).sum() <= 4  # ties in the last bit
        assert confusion.matrix.sum() == 75 * 96


def test_large_images_are_done_in_windows(setup, monkeypatch):
    path, _ = setup
    model = load_model(path)
    rng = np.random.default_rng(0)
    truth = np.kron(rng.integers(0, 2, (11, 13)), np.ones((16, 16))).astype(np.uint8)
    truth[30:60, 50:100] = 255
    whole = image.score_item(model, array_item(truth, mpp=2.0), "cpu").counts
    monkeypatch.setattr(image, "_LARGEST", 37)
    monkeypatch.setattr(image, "_BAND", 7)
    parts = image.score_item(model, array_item(truth, mpp=2.0), "cpu").counts
    for name in whole:
        assert np.abs(whole[name].matrix - parts[name].matrix).sum() <= 4
        assert whole[name].matrix.sum() == (truth != 255).sum() == parts[name].matrix.sum()


def test_only_annotated_windows_are_computed(setup, monkeypatch):
    path, _ = setup
    truth = np.full((600, 800), 255, np.uint8)
    truth[100:120, 100:120] = 1
    item = array_item(truth, mpp=2.0)
    monkeypatch.setattr(image, "_LARGEST", 50)
    seen = []
    inner = image.predict_image
    monkeypatch.setattr(image, "predict_image", lambda *a, **k: (seen.append(k["window"]), inner(*a, **k))[1])
    counts = image.score_item(load_model(path), item, "cpu").counts
    assert counts["fused"].matrix.sum() == 400
    assert 1 <= len(seen) <= 4


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.7, 3.0])
def test_interpolation_is_by_place(ratio):
    """A linear ramp stays a linear ramp, whatever the grids and the window."""
    own, grid = Grid((60, 80), (1.0, 1.0)), Grid((60, 80), (ratio, ratio))
    for window in (Window(0, 0, 60, 80), Window(13, 22, 17, 9)):
        needed = grids.target_window(window, own, grid)
        assert needed.intersection(grid.whole) == needed
        y = (np.arange(needed.y, needed.stop[0]) + 0.5) * ratio
        x = (np.arange(needed.x, needed.stop[1]) + 0.5) * ratio
        ramp = (y[:, None] + 2 * x).astype(np.float32)[None]
        found = grids.on_grid(ramp, needed, grid, own, window)[0]
        edge = ratio / 2, [(n - 0.5) * ratio for n in grid.shape]
        rows = np.clip(np.arange(window.y, window.stop[0]) + 0.5, edge[0], edge[1][0])
        columns = np.clip(np.arange(window.x, window.stop[1]) + 0.5, edge[0], edge[1][1])
        np.testing.assert_allclose(found, rows[:, None] + 2 * columns, rtol=1e-4)


def test_a_wrong_mask_scores_badly(setup):
    path, source = setup
    model = load_model(path)
    item = load_sources((source,), model.config)[0]
    good = report(image.score_item(model, item, "cpu").counts["fused"].matrix, ("disc",))
    item.truth._kept = 1 - item.truth.mask()
    bad = report(image.score_item(model, item, "cpu").counts["fused"].matrix, ("disc",))
    assert good["dice"] > 0.7
    assert bad["dice"] < 0.3


def test_roles_choose(setup):
    model, source = setup
    images, masks = write_folder(source.images.parent / "test", 2)
    test = FolderSource(images=images, masks=masks, mpp=1.0, role="test")
    events = list(evaluate_events(EvaluateJob(model=model, sources=(source, test), roles=("test",), device="cpu")))
    assert len(events[-1].values["images"]) == 2
    assert not events[-1].files
    with pytest.raises(SourceError, match="role validate"):
        list(evaluate_events(EvaluateJob(model=model, sources=(source,), roles=("validate",), device="cpu")))


def test_bad_input(setup, tmp_path):
    model, source = setup
    (tmp_path / "file").write_text("no model")
    for path in (tmp_path / "file", tmp_path / "none"):
        with pytest.raises(ModelError):
            list(evaluate_events(EvaluateJob(model=path, sources=(source,))))
    grey = tmp_path / "grey.safetensors"
    save_model(build_model(CONFIG.model_copy(update={"channels": 1})), grey)
    with pytest.raises(SourceError, match="3 channels"):
        list(evaluate_events(EvaluateJob(model=grey, sources=(source,))))
    with pytest.raises(OutputError, match="cannot be made"):
        list(evaluate_events(EvaluateJob(model=model, sources=(source,), out=tmp_path / "file" / "x", device="cpu")))


def test_training_images_are_known_by_their_pixels(setup, tmp_path):
    model, source = setup
    for folder in (source.images, source.masks):
        (tmp_path / folder.name).mkdir()
        for file in folder.iterdir():
            (tmp_path / folder.name / f"other {file.name}").write_bytes(file.read_bytes())
    again = source.model_copy(update={"images": tmp_path / "images", "masks": tmp_path / "masks", "group": None})
    said = [
        e.text
        for e in evaluate_events(EvaluateJob(model=model, sources=(again,), device="cpu"))
        if isinstance(e, Message)
    ]
    trained = len(load_model(model).summary["split"]["train"])
    assert any(f"{trained} of the 5 images have the names or the pixels" in text for text in said)
