"""Writing files so that they are whole or absent (written aside, synced, renamed), and reading CSV tables."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_msunet.errors import NotSavedError, OutputError, SourceError, StoreError
from napari_msunet.geometry import Region, Window
from napari_msunet.names import same_name

# ----------------------------------------------------------------------------------------------------------------------
# Writing files so that they are whole or absent, and the errors of a failed write.

_SYNCS = 16  # files synced at once, because a file system syncs many files in little more time than one


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors while writing below `path` into one sentence."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: Path, error: OSError) -> OutputError:
    """The error for the user about an `OSError` while writing below `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path} cannot be written: the disk is full; free some space and try again.")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return OutputError(f"{path} cannot be written: the folder is read-only; choose another or change its rights.")
    reason = error.strerror or str(error)
    return OutputError(f"{path} cannot be written ({reason}); check the disk and the folder, then try again.")


def not_saved(path: Path, error: OSError | None, sequence: int, window: Window) -> NotSavedError:
    """The error about a stroke that the disk refuses for now."""
    reason = f": {output_error(path, error)}" if error is not None else "."
    return NotSavedError(
        f"This is not saved yet, only kept in memory, and will be written once the disk takes it{reason}",
        sequence,
        Region(window.y, window.x, window.height, window.width),
    )


def sync_path(path: Path) -> None:
    """Sync one file or folder to the disk; nothing is done if it no longer exists."""
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
    """Sync files and folders to the disk."""
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
    """Write all of `data`, even if the system needs several calls."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def replace_file(path: Path, data: bytes) -> None:
    """Replace the file at `path`: at any time the old or the new file exists, and on return the new one is synced."""
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
    """A context with a new folder, which is renamed to `path` at the end, or removed after an error."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        aside.mkdir(parents=True)
        yield aside
        os.replace(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_path(path.parent)


# ----------------------------------------------------------------------------------------------------------------------
# Tables: CSV files with a header, whatever their separator and encoding.


class TableRow(dict[str, str]):
    """The fields of a row by `column_key` of their column; `number` is its row in the file, counted as in an editor."""

    def __init__(self, fields: dict[str, str], number: int) -> None:
        super().__init__(fields)
        self.number = number


def column_key(name: str) -> str:
    """A column's name in the form in which names are compared: without regard to case and the encoding of accents."""
    return same_name(name.strip()).casefold()


def read_csv(path: Path) -> tuple[list[str], list[TableRow]]:
    """The columns and rows of a CSV (comma, semicolon or tab); blank rows are left out.

    Columns are given by `column_key`.

    Raises
    ------
    SourceError
        If it cannot be read, or two columns have one name.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except OSError as error:
        raise SourceError(f"The table {path} cannot be read ({error.strerror}); give a CSV.") from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"The table {path} cannot be read as a CSV: {error}; save it as a CSV in UTF-8 (in Excel: CSV UTF-8)."
        ) from error
    lines = io.StringIO(text, newline="")
    first, skipped = "", 0
    for line in lines:
        if line.strip().strip(",;\t"):
            first = line
            break
        skipped += 1
    mark = max(",;\t", key=first.count)
    said = first.strip("\r\n ")
    if said.lower().startswith("sep=") and len(said) == len("sep=;"):  # Excel's own first line
        mark, first = said[-1], lines.readline()
        skipped += 1
    reader = csv.reader(io.StringIO(first + lines.read(), newline=""), delimiter=mark)
    try:
        columns = [column_key(c) for c in next(reader, [])]
        if twice := next((c for c in columns if c and columns.count(c) > 1), None):
            raise SourceError(f"The table {path} has two columns called {twice}; give each a name of its own.")
        rows: list[TableRow] = []
        number = skipped + reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                filled = [*cells, *[""] * len(columns)]
                rows.append(TableRow({c: v.strip() for c, v in zip(columns, filled, strict=False) if c}, number))
            number = skipped + reader.line_num + 1
    except csv.Error as error:
        raise SourceError(f"The table {path} cannot be read as a CSV ({error}); save it again as one.") from error
    return [c for c in columns if c], rows
