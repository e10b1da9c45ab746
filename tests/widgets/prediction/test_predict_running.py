"""While a prediction runs: what is in view first, edits stay, images fill in; and how it goes on, ends and fails."""

import numpy as np
import pytest
from widgets.dock.making import LONG, click, idle, settle

import napari_msunet as ms
from napari_msunet.errors import MsunetError
from napari_msunet.events import RegionDone
from napari_msunet.geometry import Window
from napari_msunet.widgets import resolve
from napari_msunet.widgets.placement import to_world, visible_region
from napari_msunet.widgets.prediction.run_maps import map_of
from napari_msunet.widgets.prediction.unfinished import note_path
from napari_msunet.widgets.state import changed

TILES = 121


@pytest.fixture
def step(ready):
    ready.show_step("predict")
    settle()
    return ready.steps["predict"]


def options(dock, **values):
    dock.state.set_predict_options(changed(dock.state.predict_options, **values))
    settle()


def slow_tiles(dock, **more):
    """Many small tiles, each eight times, so that there is time to look and to paint."""
    options(dock, tile=32, tta="dihedral", **more)


def labels_of(dock):
    return dock.layers.of_store(dock.state.active.labels)


def look_at(dock, y, x):
    """Show a place (level-0 pixels) at a zoom where little is in view; gives what is in view."""
    viewer, layer = dock.viewer, dock.layers.slide(dock.state.active)
    viewer.scene.camera.zoom = 12.0
    viewer.scene.camera.center = (0, *to_world(viewer, layer, [(y, x)])[0])
    settle(0.05)
    return visible_region(viewer, layer)


def touches(event, region):
    """Whether a finished tile (pixels twice those of the slide) lies in a region."""
    y, x = event.y * 2, event.x * 2
    rows = y < region.stop[0] and y + 2 * event.height > region.y
    return rows and x < region.stop[1] and x + 2 * event.width > region.x


@pytest.mark.slow
def test_what_is_in_view_comes_first_also_after_looking_elsewhere(ready, step, qtbot):
    slow_tiles(ready)
    done = []
    step.box.happened.connect(lambda event: done.append(event) if isinstance(event, RegionDone) else None)
    corner = look_at(ready, 690, 690)  # the last of all tiles, were nobody looking
    click(qtbot, step.slide)
    qtbot.waitUntil(lambda: bool(done), timeout=LONG)
    assert touches(done[0], corner)
    elsewhere = look_at(ready, 690, 10)
    before = len(done)
    wanted = sum(
        touches(RegionDone(run="", y=y, x=x, height=32, width=32), elsewhere)
        for y in range(0, 350, 32)
        for x in range(0, 350, 32)
    )
    assert 1 <= wanted <= 12
    qtbot.waitUntil(lambda: sum(touches(event, elsewhere) for event in done) == wanted, timeout=LONG)
    last = max(n for n, event in enumerate(done) if touches(event, elsewhere))
    assert last < before + wanted + 30  # a few were under way, and the message takes a moment
    assert len(done) < TILES
    click(qtbot, step.box.stop)
    idle(qtbot, ready)


@pytest.mark.slow
def test_edits_made_while_it_runs_stay(ready, step, qtbot):
    slow_tiles(ready)
    click(qtbot, step.slide)
    qtbot.waitUntil(lambda: bool(step.merging._runs), timeout=LONG)
    layer = labels_of(ready)
    store = layer.store
    layer.selected_label, layer.brush_size, layer.mode = 1, 20, "paint"
    layer.paint((330, 330), 1)  # not predicted yet
    layer.paint((12, 12), 0)  # predicted, or about to be
    assert ready.state.running == {"predict"}
    idle(qtbot, ready)
    after = store.read(Window(0, 0, *store.shape))
    (run,) = store.runs
    assert run.complete
    machine = run.read(Window(0, 0, *store.shape))
    y, x = np.mgrid[: store.shape[0], : store.shape[1]]
    high, low = (y - 330) ** 2 + (x - 330) ** 2 < 81, (y - 12) ** 2 + (x - 12) ** 2 < 81
    assert (after[high] == 1).all()
    assert (after[low] == 0).all()
    assert (machine[high] != 1).any() or (machine[low] != 0).any()  # else nothing was shown
    far = ((y - 330) ** 2 + (x - 330) ** 2 > 150) & ((y - 12) ** 2 + (x - 12) ** 2 > 150)
    np.testing.assert_array_equal(after[far], machine[far])


