"""The worker process: jobs in, events out, cancelled within a batch, lost without harm, gone with its parent."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from worker_helpers import SLIDE, Heard, altered_worker, answering, model_file, prediction, training

from napari_msunet import own_process
from napari_msunet.config import LiveRequest
from napari_msunet.errors import MsunetError
from napari_msunet.events import Answered, Message, Metric, Progress, RegionDone, Result
from napari_msunet.geometry import Region
from napari_msunet.jobs import link
from napari_msunet.jobs.client import WorkerClient
from napari_msunet.jobs.settings import default_worker
from napari_msunet.labels import open_labels
from napari_msunet.models import load_model
from napari_msunet.own_process import PATIENCE


@pytest.fixture(scope="module")
def warm_client() -> Iterator[WorkerClient]:
    with WorkerClient() as client:
        yield client


@pytest.fixture
def client(warm_client) -> Iterator[WorkerClient]:
    """The one worker; a test that failed leaves it to the others as it found it."""
    yield warm_client
    if warm_client.jobs:
        warm_client.kill()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return model_file(tmp_path_factory.mktemp("model"))


def wait_until(test: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if test():
            return True
        time.sleep(0.02)
    return False


# ------------------------------------------------------------------------------------------------------------- running


def test_a_prediction_runs_and_leaves_its_labels_free(client, model, tmp_path):
    heard = Heard(client, prediction(tmp_path, model, tile=64))
    assert heard.ended() == ("done", None, None)
    assert heard.order[0] == "started"
    assert heard.order[-1] == "end"
    assert isinstance(heard.events[-1], Result)
    done = [e for e in heard.events if isinstance(e, RegionDone)]
    assert len(done) > 4
    assert sum(e.height * e.width for e in done) == heard.events[-1].values["pixels"]
    assert threading.current_thread().name not in heard.threads
    with open_labels(tmp_path / "labels.ome.zarr") as store:
        store.write(Region(0, 0, 5, 5), 1)  # the warm process does not hold the lock


def test_an_editor_keeps_its_lock_while_the_worker_fills_the_run(client, model, tmp_path):
    Heard(client, prediction(tmp_path, model)).ended()
    with open_labels(tmp_path / "labels.ome.zarr") as store:
        store.hold()
        heard = Heard(client, prediction(tmp_path, model, region=(0.0, 0.0, 300.0, 300.0)))
        assert heard.ended()[0] == "done"
        assert any("not merged" in e.text for e in heard.events if isinstance(e, Message))
        store.merge(store.run(heard.events[-1].values["run"]))


def test_the_process_is_polite_and_set_up(client):
    assert wait_until(lambda: client.warm)
    process = psutil.Process(client.pid)
    assert process.nice() > psutil.Process().nice()
    if sys.platform == "linux":
        assert process.environ().items() >= (own_process.SETTINGS | PATIENCE).items()


def test_inspections_do_not_wait_for_jobs(client, model, tmp_path):
    long = Heard(client, training(tmp_path))
    long.until(lambda heard: heard.order)
    found = Heard(client, {"path": str(model)})
    assert found.ended()[0] == "done"
    assert found.events[0].values["is"] == "model"
    assert found.events[0].values["classes"] == ["1 disc"]
    assert Heard(client, {"path": str(SLIDE)}).ended()[0] == "done"
    assert "nothing at" in Heard(client, {"path": str(tmp_path / "no.svs")}).ended()[1]
    assert "needs" in Heard(client, {"colour": "red"}).ended()[1]
    assert long.end is None
    long.handle.cancel("none")
    assert long.ended()[0] == "cancelled"


def test_an_answer_waits_for_no_job_and_the_newest_replaces_the_others(client, model, tmp_path):
    long = Heard(client, training(tmp_path))
    long.until(lambda heard: heard.order)
    first = Heard(client, answering(model))
    assert first.ended() == ("done", None, None)
    tiles = [event for event in first.events if isinstance(event, Answered)]
    assert {event.rows * event.columns for event in tiles} == {512 * 512}
    several = [Heard(client, answering(model, view=(0.0, 0.0, 2900.0, 2200.0))) for _ in range(3)]
    assert [heard.ended()[0] for heard in several] == ["cancelled", "cancelled", "done"]
    assert several[-1].events[-1].values["tiles"] > len(tiles)
    gone = tmp_path / "gone.svs"
    outcome, text, details = Heard(client, answering(model, slide=gone)).ended()
    assert (outcome, details) == ("error", None)
    assert "gone.svs" in text
    assert Heard(client, answering(model)).ended()[0] == "done"
    forgotten: list[object] = []
    client.answer(None, forgotten.append)
    assert wait_until(lambda: bool(forgotten))
    assert long.end is None
    long.handle.cancel("none")
    assert long.ended()[0] == "cancelled"


def test_a_training_is_shown_by_its_own_model_while_it_runs(client, tmp_path):
    long = Heard(client, training(tmp_path))
    file = tmp_path / "run" / "model.safetensors"

    def asked(**more):
        given = {"slide": SLIDE, "slide_mpp": 1.0, "view": (400.0, 400.0, 700.0, 700.0), "device": "cpu"}
        return Heard(client, LiveRequest(model=file, **given | more))

    early = asked()  # it waits for no job: most likely nothing is written yet, and no file is no error
    assert early.ended() == ("done", None, None)
    assert wait_until(file.exists)
    seen = asked()
    assert seen.ended() == ("done", None, None)
    *tiles, result = seen.events
    assert all(isinstance(tile, Answered) for tile in tiles)
    assert {tile.model for tile in tiles} == {result.values["model"]}
    assert (result.values["classes"], result.values["whole"]) == (["disc"], True)
    several = [asked() for _ in range(3)]
    assert several[-1].ended()[0] == "done"
    assert {heard.ended()[0] for heard in several[:-1]} <= {"cancelled", "done"}
    assert long.end is None
    long.handle.cancel("best")
    assert long.ended()[0] == "cancelled"
    last = asked()
    assert last.ended()[0] == "done"
    again = asked(known=last.events[-1].values["model"])  # it is in view already
    assert again.ended()[0] == "done"
    assert [event.event for event in again.events] == ["result"]
    assert "gone.svs" in asked(slide=tmp_path / "gone.svs").ended()[1]


def test_bad_input_is_one_sentence(client, model, tmp_path):
    job = prediction(tmp_path, tmp_path / "missing.safetensors")
    outcome, text, details = Heard(client, job).ended()
    assert (outcome, details) == ("error", None)
    assert text == f"There is no model file at {job.model}; give a .safetensors file that napari-msunet has written."
    assert Heard(client, prediction(tmp_path, model)).ended()[0] == "done"


def test_order_priority_and_cancelling_in_the_queue(client, model, tmp_path):
    order: list[str] = []

    def submit(name: str, job, **options):
        return client.submit(
            job, on_start=lambda: order.append(name), on_end=lambda *end: ends.__setitem__(name, end), **options
        )

    ends: dict[str, tuple] = {}
    long = submit("long", training(tmp_path))
    assert wait_until(lambda: order == ["long"])
    handles = {n: submit(n, prediction(tmp_path, model, n), priority=n in "xy") for n in "abxyc"}
    handles["b"].cancel()
    assert wait_until(lambda: "b" in ends)
    assert ends["b"] == ("cancelled", "The job was cancelled before it began.", None)
    assert not (tmp_path / "b.ome.zarr").exists()
    long.cancel("none")
    assert wait_until(lambda: len(ends) == 6, 60)
    assert order == ["long", "x", "y", "a", "c"]
    assert {handle.outcome for name, handle in handles.items() if name != "b"} == {"done"}


# ---------------------------------------------------------------------------------------------------------- cancelling


def test_cancel_keeps_the_best_model_and_can_go_on(client, tmp_path):
    job = training(tmp_path)
    heard = Heard(client, job)
    heard.wait(Metric)
    heard.handle.cancel()
    outcome, text, details = heard.ended()
    assert (outcome, details) == ("cancelled", None)
    assert text == f"The training was stopped; the best model so far is in {job.out / 'model.safetensors'}."
    assert "kept" not in load_model(job.out / "model.safetensors").summary
    again = Heard(client, job.model_copy(update={"resume": True}))
    again.wait(Metric)
    assert min(e.epoch for e in again.events if isinstance(e, Metric)) > 1
    again.handle.cancel("none")
    assert "never thrown away" in again.ended()[1]
    assert (job.out / "model.safetensors").exists()


def test_cancel_keeps_the_last_weights(client, tmp_path):
    job = training(tmp_path, steps=3000, epochs=2)  # far from the end of the first epoch
    heard = Heard(client, job)
    heard.until(lambda h: any(isinstance(e, Progress) and e.done > 1 for e in h.events))
    heard.handle.cancel("last")
    began = time.monotonic()
    assert "the weights it had reached are in" in heard.ended()[1]
    assert time.monotonic() - began < 10  # an epoch takes minutes
    summary = load_model(job.out / "model.safetensors").summary
    assert summary["kept"] == "last"
    assert 1 < summary["steps"] < 3000


def test_cancel_in_the_first_epoch_says_that_there_is_no_model(client, tmp_path):
    heard = Heard(client, training(tmp_path, steps=3000))
    heard.wait(Progress)
    heard.handle.cancel()
    assert heard.ended()[1] == "The training was stopped before its first epoch ended, so there is no model yet."


def test_thrown_away_means_only_what_was_written(client, tmp_path):
    job = training(tmp_path)
    job.out.mkdir()
    (job.out / "mine.txt").write_text("keep")
    heard = Heard(client, job)
    heard.wait(Metric)
    heard.handle.cancel("none")
    assert heard.ended()[1] == f"The training was stopped and what it wrote to {job.out} was removed."
    assert [p.name for p in job.out.iterdir()] == ["mine.txt"]
    heard = Heard(client, job.model_copy(update={"out": tmp_path / "other"}))
    heard.wait(Metric)
    heard.handle.cancel("none")
    heard.ended()
    assert not (tmp_path / "other").exists()


def test_a_cancelled_prediction_goes_on(client, model, tmp_path):
    job = prediction(tmp_path, model, region=None, tile=32)
    heard = Heard(client, job)
    heard.wait(RegionDone)
    heard.handle.cancel()
    assert heard.ended()[0] == "cancelled"
    first = sum(isinstance(e, RegionDone) for e in heard.events)
    again = Heard(client, job.model_copy(update={"tile": 32}))
    again.wait(RegionDone)
    assert any("Going on" in e.text for e in again.events if isinstance(e, Message))
    again.handle.cancel()
    again.ended()
    assert first >= 1


# -------------------------------------------------------------------------------------------------------- the protocol


def test_malformed_requests_are_answered_and_the_worker_goes_on():
    lines = [
        b"not json",
        b"[1, 2]",
        b"{}",
        b'{"id": "one", "run": {}}',
        b'{"id": 5}',
        b'{"id": 6, "run": {"job": "dance"}}',
        b'{"id": 7, "run": 3}',
        b'{"id": 8, "cancel": true, "keep": "everything"}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"",
        b'{"id": 99, "cancel": true}',
        b'{"ping": 3}',
    ]
    ran = subprocess.run(default_worker(), input=b"\n".join(lines), capture_output=True, timeout=60)
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    answers = [a for a in answers if "ready" not in a and "warm" not in a]
    assert ran.returncode == 0
    assert answers[-1] == {"pong": 3}
    assert [a["id"] for a in answers[:-1]] == [None, None, None, None, 5, 6, 7, 8, None, None]
    assert {a["end"] for a in answers[:-1]} == {"error"}
    for answer in answers[:-1]:
        assert answer["text"].endswith(".")
        assert "\n" not in answer["text"]
        assert answer["details"] is None


def test_what_libraries_print_does_not_reach_the_answers():
    noise = (
        "real = describe.describe\n"
        "def describe_loudly(path):\n"
        "    print('printed'); os.write(1, b'raw\\n'); os.system('echo child'); print(len(sys.stdin.read()))\n"
        "    return real(path)\n"
        "describe.describe = describe_loudly"
    )
    with WorkerClient(altered_worker(noise)) as client:
        assert Heard(client, {"path": str(SLIDE)}).ended()[0] == "done"
        client.kill()


def test_an_unexpected_error_has_a_sentence_and_a_traceback():
    broken = "def bad(path): return {}['colour']\ndescribe.describe = bad"
    with WorkerClient(altered_worker(broken)) as client:
        outcome, text, details = Heard(client, {"path": "here"}).ended()
        assert outcome == "error"
        assert text == "Something went wrong that should not (KeyError: 'colour'); please report it with the details."
        assert details.startswith("Traceback")
        assert "in bad" in details
        assert Heard(client, {"machine": True}).ended()[0] == "done"


# --------------------------------------------------------------------------------------------------- losing the worker


@pytest.mark.slow
def test_a_killed_worker_is_told_once_and_the_next_job_starts_another(model, tmp_path):
    with WorkerClient() as client:
        heard = [Heard(client, training(tmp_path)), Heard(client, prediction(tmp_path, model))]
        heard[0].wait(Metric)
        first = client.pid
        os.kill(first, signal.SIGKILL)
        for one in heard:
            outcome, text, _ = one.ended()
            assert outcome == "lost", text
            assert text.startswith("The worker was killed by the system, often because memory ran out; what was")
            assert text.count(".") == 1
            assert one.handle.state == "ended"
        again = Heard(client, prediction(tmp_path, model))
        assert again.ended()[0] == "done"
        assert client.pid != first
        assert [one.ends for one in heard] == [1, 1]


@pytest.mark.slow
def test_a_crash_says_which():
    crash = "def die(path): os.kill(os.getpid(), 11); time.sleep(60)\ndescribe.describe = die"
    with WorkerClient(altered_worker(crash)) as client:
        outcome, text, _ = Heard(client, {"path": "here"}).ended()
        assert outcome == "lost", text
        assert text.startswith("The worker crashed (SIGSEGV); ")
    leave = "def leave(path): print('last words', file=sys.stderr, flush=True); os._exit(3)\ndescribe.describe = leave"
    with WorkerClient(altered_worker(leave)) as client:
        outcome, text, details = Heard(client, {"path": "here"}).ended()
        assert text.startswith("The worker ended unexpectedly with code 3; ")
        assert details == "last words"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["no-such-command-at-all", "worker"], "'no-such-command-at-all worker' cannot be started (No such file"),
        ([], "cannot be started"),
        (
            [sys.executable, "-c", "import sys; sys.exit('no GPU box today')"],
            "code 1 before it was ready, saying 'no G",
        ),
        ([sys.executable, "-c", "pass"], "ended with code 0 before it was ready; correct it"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "did not answer as a worker within 1 s"),
    ],
)
def test_a_bad_command_is_one_sentence(command, words, monkeypatch):
    monkeypatch.setattr(link, "READY_SECONDS", 1.0)
    client = WorkerClient(command)
    outcome, text, _ = Heard(client, {"machine": True}).ended()
    assert outcome == "lost"
    assert words in text
    assert text.endswith("correct it (environment variable NAPARI_MSUNET_WORKER, or `worker` in the settings).")
    client.close()


def test_a_command_that_fails_at_once_is_tried_once_for_each_job():
    tried = []

    def command():
        tried.append(1)
        raise MsunetError("The settings are bad.")

    with WorkerClient(command) as client:
        assert wait_until(lambda: not client.alive)
        for _ in range(20):
            assert Heard(client, {"machine": True}).ended() == ("lost", "The settings are bad.", None)
    assert len(tried) == 21


def test_a_greeting_before_the_worker_is_ignored():
    greeting = 'print(\'Welcome to the GPU box!\'); print(\'{"id": 1, "end": "done"}\', flush=True)'
    with WorkerClient(altered_worker(greeting)) as client:
        heard = Heard(client, {"machine": True})
        assert heard.ended()[0] == "done"
        assert heard.events


# ------------------------------------------------------------------------------------------------------------- the end


def test_closing_is_quick_and_leaves_nothing(tmp_path):
    before = set(threading.enumerate())
    client = WorkerClient()
    client.start()
    heard = Heard(client, training(tmp_path))
    heard.wait(Metric)
    pid = client.pid
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < 3
    assert heard.ended()[0] in ("cancelled", "lost")  # the latter where it took longer than it was given
    assert heard.ends == 1
    assert not psutil.pid_exists(pid)
    assert wait_until(lambda: set(threading.enumerate()) <= before)
    client.close()
    assert not client.alive
    with pytest.raises(RuntimeError, match="closed"):
        client.submit(training(tmp_path))


@pytest.mark.slow
def test_killing_by_hand_starts_anew(tmp_path):
    with WorkerClient() as client:
        heard = Heard(client, {"machine": True})
        client.kill()
        assert heard.ended()[0] == "lost"
        assert not client.alive
        assert Heard(client, {"machine": True}).ended()[0] == "done"


PARENT = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from worker_helpers import Heard, training
from napari_msunet.events import Metric
from napari_msunet.jobs.client import WorkerClient
client = WorkerClient()
heard = Heard(client, training(Path(sys.argv[2])))
heard.wait(Metric)
if sys.argv[3] == "fork" and os.fork() == 0:  # holds the other ends of the worker's pipes
    time.sleep(40)
    os._exit(0)
print(client.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")
@pytest.mark.parametrize("how", ["alone", pytest.param("fork", marks=pytest.mark.slow)])
def test_no_orphan_when_the_parent_is_killed(how, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(Path(__file__).parents[1]), str(tmp_path), how], stdout=subprocess.PIPE
    )
    pid = int(parent.stdout.readline())
    others = [child for child in psutil.Process(parent.pid).children() if child.pid != pid]
    try:
        assert psutil.pid_exists(pid)
        parent.kill()
        parent.wait()
        assert wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", 15)
    finally:
        for other in others:
            other.kill()
        parent.stdout.close()
