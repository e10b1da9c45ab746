"""Fixtures of all tests with a window."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def garbage_collected_in_the_main_thread() -> Iterator[None]:
    """Qt's objects must not die in another thread, where a collection may begin at any time.

    napari's fixture collects after each test. What was there before is not searched again: that took a second a test.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.unfreeze()  # or what has died since would stay for ever: windows, stores, their threads
    gc.enable()


@pytest.fixture
def no_worker_before_a_job(monkeypatch):
    """A worker loads torch for seconds when a step is opened; a test that sends no job needs none."""
    monkeypatch.setattr("napari_msunet.widgets.dock.dock.WARMING", ())


@pytest.fixture
def viewer(make_napari_viewer, no_worker_before_a_job):
    """A viewer with a window."""
    found = make_napari_viewer(show=True)
    found.window._qt_window.resize(1280, 800)
    return found


@pytest.fixture
def dock(viewer):
    """The dock in it; ended like a window that closes."""
    from napari_msunet.widgets.dock.dock import MultiScaleUNet

    made = MultiScaleUNet(viewer)
    viewer.window.add_dock_widget(made, name="Multi-scale U-Net", area="right")
    yield made
    made.shut_down()


@pytest.fixture
def messages():
    """What napari tells the user."""
    from napari.utils.notifications import notification_manager

    found = []
    notification_manager.notification_ready.connect(found.append)
    yield found
    notification_manager.notification_ready.disconnect(found.append)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A slide and a model that knows it a little."""
    folder = tmp_path_factory.mktemp("trained")
    from widgets.dock.making import make_slide, train

    slide = make_slide(folder, 700)
    return slide, train(slide, folder)


@pytest.fixture
def ready(dock, trained, tmp_path):
    """A dock with a slide of its own and the model."""
    import shutil

    slide = tmp_path / "blobs.ome.zarr"
    shutil.copytree(trained[0], slide)
    dock.open_slide(slide)
    dock.load_model(trained[1])
    return dock