@pytest.mark.slow
def test_images_fill_in_and_can_be_looked_at(ready, step, qtbot, viewer):
    options(ready, tile=32)
    for name in ("probabilities", "disagreement", "entropy", "instances"):
        step.outputs.ticks[name].setChecked(True)
    settle()
    click(qtbot, step.slide)
    qtbot.waitUntil(lambda: len(step.live.maps) == 3, timeout=LONG)
    layers = {map_of(layer).name: layer for layer in step.live.maps}
    assert list(layers) == ["Disagreement blobs", "Uncertainty blobs", "Probability of blob"]
    labels = labels_of(ready)
    assert all(viewer.layers.index(layer) < viewer.layers.index(labels) for layer in layers.values())
    idle(qtbot, ready)
    qtbot.waitUntil(lambda: not step.live.busy, timeout=LONG)
    (run,) = labels.store.runs
    for name, layer in zip(("disagreement", "entropy"), layers.values(), strict=False):
        levels = layer.data if layer.multiscale else [layer.data]
        np.testing.assert_array_equal(np.asarray(levels[0]), np.asarray(run.lazy(name)))
        assert np.asarray(levels[-1]).max() > 0
    assert any(layer.name.startswith("Instances") for layer in viewer.layers)
    assert step.warning.isHidden()


@pytest.mark.slow
def test_it_goes_on_on_another_day(ready, step, qtbot, make_napari_viewer):
    from napari_msunet.widgets.dock.dock import MultiScaleUNet

    slow_tiles(ready, outputs=("labels", "entropy"))
    click(qtbot, step.slide)
    qtbot.waitUntil(lambda: len(step.merging._runs and next(iter(step.merging._runs.values()))) > 3, timeout=LONG)
    folder, path = ready.state.project.folder, ready.state.active.labels
    ready.shut_down()
    viewer = make_napari_viewer(show=True)
    dock = MultiScaleUNet(viewer)
    viewer.window.add_dock_widget(dock, name="Multi-scale U-Net", area="right")
    try:
        dock.open_project(folder)
        options(dock, tile=64, tta="none", outputs=("labels",))  # what is chosen now does not matter
        dock.show_step("predict")
        again = dock.steps["predict"]
        qtbot.waitUntil(lambda: again.go_on.button.isVisible(), timeout=LONG)
        assert "of 121 tiles are done" in again.go_on.words.text()
        click(qtbot, again.go_on.button)
        idle(qtbot, dock)
        (run,) = ms.open_labels(path).runs
        assert run.complete
        assert "entropy" in run.outputs
        qtbot.waitUntil(lambda: not again.go_on._background.busy, timeout=LONG)
        assert not again.go_on.isVisible()
        assert not note_path(path).exists()
    finally:
        dock.shut_down()


@pytest.mark.slow
def test_a_run_that_another_job_fills_is_refused_in_a_sentence(ready, step, qtbot, messages):
    slow_tiles(ready)
    click(qtbot, step.slide)
    qtbot.waitUntil(lambda: bool(step.merging._runs), timeout=LONG)
    click(qtbot, step.box.stop)
    idle(qtbot, ready)
    qtbot.waitUntil(lambda: step.go_on.button.isVisible(), timeout=LONG)
    (run,) = labels_of(ready).store.runs
    with run.writing():  # as another napari, or the command line, does
        click(qtbot, step.go_on.button)
        qtbot.waitUntil(lambda: bool(messages), timeout=LONG)
    idle(qtbot, ready)
    assert "is being written by" in messages[-1].message
    assert messages[-1].message.count(". ") == 0
    qtbot.waitUntil(lambda: step.go_on.button.isVisible(), timeout=LONG)


