"""A file that ends the process which reads it ends the small one beside the window, and is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from napari_msunet.errors import SlideError
from napari_msunet.slide import probing

DYING = """
import os, sys
from napari_msunet.slide import probing
probing.look = lambda path: os.abort() if "bad" in path.name else None
probing.main()
"""


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> probing.Probe:
    start = subprocess.Popen

    def dying(words: list[str], **options: object) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", DYING], **options)

    monkeypatch.setattr(probing.subprocess, "Popen", dying)
    found = probing.Probe()
    yield found
    found.end()


def test_a_crash_is_a_sentence_and_the_next_file_opens(probe: probing.Probe, tmp_path: Path) -> None:
    probe.ask(tmp_path / "good.tif", 60)
    with pytest.raises(SlideError, match=r"bad\.tif makes the library that reads it end its process"):
        probe.ask(tmp_path / "bad.tif", 60)
    probe.ask(tmp_path / "good.tif", 60)
    began = time.monotonic()
    probe.ask(tmp_path / "good.tif", 60)
    assert time.monotonic() - began < 1  # it is warm


def test_it_reads_a_slide_and_says_nothing_of_one_that_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "image.png")
    probing.look(tmp_path / "image.png")
    probe = probing.Probe()
    try:
        (tmp_path / "words.png").write_text("words")
        probe.ask(tmp_path / "words.png", 60)
        probe.ask(tmp_path / "image.png", 60)
        assert probe._process is not None
        pid = probe._process.pid
        os.kill(pid, 0)
    finally:
        probe.end()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
