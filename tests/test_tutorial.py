"""The tutorial: its pictures are those that `make screenshots` makes of the real window."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
SCRIPT = DOCS / "screenshots.py"


@pytest.fixture(scope="module")
def screenshots():
    spec = importlib.util.spec_from_file_location("screenshots", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def looks(path, script):
    """That a picture is one of a window with something in it, small enough for a page."""
    with Image.open(path) as image:
        assert image.size == script.SIZE
        assert len(np.unique(np.asarray(image.convert("L").resize((64, 40))))) > 40
    assert path.stat().st_size < script.LARGEST


def test_its_pictures_are_all_that_are_made(screenshots):
    shown = re.findall(r"\]\(images/(tutorial-[\w.-]+)\)", (DOCS / "tutorial.md").read_text(encoding="utf8"))
    assert shown == [screenshots.file_name(name) for name in screenshots.NAMES]
    assert {path.name for path in (DOCS / "images").glob("tutorial-*")} == set(shown)
    for name in shown:
        looks(DOCS / "images" / name, screenshots)


def test_it_names_what_the_window_has():
    from napari_msunet.widgets.samples import CLASSES

    text = (DOCS / "tutorial.md").read_text(encoding="utf8")
    assert all(f"*{name}*" in text for name in CLASSES)
    source = "".join(path.read_text(encoding="utf8") for path in (SCRIPT.parents[1] / "src").rglob("widgets/**/*.py"))
    for words in (
        "Start annotating",
        "Add class",
        "Retrain on corrections",
        "Copy as Python",
        "All slides",
        "Measures…",
    ):
        assert words in text
        assert f'"{words}"' in source, words


def test_the_readme_shows_them_one_after_the_other(screenshots):
    shown = DOCS / "images" / screenshots.MOVING
    assert f"](docs/images/{screenshots.MOVING})" in (DOCS.parent / "README.md").read_text(encoding="utf8")
    assert shown.stat().st_size < 500_000
    with Image.open(shown) as moving:
        assert moving.n_frames == len(screenshots.NAMES)


@pytest.mark.slow
def test_one_command_makes_the_pictures(screenshots, tmp_path):
    pytest.importorskip("napari")
    command = [sys.executable, SCRIPT, "--out", tmp_path / "images", "--epochs", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "images" / screenshots.MOVING).is_file()
    made = sorted((tmp_path / "images").glob("*.jpg"))
    assert [path.name for path in made] == [screenshots.file_name(name) for name in screenshots.NAMES]
    for path in made:
        looks(path, screenshots)
