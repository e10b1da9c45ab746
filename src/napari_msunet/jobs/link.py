"""One worker process from its start to its end: its pipes, the threads on them, and why it ended."""

from __future__ import annotations

import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from napari_msunet.errors import MsunetError
from napari_msunet.events import Event
from napari_msunet.jobs.paths import PathMap
from napari_msunet.jobs.settings import WORKER_VARIABLE
from napari_msunet.own_process import environment

READY_SECONDS = 60.0
"""Seconds that a command may take to report that it is a worker, also over a slow network."""

SSH_FAILED = 255
"""The exit code of ssh when the connection breaks or the process on the other side is killed."""

_TAIL = 40
_WHERE = f"(environment variable {WORKER_VARIABLE}, or `worker` in the settings)"


class Receiver(Protocol):
    """The methods of a job that a link calls."""

    id: int

    def started(self) -> None: ...

    def event(self, event: Event) -> None: ...

    def end(self, outcome: Any, text: str | None, details: str | None) -> None: ...


class Link:
    """The link to a worker process.

    Parameters
    ----------
    command : callable
        Gives the command as words; called in a thread of the link, as everything is that may take time.
    paths : callable
        Gives the names of paths on the machine of the process; called in the same thread.
    """

    def __init__(self, command: Callable[[], Sequence[str]], paths: Callable[[], PathMap] = PathMap) -> None:
        self.alive = True
        self.warm = False
        self.pid: int | None = None
        self._command = command
        self._ask_paths = paths
        self._paths = PathMap()
        self._words: Sequence[str] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._jobs: dict[int, Receiver] = {}
        self._outbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._reason: str | None = None
        self._asked_to_end = False
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._thread = threading.Thread(target=self._live, name="msunet-worker", daemon=True)

    @property
    def begun(self) -> bool:
        """Whether `begin` was called."""
        return self._thread.ident is not None

    def begin(self) -> None:
        """Start the process."""
        self._thread.start()

    # ------------------------------------------------------------------------------------------------ any thread calls

    @property
    def jobs(self) -> int:
        """How many jobs have not ended."""
        return len(self._jobs)

    def add(self, job: Receiver, request: dict[str, Any]) -> bool:
        """Send a request whose answers go to `job`; False where this process has ended."""
        with self._lock:
            if not self.alive:
                return False
            self._jobs[job.id] = job
            self._outbox.put(request)
        return True

    def send(self, request: dict[str, Any]) -> None:
        """Send a request that is not answered."""
        self._outbox.put(request)

    def stop(self, reason: str, seconds: float) -> None:
        """End the process: its input is closed, and after `seconds` it is killed. Waits until all threads have
        ended."""
        with self._lock:
            self._reason = self._reason or reason
            self._asked_to_end = True
            process = self._process
        self._outbox.put(None)
        if process is not None:
            if seconds:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
            self._kill(process)
        if self.begun and threading.current_thread() is not self._thread:
            self._thread.join(5.0)

    # -------------------------------------------------------------------------------------------------- the link's own

    def _live(self) -> None:
        """Start the process, read from it and wait for its end; the body of a thread."""
        problem = self._start()
        if problem is None:
            assert self._process is not None  # for the type checker
            writer = threading.Thread(target=self._write, args=(self._process,), name="msunet-requests", daemon=True)
            errors = threading.Thread(target=self._read_errors, args=(self._process,), name="msunet-log", daemon=True)
            writer.start()
            errors.start()
            self._read(self._process)
            self._process.wait()
            self._outbox.put(None)
            writer.join()
            errors.join(0.5)  # with a limit, because a child of the process may hold the pipe open
            problem = self._obituary(self._process.returncode)
            self._process.stdout.close()  # type: ignore[union-attr]
            if not errors.is_alive():
                self._process.stderr.close()  # type: ignore[union-attr]
        with self._lock:
            self.alive = False
            lost = list(self._jobs.values())
            self._jobs.clear()
        details = "\n".join(self._tail) or None
        for job in lost:
            job.end("lost", self._reason or problem, details)

    def _start(self) -> str | None:
        """Start the process; where that fails, return a sentence with the reason."""
        try:
            self._words = tuple(self._command())
            self._paths = self._ask_paths()
            with self._lock:
                if self._asked_to_end:
                    return self._reason
                self._process = subprocess.Popen(
                    self._words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=os.environ | environment(),
                    **_of_its_own(),
                )
                self.pid = self._process.pid
        except MsunetError as error:
            return str(error)
        except Exception as error:
            reason = getattr(error, "strerror", None) or error
            return (
                f"The worker's command {shlex.join(self._words)!r} cannot be started ({reason}); correct it {_WHERE}."
            )
        return None

    def _write(self, process: subprocess.Popen[bytes]) -> None:
        """Send requests, once the process has reported that it is a worker; in a thread, because writing to a full pipe
        blocks."""
        assert process.stdin is not None
        deadline = time.monotonic() + READY_SECONDS
        while not self._ready.wait(0.2):
            if self._asked_to_end or process.poll() is not None:
                break
            if time.monotonic() > deadline:
                self._reason = (
                    f"The command {shlex.join(self._words)!r} did not answer as a worker within {READY_SECONDS:.0f} s; "
                    f"correct it {_WHERE}."
                )
                self._kill(process)
                break
        with suppress(OSError):  # the process has ended, which the reading thread reports
            while (request := self._outbox.get()) is not None:
                sent = self._paths.request(request)
                process.stdin.write(json.dumps(sent, ensure_ascii=False).encode() + b"\n")
                process.stdin.flush()
        with suppress(OSError):
            process.stdin.close()

    def _read_errors(self, process: subprocess.Popen[bytes]) -> None:
        """Keep the last lines that the process and its libraries print, for error messages."""
        assert process.stderr is not None
        with suppress(OSError, ValueError):
            for line in process.stderr:
                self._tail.append(line.decode(errors="replace").rstrip())

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Hand each answer to its job, until the process closes its output."""
        assert process.stdout is not None
        with suppress(OSError, ValueError):
            for line in process.stdout:
                try:
                    answer = json.loads(line)
                except ValueError:
                    answer = None
                if not isinstance(answer, dict) or (not self._ready.is_set() and "ready" not in answer):
                    self._tail.append(line.decode(errors="replace").rstrip())  # not JSON, such as a greeting of ssh
                    continue
                try:
                    self._dispatch(answer)
                except Exception as error:  # an error in a callback of one job, which must not stop the others
                    self._tail.append(f"{type(error).__name__} in the client: {error}")

    def _dispatch(self, answer: dict[str, Any]) -> None:
        if "ready" in answer:
            self._ready.set()
        elif "warm" in answer:
            self.warm = True
        number = answer.get("id")
        if not isinstance(number, int):
            return
        with self._lock:
            job = self._jobs.pop(number, None) if "end" in answer else self._jobs.get(number)
        if job is None:
            return
        if "started" in answer:
            job.started()
        elif "event" in answer:
            for event in self._paths.event(answer["event"]):
                job.event(event)
        elif "end" in answer:
            text = answer.get("text")
            job.end(answer["end"], self._paths.here(text) if text else text, answer.get("details"))

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the process and the processes that it has started."""
        if process.poll() is not None:
            return
        with suppress(OSError):
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()

    def _obituary(self, code: int) -> str:
        """Why the process has ended, in one sentence."""
        after = "what was finished is kept, and the next job starts a new worker."
        if not self._ready.is_set():
            last = next((line for line in reversed(self._tail) if line.strip()), "")
            said = f", saying {last[:200]!r}" if last else ""
            command = shlex.join(self._words)
            ended = f"The worker's command {command!r} ended with code {code} before it was ready"
            return f"{ended}{said}; correct it {_WHERE}."
        if code == SSH_FAILED and Path(self._words[0]).name in ("ssh", "ssh.exe"):
            said = next((line for line in reversed(self._tail) if line.strip()), "")
            why = f" ({said[:200].rstrip('.')})" if said else ""
            return f"The worker on the other machine, or the connection to it, was lost{why}; {after}"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            if name == "SIGKILL":
                return f"The worker was killed by the system, often because memory ran out; {after}"
            return f"The worker crashed ({name}); {after}"
        return f"The worker ended unexpectedly with code {code}; {after}"


def _of_its_own() -> dict[str, Any]:
    """Options of `Popen` that protect the process from Ctrl-C in this terminal and give it no console window."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS}
    return {"start_new_session": True}
