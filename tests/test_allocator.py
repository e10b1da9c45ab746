"""Freed memory is kept, and given back where it piles up."""

import os
import subprocess
import sys

import pytest

from napari_msunet import own_process
from napari_msunet import own_process as allocator
from napari_msunet.own_process import PATIENCE

PROGRAM = """
import numpy as np
from napari_msunet.own_process import Ceiling, resident

def piled_up():
    blocks = [np.ones(2**17) for _ in range(200)]  # 200 MB
    last = np.ones(2**17)  # above them, so that the system does not get them back by itself
    del blocks
    return last

ceiling = Ceiling({nbytes})
ceiling.make_room("known")
before = resident()
last = piled_up()
kept = resident() - before
ceiling.make_room({size!r})
print(kept // 2**20, (resident() - before) // 2**20)
"""


@pytest.mark.skipif(not allocator.applies(), reason="another allocator than glibc's")
@pytest.mark.parametrize(
    ("megabytes", "size", "given_back"),
    [(50, "known", True), (250, "known", False), (250, "new", True), (400, "new", False), (0, "new", False)],
)
def test_freed_memory_is_given_back_near_a_ceiling(megabytes: int, size: str, given_back: bool) -> None:
    environment = os.environ | allocator.SETTINGS
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(nbytes=megabytes * 2**20, size=size)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, left = map(int, done.stdout.split())
    assert kept > 190
    assert (left < 20) == given_back
    assert given_back or left > 190


def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    for name in allocator.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert allocator.allocator_settings() == (allocator.SETTINGS if allocator.applies() else {})
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert allocator.allocator_settings() == {}
    assert not allocator.keep_freed_memory()


def test_threads_of_own_processes_wait_shortly_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PATIENCE, "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    assert own_process.environment().items() >= PATIENCE.items()
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    own_process.settle()
    assert not PATIENCE.keys() & (own_process.environment() | os.environ).keys()
    monkeypatch.delenv("OMP_WAIT_POLICY")
    own_process.settle()
    assert os.environ.items() >= PATIENCE.items()
