"""The bridge to Qt: signals on the window's thread, a flood never blocks it, closing leaves nothing."""

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from qtpy.QtCore import QObject, QThread, QTimer
from qtpy.QtWidgets import QApplication
from worker_helpers import SLIDE, altered_worker, model_file, prediction, training

from napari_msunet.errors import MsunetError
from napari_msunet.events import Message, Metric, Progress, RegionDone, Result
from napari_msunet.jobs.settings import WORKER_VARIABLE
from napari_msunet.widgets.jobs import Jobs

LONG = 60_000

FLOOD = """
from napari_msunet.events import Metric, Progress, RegionDone, Result
def flood(self, task):
    for i in range(8_000):
        yield Progress(done=i, total=8_000, unit="tiles")
        yield RegionDone(run="r", y=i, x=0, height=1, width=1)
        if i % 100 == 0:
            yield Metric(epoch=i, name="loss", split="train", value=0.5)
    yield Progress(done=8_000, total=8_000, unit="tiles")
    yield Result(values={"n": 8_000})
worker.Worker._inspection_events = flood
"""


class Listener:
    """Keeps what the jobs that are given from now on say, and on which thread."""

    def __init__(self, runner: Jobs) -> None:
        self.events: list = []
        self.started: list = []
        self.ended: list = []
        self.threads: set = set()
        make = runner._handle
        runner._handle = lambda job: self._follow(make(job))

    def _follow(self, handle):
        handle.started.connect(lambda: (self.started.append(handle), self._thread()))
        handle.happened.connect(lambda event: (self.events.append((handle, event)), self._thread()))
        handle.finished.connect(lambda *end: (self.ended.append((handle, *end)), self._thread()))
        return handle

    def _thread(self) -> None:
        self.threads.add(QThread.currentThread())


