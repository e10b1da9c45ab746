"""CSV tables that people write: in spreadsheets of any country, with blank lines, capitals and accents."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from napari_msunet.errors import SourceError
from napari_msunet.names import same_name


class Row(dict[str, str]):
    """The fields of a row by `column_key` of their column; `number` is its row in the file, as an editor counts it."""

    def __init__(self, fields: dict[str, str], number: int) -> None:
        super().__init__(fields)
        self.number = number


def column_key(name: str) -> str:
    """A column's name as it is compared: whatever its capitals and the writing of its accents."""
    return same_name(name.strip()).casefold()


def read_csv(path: Path) -> tuple[list[str], list[Row]]:
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
        rows: list[Row] = []
        number = skipped + reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                filled = [*cells, *[""] * len(columns)]
                rows.append(Row({c: v.strip() for c, v in zip(columns, filled, strict=False) if c}, number))
            number = skipped + reader.line_num + 1
    except csv.Error as error:
        raise SourceError(f"The table {path} cannot be read as a CSV ({error}); save it again as one.") from error
    return [c for c in columns if c], rows
