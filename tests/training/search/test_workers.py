"""Several processes in one search, killed processes and servers, a full disk: no finished trial is lost."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from data.making import write_folder
from training.search.searches import search

from napari_msunet.config import FolderSource
from napari_msunet.errors import OutputError
from napari_msunet.events import Message, TrialDone
from napari_msunet.jobs.run import tune
from napari_msunet.training.search import study as study_module
from napari_msunet.training.search.search import tune_events

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.name == "nt", reason="signals of POSIX"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    images, masks = write_folder(tmp_path_factory.mktemp("discs"), 4, (48, 48))
    return FolderSource(images=images, masks=masks, mpp=1.0)


class Server:
    """A PostgreSQL server in a temporary folder."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        self.binaries = binaries
        self.user = None
        if os.geteuid() == 0:  # the server refuses to be run by an administrator
            self.user = "postgres"
            shutil.chown(folder, self.user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", folder / "data", "-U", "me", "-A", "trust", "--no-sync")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://me@127.0.0.1:{self.port}/postgres"

    def _run(self, name: str, *words: object) -> None:
        asked = [str(self.binaries / name), *map(str, words)]
        subprocess.run(asked, check=True, capture_output=True, user=self.user, cwd=self.folder, timeout=120)

    def start(self) -> None:
        words = [
            "-D",
            self.folder / "data",
            "-p",
            self.port,
            "-k",
            self.folder,
            "-c",
            "listen_addresses=127.0.0.1",
            "-F",
        ]
        import psycopg

        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            # it does not start as long as a process of the one that was killed is there
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [str(self.binaries / "postgres"), *map(str, words)],
                    user=self.user,
                    cwd=self.folder,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            with suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=2):
                return
            time.sleep(0.2)
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None:
        pytest.skip("there is no PostgreSQL server here (initdb of Debian's package postgresql)")
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL is not installed")
    with TemporaryDirectory(prefix="postgres") as folder:  # pytest's own is for nobody but its user
        made = Server(Path(folder), Path(initdb).resolve().parent)
        made.start()
        yield made
        made.kill()


def table(out):
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_share_a_search(source, tmp_path, server):
    job = search(source, tmp_path / "two", storage=server.url, workers=2, trials=24)
    events = []
    result = tune(job, events.append)
    rows = table(job.out)
    assert [row["trial"] for row in rows] == [str(n) for n in range(24)]
    assert {row["worker"] for row in rows} == {"0", "1"}
    assert len({row["optimiser.learning_rate"] for row in rows}) == 24
    assert sorted(e.number for e in events if isinstance(e, TrialDone)) == list(range(24))
    assert result.report["counts"]["scored"] == 24
    assert not [e for e in events if isinstance(e, Message) and "ended early" in e.text]


def test_another_machine_joins_with_the_same_images_only(source, tmp_path, server):
    job = search(source, tmp_path / "a" / "shared", storage=server.url, trials=1)
    tune(job)
    there = job.model_copy(update={"out": tmp_path / "b" / "shared", "trials": 2})
    assert len(tune(there).report["trials"]) == 2
    assert len(list((there.out / "trials").iterdir())) == 1
    images, masks = write_folder(tmp_path / "others", 5, (48, 48))
    training = job.training.model_copy(update={"sources": (FolderSource(images=images, masks=masks, mpp=1.0),)})
    with pytest.raises(OutputError, match="differs in images"):
        list(tune_events(job.model_copy(update={"out": tmp_path / "c", "study": "shared", "training": training})))


def test_a_server_that_goes_away_loses_no_finished_trial(source, tmp_path, server, monkeypatch):
    monkeypatch.setattr(study_module, "PATIENCE_SECONDS", 1.0)
    job = search(source, tmp_path / "gone", storage=server.url, trials=3)
    said = []

    def happened(event):
        if isinstance(event, Message) and event.text.startswith("Training on"):
            said.append(event.text)
            server.kill()  # in the middle of a training, whose row cannot be told any more

    try:
        with pytest.raises(OutputError) as caught:
            tune(job, happened)
        assert said
        text = str(caught.value)
        assert text.count(". ") <= 1
        assert "does not answer any more" in text
        assert "the finished trials are kept: resume=True goes on" in text
        finished = list(job.out.glob("trials/*/trial.json"))
    finally:
        server.start()
    rows = tune(job.model_copy(update={"resume": True})).report["trials"]
    assert len(rows) == 3
    for file in finished:
        assert int(file.parent.name) in {row["trial"] for row in rows}


def test_a_server_that_comes_back_is_waited_for(source, tmp_path, server):
    job = search(source, tmp_path / "back", storage=server.url, trials=2)
    restarted = False
    for event in tune_events(job):
        if isinstance(event, TrialDone) and not restarted:
            server.kill()
            server.start()
            restarted = True
    assert [row["outcome"] for row in table(job.out)] == ["scored", "scored"]


def test_a_killed_search_goes_on(source, tmp_path):
    job = search(source, tmp_path / "killed", trials=3, workers=2)
    file = tmp_path / "job.json"
    file.write_text(job.model_dump_json())
    words = [sys.executable, "-m", "napari_msunet", "run", str(file)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    ends = time.monotonic() + 120
    while not list(job.out.glob("trials/*/trial.json")):
        assert process.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.05)
    process.kill()
    process.wait()
    finished = {int(path.parent.name) for path in job.out.glob("trials/*/trial.json")}
    time.sleep(3)  # the other process ends with the first one
    rows = tune(job.model_copy(update={"resume": True, "workers": 1})).report["trials"]
    assert len(rows) == 3
    assert finished <= {row["trial"] for row in rows}


def test_a_full_disk_is_a_sentence_and_what_was_finished_stays(source, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here; it needs the rights of an administrator")
    try:
        job = search(source, folder / "search", trials=3)
        filler = folder / "filler"

        def fill(event):
            if isinstance(event, TrialDone):
                with suppress(OSError), filler.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))

        with pytest.raises(OutputError, match="disk is full"):
            tune(job, fill)
        filler.unlink()
        rows = tune(job.model_copy(update={"resume": True})).report["trials"]
        assert [row["outcome"] for row in rows] == ["scored"] * 3
        assert rows[0]["trial"] == 0
    finally:
        subprocess.run(["umount", str(folder)], check=True)
