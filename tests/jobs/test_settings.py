"""The worker's command: from the environment, a file, or this Python; a bad one is a sentence."""

import json
import sys
from pathlib import Path

import pytest

from napari_msunet.errors import MsunetError
from napari_msunet.jobs import settings
from napari_msunet.jobs.settings import (
    WORKER_VARIABLE,
    Settings,
    load_settings,
    save_settings,
    split_command,
    worker_command,
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(settings.platformdirs, "user_config_path", lambda *names, **more: tmp_path / "config")
    monkeypatch.delenv(WORKER_VARIABLE, raising=False)
    return tmp_path / "config"


def test_this_python_unless_told_otherwise():
    assert load_settings() == Settings()
    assert worker_command() == (sys.executable, "-P", "-m", "napari_msunet", "worker")


@pytest.mark.skipif(sys.platform == "win32", reason="backslashes and quotes are other ones there")
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("ssh gpu-box napari-msunet worker", ("ssh", "gpu-box", "napari-msunet", "worker")),
        ("'/a folder/python' -m napari_msunet worker", ("/a folder/python", "-m", "napari_msunet", "worker")),
        ('["a b", "worker"]', ("a b", "worker")),
        ("a; rm -rf $HOME | b", ("a;", "rm", "-rf", "$HOME", "|", "b")),  # no shell ever sees it
    ],
)
def test_a_line_or_a_list(value, words, monkeypatch):
    assert split_command(value) == words
    monkeypatch.setenv(WORKER_VARIABLE, value)
    assert worker_command() == words


def test_the_file_and_the_environment_over_it(folder, monkeypatch):
    path = save_settings(Settings(worker="ssh box worker"))
    assert path == folder / "settings.json"
    assert worker_command() == ("ssh", "box", "worker")
    monkeypatch.setenv(WORKER_VARIABLE, "other worker")
    assert worker_command() == ("other", "worker")
    save_settings(load_settings().model_copy(update={"worker": None}))
    monkeypatch.setenv(WORKER_VARIABLE, " ")
    assert worker_command()[0] == sys.executable
    assert [p.name for p in folder.iterdir()] == ["settings.json"]


def test_what_a_newer_version_wrote_stays(folder):
    folder.mkdir()
    (folder / "settings.json").write_text('{"worker": ["a"], "theme": "dark"}')
    save_settings(load_settings().model_copy(update={"worker": ("b",)}))
    assert json.loads((folder / "settings.json").read_text()) == {
        "worker": ["b"],
        "path_map": [],
        "recent": [],
        "theme": "dark",
    }


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"worker": 3}', '{"worker": []}', '{"worker": "a \'b"}', '{"worker": " "}']
)
def test_a_bad_file_is_one_sentence(text, folder):
    folder.mkdir()
    (folder / "settings.json").write_text(text)
    with pytest.raises(MsunetError, match=r"^The settings .*settings.json cannot be used: .*remove the file\.$"):
        worker_command()


@pytest.mark.parametrize("value", ["'a", "[1, 2]", "[", "[]"])
def test_a_bad_environment_is_one_sentence(value, monkeypatch):
    monkeypatch.setenv(WORKER_VARIABLE, value)
    with pytest.raises(MsunetError, match=f"^The environment variable {WORKER_VARIABLE} cannot be used: .*"):
        worker_command()


def test_a_folder_that_cannot_be_written(folder):
    folder.write_text("a file")
    with pytest.raises(MsunetError, match="cannot be written"):
        save_settings(Settings())
