"""The worker over ssh: a real sshd on the loopback address, with keys and a configuration of its own."""

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from worker_helpers import Heard, model_file, prediction, training

from napari_msunet.events import Message, Metric, RegionDone, Result
from napari_msunet.jobs.client import WorkerClient
from napari_msunet.jobs.paths import PathMap

SSHD = shutil.which("sshd", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="there is no sshd; install openssh-server"),
]

# The keys come by a command, since StrictModes refuses a file of keys below a folder of everybody's, such as /tmp.
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile {folder}/sshd.pid
AuthorizedKeysFile none
AuthorizedKeysCommand {cat} {folder}/authorized
AuthorizedKeysCommandUser {user}
StrictModes yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
UsePAM no
AllowUsers {user}
PermitRootLogin prohibit-password
"""


@dataclass
class Machine:
    """A machine to which ssh leads: this one."""

    folder: Path
    port: int

    def ssh(self, known: str = "known") -> list[str]:
        """The words that begin a command over there; everything about the user's own ssh is left out."""
        options = {
            **{"StrictHostKeyChecking": "yes", "UserKnownHostsFile": str(self.folder / known)},
            **{"GlobalKnownHostsFile": "/dev/null", "IdentitiesOnly": "yes", "BatchMode": "yes"},
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        target = f"{getpass.getuser()}@127.0.0.1"
        return ["ssh", "-F", "/dev/null", "-p", str(self.port), "-i", str(self.folder / "user"), *flags, target]

    def worker(self, known: str = "known") -> list[str]:
        """The command of a worker over there."""
        python = f"OMP_NUM_THREADS=1 PYTHONPATH={shlex.quote(os.environ.get('PYTHONPATH', ''))} {sys.executable}"
        return [*self.ssh(known), f"exec env {python} -P -m napari_msunet worker"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("sshd")
    folder.chmod(0o700)
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True, capture_output=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "authorized").chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known").write_text(f"[127.0.0.1]:{port} {key}\n")
    other = " ".join((folder / "user.pub").read_text().split()[:2])
    (folder / "wrong").write_text(f"[127.0.0.1]:{port} {other}\n")
    (folder / "config").write_text(
        CONFIG.format(port=port, folder=folder, user=getpass.getuser(), cat=shutil.which("cat"))
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where a root's sshd keeps nothing, and insists on it
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.PIPE, text=True)
    found = Machine(folder, port)
    until = time.monotonic() + 20
    while subprocess.run([*found.ssh(), "true"], capture_output=True).returncode:
        if server.poll() is not None or time.monotonic() > until:
            server.kill()
            pytest.fail(f"sshd does not serve: {server.communicate()[1]}")
        time.sleep(0.2)
    yield found
    server.terminate()
    server.communicate(timeout=10)


def test_a_prediction_and_its_paths_both_ways(machine: Machine, tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    here.symlink_to(there)  # the same folder under two names, as two machines would have it
    model = model_file(here)
    pairs = ((str(here), str(there)),)
    with WorkerClient(machine.worker(), PathMap(pairs)) as client:
        heard = Heard(client, prediction(here, model, tile=128))
        assert heard.ended() == ("done", None, None)
        assert heard.events[-1].files["labels"] == str(here / "labels.ome.zarr")
        assert any(isinstance(e, RegionDone) for e in heard.events)
        assert not any(isinstance(e, Message) and e.level == "warning" for e in heard.events)
        asked = Heard(client, {"machine": True})
        assert asked.ended()[0] == "done"
        assert isinstance(asked.events[-1], Result)
        text = Heard(client, prediction(here, here / "none.safetensors")).ended()[1]
        assert str(here / "none.safetensors") in text
        assert str(there) not in text
        command = " ".join(psutil.Process(client.pid).cmdline())
        assert command.startswith("ssh ")


def test_a_file_that_only_one_side_has(machine: Machine, tmp_path: Path):
    model = model_file(tmp_path)
    pairs = ((str(tmp_path), "/nothing/is/there"),)
    with WorkerClient(machine.worker(), PathMap(pairs)) as client:
        outcome, text, details = Heard(client, prediction(tmp_path, model)).ended()
        assert (outcome, details) == ("error", None)
        assert f"{model} is on your computer, but the worker on {socket.gethostname()} does not see it" in text
        assert "correct the path map" in text
        assert Heard(client, {"machine": True}).ended()[0] == "done"  # it goes on


def test_a_worker_that_dies_is_one_sentence_and_the_next_job_connects_again(machine: Machine, tmp_path: Path):
    with WorkerClient(machine.worker()) as client:
        heard = Heard(client, training(tmp_path))
        heard.wait(Metric)
        os.kill(_far_worker(client.pid), signal.SIGKILL)
        outcome, text, _ = heard.ended()
        assert outcome == "lost"
        assert text.startswith("The worker on the other machine, or the connection to it, was lost")
        assert text.endswith("; what was finished is kept, and the next job starts a new worker.")
        first = client.pid
        assert Heard(client, {"machine": True}).ended()[0] == "done"
        assert client.pid != first


def test_a_cut_connection_ends_the_worker_over_there(machine: Machine, tmp_path: Path):
    with WorkerClient(machine.worker()) as client:
        heard = Heard(client, training(tmp_path))
        heard.wait(Metric)
        far = psutil.Process(_far_worker(client.pid))
        os.kill(client.pid, signal.SIGKILL)
        assert heard.ended()[0] == "lost"
        far.wait(20)  # no training without anybody who hears of it


def test_a_host_that_is_not_the_known_one_is_refused(machine: Machine):
    with WorkerClient(machine.worker(known="wrong")) as client:
        outcome, text, details = Heard(client, {"machine": True}).ended()
    assert outcome == "lost"
    assert "ended with code 255 before it was ready" in text
    assert "Host key verification failed" in details


def _far_worker(ssh: int) -> int:
    """The worker at the other end of an ssh: the one process of that command that is no child of ssh."""
    (sent,) = [c for c in psutil.Process(ssh).net_connections() if c.raddr]
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if words[:1] == [sys.executable] and words[-2:] == ["napari_msunet", "worker"]:
            above = [p.pid for p in process.parents()]
            if any(_talks_to(p, sent.laddr.port) for p in above):
                return int(process.info["pid"])
    raise AssertionError("no worker was found behind ssh")


def _talks_to(pid: int, port: int) -> bool:
    try:
        return any(c.raddr and c.raddr.port == port for c in psutil.Process(pid).net_connections())
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return False
