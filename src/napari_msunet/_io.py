"""Files that are whole or absent (written aside, synced, renamed), JSON, and CSV tables: ours, and those people write.

What the system says when a file cannot be written or read becomes a sentence here too.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar

from napari_msunet.errors import MsunetError, NotSavedError, OutputError, SourceError, StoreError
from napari_msunet.geometry import Region, Window
from napari_msunet.names import same_name

# ----------------------------------------------------------------------------------------------------------------------
# Writing files so that they are whole or absent, and the errors of a failed write.

E = TypeVar("E", bound=MsunetError)

_SYNCS = 16  # at once: a file system brings many files onto the disk in little more time than one


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors while writing below `path` into one sentence."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: Path, error: OSError, done: str = "written") -> OutputError:
    """What an `OSError` while writing below `path`, or while it was `done`, means for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path} cannot be {done}: the disk is full; free some space and try again.")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return OutputError(f"{path} cannot be {done}: the folder is read-only; choose another or change its rights.")
    reason = error.strerror or str(error)
    return OutputError(f"{path} cannot be {done} ({reason}); check the disk and the folder, then try again.")


def input_error(what: object, error: OSError, advice: str, kind: type[E]) -> E:
    """What an `OSError` while reading `what` means for the user, and what to do."""
    return kind(f"{what} cannot be read ({error.strerror}); {advice}.")


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
        # Windows syncs only what is open for writing
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
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


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{ending}")


def _remove(path: Path) -> None:
    """Remove a file or folder, as far as the system lets."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def aside(path: Path, *, parents: bool = False, overwrite: bool = False) -> Iterator[Path]:
    """A name beside `path` to write a file or folder to.

    When the block ends well, what is there is synced and takes the name `path`: the old file or the new one is there at
    any time. When it fails or is closed, what was written vanishes.

    Parameters
    ----------
    path : Path
        A file that is there is replaced.
    parents : bool
        Make the folders that `path` lies in, and take them away again when the block fails.
    overwrite : bool
        Let a folder take the place of a file or of another folder, which is moved away first and removed last.

    Raises
    ------
    OutputError
        For every `OSError` in the block.
    """
    temporary = _beside(path, "partial")
    missing = [folder for folder in path.parents if not folder.exists()] if parents else []
    try:
        with output_errors(path):
            if parents:
                path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync_path(temporary)
            if overwrite and os.path.lexists(path):
                old = _beside(path, "old")
                os.replace(path, old)
                try:
                    os.replace(temporary, path)
                except OSError:
                    os.replace(old, path)  # what was there stays under its name
                    raise
                _remove(old)
            else:
                os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise
    with output_errors(path):
        sync_path(path.parent)


@contextmanager
def folder_aside(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new folder that takes the name `path` when the block ends well, and vanishes when it does not; see `aside`."""
    with aside(path, overwrite=overwrite) as temporary:
        temporary.mkdir(parents=True)
        yield temporary


@contextmanager
def output_aside(path: Path) -> Iterator[Path]:
    """Like `aside`, for a file or folder that a person named: folders are made for it, and none is replaced.

    Raises
    ------
    OutputError
        If `path` is a folder or lies below a file, or the system refuses (no room, no right).
    """
    if path.is_dir():
        raise OutputError(f"{path} exists already and is a folder; choose another name, or remove it first.")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise OutputError(f"{path} cannot be written: {nearest} is a file, not a folder; choose another name.")
    with aside(path, parents=True) as temporary:
        yield temporary


def make_folder(path: Path) -> None:
    """Make a folder and those it lies in, unless it is there; `OutputError` if the system refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error, "made") from error


def replace_file(path: Path, data: bytes, *, parents: bool = False) -> None:
    """Put `data` at `path`, whole and synced, or raise `OutputError`; see `aside`."""
    with aside(path, parents=parents) as temporary:
        write_aside(temporary, data)


def write_text(path: Path, text: str, *, parents: bool = False) -> None:
    """Replace a text file, in UTF-8 (names of files, which need not be, are escaped); see `aside`."""
    replace_file(path, text.encode("utf-8", "backslashreplace"), parents=parents)


def append(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Add to a file that is there, all of `data` or (with `OutputError`) nothing."""
    with output_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            size = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, data)
            except OSError:
                os.ftruncate(descriptor, size)  # half a line would spoil the next one
                raise
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


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


# ----------------------------------------------------------------------------------------------------------------------
# Tables: CSV files with a header, whatever their separator and encoding.


def csv_text(rows: Iterable[Iterable[Any]], columns: Iterable[str] | None = None, line_end: str = "\n") -> str:
    """Rows of cells as the text of a CSV, with a header where `columns` are given; None is an empty cell."""
    text = io.StringIO(newline="")
    append_rows(text, rows if columns is None else chain([columns], rows), line_end)
    return text.getvalue()


def append_rows(file: IO[str], rows: Iterable[Iterable[Any]], line_end: str = "\n") -> None:
    """Write rows of cells into a CSV that is open (with ``newline=""``), such as one that does not fit into memory."""
    csv.writer(file, lineterminator=line_end).writerows(rows)


def table_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], line_end: str = "\n") -> str:
    """Rows by column as the text of a CSV with a header; what is not in `columns` is left out."""
    return csv_text(([row.get(name, "") for name in columns] for row in rows), columns, line_end)


def read_rows(path: Path) -> tuple[list[str], list[dict[Any, Any]]]:
    """The columns and rows of a CSV that we wrote, as they are; see `read_csv` for the tables of people.

    As `csv.DictReader` gives them: a cell that is missing at the end of a row is None, and None is the name of a list
    of those that are too many. `OSError` or `ValueError` where it cannot be read.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            rows = list(reader)
        except csv.Error as error:
            raise ValueError(str(error)) from error
        return list(reader.fieldnames or ()), rows


def csv_name(path: str | Path, what: str) -> Path:
    """A path, checked to end in .csv; `what` is for example "a queue is"."""
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise OutputError(f"{path} does not end in .csv; {what} written as CSV, so choose such a name.")
    return path


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
        raise input_error(f"The table {path}", error, "give a CSV", SourceError) from error
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