class Heartbeat(QObject):
    """The longest that the window's thread worked before it came around (not what others on this machine took)."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0.0
        self._last = time.thread_time()
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._beat)
        self._timer.start(0)

    def _beat(self) -> None:
        now = time.thread_time()
        self.longest = max(self.longest, now - self._last)
        self._last = now


@pytest.fixture
def runner(qapp) -> Iterator[Jobs]:
    runner = Jobs()
    runner.warm()
    yield runner
    runner.close()
    runner.deleteLater()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return model_file(tmp_path_factory.mktemp("model"))


def test_a_job_from_start_to_end_on_the_windows_thread(runner, model, tmp_path, qtbot):
    heard = Listener(runner)
    handle = runner.submit(prediction(tmp_path, model, tile=64), priority=True)
    assert runner.jobs == [handle]
    qtbot.waitUntil(lambda: bool(heard.ended), timeout=LONG)
    assert heard.ended == [(handle, "done", None)]
    assert heard.started == [handle]
    events = [event for own, event in heard.events if own is handle]
    assert isinstance(events[-1], Result)
    regions = [e for e in events if isinstance(e, RegionDone)]
    assert sum(e.height * e.width for e in regions) == events[-1].values["pixels"]
    assert heard.threads == {QApplication.instance().thread()}
    assert not runner.busy


def test_cancel_and_a_killed_worker(runner, tmp_path, qtbot):
    heard = Listener(runner)
    job = training(tmp_path)
    handle = runner.submit(job)
    qtbot.waitUntil(lambda: any(isinstance(e, Metric) for _, e in heard.events), timeout=LONG)
    handle.cancel(keep="none")
    qtbot.waitUntil(lambda: bool(heard.ended), timeout=LONG)
    assert heard.ended[0][:2] == (handle, "cancelled")
    assert not job.out.exists()

    handle = runner.submit(job)
    qtbot.waitUntil(lambda: handle.state == "running", timeout=LONG)
    os.kill(runner.client.pid, signal.SIGKILL)
    qtbot.waitUntil(lambda: len(heard.ended) == 2, timeout=LONG)
    assert heard.ended[1][:2] == (handle, "lost")
    assert "killed" in heard.ended[1][2]
    asked = runner.inspect({"path": str(SLIDE)})
    qtbot.waitUntil(lambda: len(heard.ended) == 3, timeout=LONG)
    assert heard.ended[2] == (asked, "done", None)


def test_a_flood_does_not_block_the_window(qapp, qtbot):
    runner = Jobs(command=altered_worker(FLOOD))
    heard = Listener(runner)
    batches: list[float] = []
    runner._timer.timeout.connect(lambda: batches.append(time.monotonic()))
    # a process in which nothing has happened yet is slow once: reading it is not what is measured
    runner.warm()
    qtbot.waitUntil(lambda: runner.client.warm, timeout=LONG)
    gc.collect()
    beat = Heartbeat()
    handle = runner.inspect({})
    qtbot.waitUntil(lambda: bool(heard.ended), timeout=LONG)
    longest = beat.longest
    runner.close()
    events = [event for _, event in heard.events]
    assert heard.ended[0][:2] == (handle, "done")
    assert [e.y for e in events if isinstance(e, RegionDone)] == list(range(8_000))
    assert sum(isinstance(e, Metric) for e in events) == 80
    progress = [e.done for e in events if isinstance(e, Progress)]
    assert progress == sorted(progress)
    assert progress[-1] == 8_000
    assert len(progress) < 4_000  # the newest only, each time
    assert isinstance(events[-1], Result)
    assert longest < 0.05, longest
    span = batches[-1] - batches[0]
    assert len(batches) <= span / 0.045 + 2


def test_a_bad_setting_is_one_sentence(qapp, qtbot, monkeypatch):
    monkeypatch.setenv(WORKER_VARIABLE, "ssh 'gpu-box")
    runner = Jobs()
    heard = Listener(runner)
    handle = runner.inspect({"machine": True})
    qtbot.waitUntil(lambda: bool(heard.ended), timeout=LONG)
    assert heard.ended[0][:2] == (handle, "lost")
    assert heard.ended[0][2].startswith(f"The environment variable {WORKER_VARIABLE} cannot be used: ")
    monkeypatch.delenv(WORKER_VARIABLE)  # put right: the next job starts it
    runner.inspect({"path": str(SLIDE)})
    qtbot.waitUntil(lambda: len(heard.ended) == 2, timeout=LONG)
    assert heard.ended[1][1] == "done"
    runner.close()


def test_closing_in_the_middle_of_a_training(qapp, tmp_path, qtbot):
    before = set(threading.enumerate())
    runner = Jobs()
    heard = Listener(runner)
    runner.submit(training(tmp_path))
    qtbot.waitUntil(lambda: bool(heard.events), timeout=LONG)
    pid = runner.client.pid
    began = time.monotonic()
    runner.close()
    assert time.monotonic() - began < 2
    assert not psutil.pid_exists(pid)
    assert set(threading.enumerate()) <= before
    told = len(heard.events), len(heard.ended)
    qtbot.wait(200)
    assert (len(heard.events), len(heard.ended)) == told
    runner.close()


@pytest.mark.parametrize("how", ["deleted by Qt", "forgotten"])
def test_a_runner_that_nobody_closes_takes_its_process_along(how, qapp, qtbot):
    parent = QObject()
    runner = Jobs(parent if how == "deleted by Qt" else None)
    heard = Listener(runner)
    runner.inspect({"path": str(SLIDE)})
    qtbot.waitUntil(lambda: bool(heard.ended), timeout=LONG)
    pid, reference = runner.client.pid, weakref.ref(runner)
    if how == "deleted by Qt":
        parent.deleteLater()
        qtbot.waitUntil(lambda: not psutil.pid_exists(pid), timeout=10_000)
    else:
        del runner, heard
        gc.collect()
        assert reference() is None
        assert not psutil.pid_exists(pid)


@pytest.mark.slow
def test_messages_come_before_the_end(runner, tmp_path, qtbot):
    heard = Listener(runner)
    runner.submit(training(tmp_path, epochs=1))
    qtbot.waitUntil(lambda: bool(heard.ended), timeout=LONG)
    assert heard.ended[0][1] == "done"
    assert any(isinstance(e, Message) for _, e in heard.events)
    assert sum(isinstance(e, Metric) for _, e in heard.events) >= 5


LOOKED = """
from pathlib import Path
from napari_msunet.events import Message, Result
from napari_msunet import events as stopping
def until_seen(job):
    seen = None
    for _ in range(2000):
        stopping.check()
        view = stopping.current().view
        if view != seen:
            seen = view
            yield Message(text=str(view))
        time.sleep(0.005)
    yield Result()
