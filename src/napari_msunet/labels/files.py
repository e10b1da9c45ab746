"""Files that are whole or absent: written aside, synced, renamed; and what a failed write says."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_msunet.errors import NotSavedError, OutputError, StoreError
from napari_msunet.geometry import Region, Window

_SYNCS = 16  # at once: a file system brings many files onto the disk in little more time than one


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors while writing below `path` into one sentence."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: Path, error: OSError) -> OutputError:
    """What an `OSError` while writing below `path` means for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path} cannot be written: the disk is full; free some space and try again.")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return OutputError(f"{path} cannot be written: the folder is read-only; choose another or change its rights.")
    reason = error.strerror or str(error)
    return OutputError(f"{path} cannot be written ({reason}); check the disk and the folder, then try again.")


def not_saved(path: Path, error: OSError | None, sequence: int, window: Window) -> NotSavedError:
    """What is said of a stroke that the disk refuses for now."""
    reason = f": {output_error(path, error)}" if error is not None else "."
    return NotSavedError(
        f"This is not saved yet, only kept in memory, and will be written once the disk takes it{reason}",
        sequence,
        Region(window.y, window.x, window.height, window.width),
    )


def sync_path(path: Path) -> None:
    """Bring one file or folder onto the disk; one that is gone by now needs nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    except PermissionError:
        if os.name == "nt":  # Windows opens no folders
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_paths(paths: Collection[Path]) -> None:
    """Bring files and folders onto the disk."""
    if len(paths) > 2:
        try:
            with ThreadPoolExecutor(min(_SYNCS, len(paths)), "label store sync") as pool:
                list(pool.map(sync_path, paths))
            return
        except RuntimeError:  # the interpreter is going down and starts no more threads
            pass
    for path in paths:
        sync_path(path)


def write_aside(aside: Path, data: bytes) -> None:
    """Write a whole file, without syncing it."""
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however many calls the system makes of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`: the old file or the new one is there at any time, and the new one on the disk on return."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        write_aside(aside, data)
        sync_path(aside)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file."""
    replace_file(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; `StoreError` naming the file when it is missing or no JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise StoreError(f"{path} {reason}: the store is damaged; copy it again from where it came from.") from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged (no JSON): copy the store again from where it came from.") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged (no JSON object): copy the store again from where it came from.")
    return value


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """A new folder that takes the name `path` when the block ends well, and vanishes when it does not."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        aside.mkdir(parents=True)
        yield aside
        os.replace(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_path(path.parent)
