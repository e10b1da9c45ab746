"""Fixtures of all tests with a window."""

import gc
import itertools
from collections.abc import Iterator

import pytest

from napari_msunet.errors import MsunetError
from napari_msunet.jobs.client import CLOSE_SECONDS, WorkerClient
from napari_msunet.jobs.link import Link
from napari_msunet.jobs.settings import default_worker

IDLE: list[Link] = []
"""Worker processes that earlier tests left with nothing to do."""


class LentWorker(WorkerClient):
    """A client that goes on with the process of an earlier test, since one that starts loads torch for seconds.

    A process is handed on when it is closed with no job under way; any other one ends as always.
    """

    _all_numbers = itertools.count(1)

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self._numbers = self._all_numbers

    def _usable(self) -> Link:
        if not self._closed and (self._link is None or not self._link.alive):
            try:
                usual = tuple(self._command()) == default_worker()
            except MsunetError:
                usual = False  # the link says so, in its own time
            while usual and IDLE:
                link = IDLE.pop()
                if link.alive:
                    self._link = link
                    break
        return super()._usable()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        link = self._link
        if link is not None and link.warm and not link.jobs and tuple(link._words) == default_worker():
            self._closed, self._link = True, None
            IDLE.append(link)
        super().close(seconds)


@pytest.fixture(scope="session", autouse=True)
def no_worker_is_left() -> Iterator[None]:
    """Ends the processes that are left at the end."""
    yield
    for link in IDLE:
        link.stop("The tests are over.", 1.0)


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


@pytest.fixture(autouse=True)
def settings_of_their_own(monkeypatch, tmp_path_factory):
    """The projects that tests open are none of the person's."""
    folder = tmp_path_factory.mktemp("settings")
    monkeypatch.setattr("napari_msunet.jobs.settings.platformdirs.user_config_path", lambda *names, **more: folder)


@pytest.fixture
def few_workers(monkeypatch):
    """A worker loads torch for seconds: none starts before a job is sent, and tests hand theirs on."""
    monkeypatch.setattr("napari_msunet.widgets.dock.dock.WARMING", ())
    monkeypatch.setattr("napari_msunet.widgets.jobs.WorkerClient", LentWorker)


@pytest.fixture
def viewer(make_napari_viewer, few_workers):
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