worker.run = until_seen
"""


def test_where_one_looks_reaches_the_running_prediction_and_not_too_often(qapp, qtbot, tmp_path):
    runner = Jobs(command=altered_worker(LOOKED))
    heard = Listener(runner)
    job = prediction(tmp_path, tmp_path / "model")
    handle = runner.submit(job)
    qtbot.waitUntil(lambda: handle.state == "running", timeout=LONG)
    for y in range(200):
        runner.look((float(y), 0.0, 100.0, 100.0))
        qtbot.wait(2)
    qtbot.waitUntil(lambda: any("199.0, 0.0" in e.text for _, e in heard.events), timeout=LONG)
    assert 2 <= len(heard.events) <= 12  # not 200
    runner.look((5.0, 5.0, 5.0, 5.0), slide=tmp_path / "another.svs")
    qtbot.wait(300)
    assert "(5.0" not in heard.events[-1][1].text
    runner.look((7.0, 5.0, 5.0, 5.0), slide=job.slide)
    qtbot.waitUntil(lambda: "(7.0" in heard.events[-1][1].text, timeout=LONG)
    runner.look(None)
    qtbot.waitUntil(lambda: heard.events[-1][1].text == "None", timeout=LONG)
    handle.cancel()
    qtbot.waitUntil(lambda: bool(heard.ended), timeout=LONG)
    runner.close()


@pytest.mark.slow
def test_a_prediction_beside_a_training(runner, model, tmp_path, qtbot):
    heard = Listener(runner)
    long = runner.submit(training(tmp_path))
    qtbot.waitUntil(lambda: any(isinstance(e, Metric) for _, e in heard.events), timeout=LONG)
    short = runner.submit(prediction(tmp_path, model))
    waiting = runner.submit(prediction(tmp_path, tmp_path / "run" / "not_yet.safetensors", "later"))
    qtbot.waitUntil(lambda: bool(heard.ended), timeout=2 * LONG)
    assert heard.ended == [(short, "done", None)]
    assert long.state == "running"
    assert waiting.state == "queued"  # its model may be what is being trained
    other = runner._beside.pid
    assert other != runner.client.pid
    long.cancel(keep="none")
    qtbot.waitUntil(lambda: len(heard.ended) == 3, timeout=LONG)
    assert heard.ended[1][:2] == (long, "cancelled")
    assert heard.ended[2][:2] == (waiting, "error")
    qtbot.waitUntil(lambda: not psutil.pid_exists(other), timeout=LONG)  # it takes no memory for nothing


@pytest.mark.slow
def test_new_settings_start_a_new_worker_once_the_old_one_is_free(runner, tmp_path, qtbot):
    heard = Listener(runner)
    runner.inspect({"machine": True})
    qtbot.waitUntil(lambda: len(heard.ended) == 1, timeout=LONG)
    first = runner.client.pid
    long = runner.submit(training(tmp_path))
    qtbot.waitUntil(lambda: any(isinstance(e, Metric) for _, e in heard.events), timeout=LONG)
    runner.renew()
    qtbot.wait(200)
    assert runner.client.pid == first
    long.cancel(keep="none")
    qtbot.waitUntil(lambda: len(heard.ended) == 2, timeout=LONG)
    assert heard.ended[1][1] == "cancelled"
    runner.inspect({"machine": True})
    qtbot.waitUntil(lambda: len(heard.ended) == 3, timeout=LONG)
    assert runner.client.pid != first
    qtbot.waitUntil(lambda: not psutil.pid_exists(first), timeout=LONG)


def test_waiting_for_a_job_gives_its_result(runner, model, tmp_path):
    handle = runner.submit(prediction(tmp_path, model, tile=64))
    assert handle.wait(LONG / 1000).values["pixels"] > 0
    assert handle.state == "ended"


def test_waiting_for_what_fails_raises_its_sentence(runner, tmp_path):
    handle = runner.submit(prediction(tmp_path, tmp_path / "none.safetensors"))
    with pytest.raises(MsunetError, match=r"none\.safetensors"):
        handle.wait(LONG / 1000)


def test_what_comes_before_runs_in_a_thread_and_can_change_the_job(runner, model, tmp_path):
    threads = []

    def before() -> str:
        threads.append(threading.current_thread())
        return "elsewhere"

    job = prediction(tmp_path, model, tile=64)

    def ready(name: str):
        threads.append(threading.current_thread())
        return job.model_copy(update={"out": tmp_path / name})

    handle = runner.submit(job, before=before, ready=ready)
    assert handle.state == "preparing"
    handle.wait(LONG / 1000)
    assert (tmp_path / "elsewhere").exists()
    assert threads[0] is not threading.main_thread()
    assert threads[1] is threading.main_thread()


def test_a_job_that_is_cancelled_while_it_is_prepared_is_never_sent(runner, model, tmp_path, qtbot):
    heard = Listener(runner)
    handle = runner.submit(prediction(tmp_path, model), before=lambda: time.sleep(0.1))
    handle.cancel()
    qtbot.waitUntil(lambda: bool(heard.ended), timeout=LONG)
    assert heard.ended == [(handle, "cancelled", None)]
    assert heard.started == []


def test_what_fails_before_is_the_jobs_error(runner, model, tmp_path, qtbot):
    heard = Listener(runner)

    def fails() -> None:
        raise MsunetError("The disk is full.")

    handle = runner.submit(prediction(tmp_path, model), before=fails)
    qtbot.waitUntil(lambda: bool(heard.ended), timeout=LONG)
    assert heard.ended == [(handle, "error", "The disk is full.")]
