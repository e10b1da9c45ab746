"""Files that are whole or absent."""

import errno
import os
from pathlib import Path

import pytest

from napari_msunet import _io
from napari_msunet._io import aside, csv_text, folder_aside, output_aside, read_rows, replace_file, table_text
from napari_msunet.errors import OutputError


def test_a_folder_takes_the_place_of_another_only_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "a"
    for text in ("old", "new"):
        with folder_aside(target, overwrite=True) as folder:
            (folder / "x").write_text(text)
    assert (target / "x").read_text() == "new"
    with pytest.raises(OutputError, match="cannot be written"), folder_aside(target) as folder:
        (folder / "x").write_text("newer")
    assert (target / "x").read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


def test_what_fails_leaves_neither_files_nor_folders(tmp_path: Path) -> None:
    def broken() -> None:
        with aside(tmp_path / "b" / "c" / "x", parents=True) as file:
            file.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    with pytest.raises(OutputError, match="folder"), output_aside(tmp_path):
        pass
    assert not os.listdir(tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        replace_file(tmp_path / "none" / "x", b"")
    replace_file(tmp_path / "none" / "x", b"whole", parents=True)
    assert (tmp_path / "none" / "x").read_bytes() == b"whole"


def test_half_a_line_is_not_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    _io.append(path, b"two\n")

    def full(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_io, "write_all", full)
    with pytest.raises(OutputError, match="disk is full"):
        _io.append(path, b"three\n")
    assert path.read_bytes() == b"one\ntwo\n"


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"a": 'x,"y"', "b": 1, "left out": 2}, {"b": None}]
    (tmp_path / "t.csv").write_text(table_text(rows, ("a", "b")), newline="")
    assert read_rows(tmp_path / "t.csv") == (["a", "b"], [{"a": 'x,"y"', "b": "1"}, {"a": "", "b": ""}])
    assert csv_text([(1, None)], line_end="\r\n") == "1,\r\n"


def test_what_was_there_comes_back_when_the_new_folder_cannot_take_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "old").touch()
    replace = os.replace

    def refuse(source, target):
        if Path(source).name.endswith(".partial"):
            raise PermissionError(errno.EACCES, "refused")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError), folder_aside(folder, overwrite=True) as new:
        (new / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["labels"]
    assert [path.name for path in folder.iterdir()] == ["old"]