@pytest.mark.slow
def test_a_smaller_margin_tells_how_much_the_tiles_show(ready, step, qtbot):
    options(ready, margin=8, tile=64)
    click(qtbot, step.slide)
    idle(qtbot, ready)
    assert "Seam meter: with other tiles" in step.box.status.text()
    assert "margin=8" in ready.as_python("predict")


def test_a_region_outside_the_slide(ready, step, qtbot, messages):
    ready.predict(ms.Region(5000, 5000, 100, 100))
    idle(qtbot, ready)
    assert "holds no pixel of the slide" in messages[-1].message


@pytest.mark.slow
def test_models_that_predict_together(ready, step, qtbot, trained, tmp_path):
    import torch

    torch.manual_seed(3)
    config = ms.load_model(trained[1]).config
    other, wrong = tmp_path / "other.safetensors", tmp_path / "wrong.safetensors"
    ms.save_model(ms.build_model(config), other)
    ms.save_model(ms.build_model(config.model_copy(update={"classes": ("x",)})), wrong)
    with pytest.raises(MsunetError, match=r"wrong.safetensors has other classes \(x\) than the model \(blob\)"):
        step.ensemble.add(wrong)
    step.ensemble.add(other)
    settle()
    assert "and 1 other" in step.model_line.text()
    click(qtbot, step.slide)
    idle(qtbot, ready)
    store = labels_of(ready).store
    with ms.predict(trained[0], [trained[1], other], tmp_path / "python.ome.zarr") as expected:
        whole = Window(0, 0, *expected.shape)
        np.testing.assert_array_equal(store.read(whole), expected.read(whole))
    (run,) = store.runs
    assert len(run.description["settings"]["models"]) == 2
    step.ensemble.remove(other)
    settle()
    assert resolve.predict_job(ready.state).model == trained[1]


def test_channels_are_asked_for_by_name(dock, qtbot, tmp_path, messages):
    import tifffile
    import torch

    pixels = np.random.default_rng(0).integers(0, 255, (4, 300, 280), dtype=np.uint8)
    meta = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3", "CD8", "PanCK"]}, "PhysicalSizeX": 1, "PhysicalSizeY": 1}
    tifffile.imwrite(tmp_path / "panel.ome.tif", pixels, metadata=meta, photometric="minisblack")
    torch.manual_seed(0)
    config = ms.ModelConfig(
        classes=("cell",),
        mpp=1.0,
        scales=(1.0,),
        channels=2,
        channel_names=("PanCK", "nuclei"),
        branch=ms.UNetConfig(depth=1, width=4),
    )
    ms.save_model(ms.build_model(config), tmp_path / "m.safetensors")
    dock.open_slide(tmp_path / "panel.ome.tif")
    dock.load_model(tmp_path / "m.safetensors")
    dock.show_step("predict")
    settle(0.2)
    step = dock.steps["predict"]
    assert step.channels.isVisible()
    assert "takes 2 channels, the slide has 4" in step.channels.words.text()
    assert step.channels.fields[0].value() == "PanCK"
    with pytest.raises(MsunetError, match="which of the slide's channels is the model's nuclei"):
        dock.predict("slide")
    step.channels.fields[1].setValue("DAPI")
    settle()
    assert step.job(draft=True).channels == ("PanCK", "DAPI")
    assert not step.outputs.ticks["disagreement"].isEnabled()  # one scale
    click(qtbot, step.slide)
    idle(qtbot, dock)
    (run,) = labels_of(dock).store.runs
    assert run.description["settings"]["channels"] == [3, 0]
    assert not messages


def test_everything_as_python(ready, step, tmp_path):
    values = {
        "outputs": ("labels", "entropy", "instances"),
        "margin": 24,
        "tta": "flips",
        "memory": 3.0,
        "device": "cpu",
        "precision": "bfloat16",
        "probability_dtype": "uint8",
        "postprocess": ms.config.Postprocess(smallest=20, holes=5),
    }
    options(ready, **values)
    step.where.choose("tissue")
    settle()
    made = {}
    exec(ready.as_python("predict").split("for event")[0], made)
    job = made["job"]
    assert {name: getattr(job, name) for name in values} == values
    assert job.where == "tissue"
    assert job == step.job()
