"""Tables of measurements, written row group by row group: CSV, Parquet, and GeoJSON with measurements."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from napari_msunet._io import append_rows, write_json
from napari_msunet.annotation.export import TAIL, feature_line, geojson_head
from napari_msunet.annotation.provenance import KEY
from napari_msunet.errors import OutputError

Columns = Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]

ENDINGS = (".csv", ".parquet", ".geojson")
MISSING = (
    "Parquet needs pyarrow, which is not installed; install it (pip install 'napari-msunet[parquet]'), or write .csv."
)


class TableWriter(Protocol):
    """Writes a table by parts; each part has the same columns, in the same order."""

    def write(self, columns: Columns) -> None:
        """Add rows."""


def table_ending(path: Path) -> str:
    """Which of `ENDINGS` a path has; `OutputError` for another, or where its package is missing."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise OutputError(
            f"{path} does not end in .csv, .parquet or .geojson; the ending says how measurements are written."
        )
    if ending == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise OutputError(MISSING) from error
    return ending


def table_beside(path: Path, what: str) -> Path:
    """The path of another table of the same measurement, such as ``cells.classes.csv`` of ``cells.csv``."""
    ending = ".parquet" if path.suffix.lower() == ".parquet" else ".csv"
    return path.with_name(f"{path.stem}.{what}{ending}")


def write_csv_metadata(file: Path, tables: Mapping[str, Path], origin: dict[str, Any]) -> None:
    """Write what CSVs cannot say themselves: where they come from, by the name that the W3C's "CSV on the Web" gives it
    (``cells.csv-metadata.json`` beside ``cells.csv``)."""
    names = [{"url": path.name} for path in tables.values() if path.suffix.lower() == ".csv"]
    write_json(file, {"@context": "http://www.w3.org/ns/csvw", "tables": names, KEY: origin})


class CsvTable(AbstractContextManager["CsvTable"]):
    """A CSV, if wanted with lines of ``#`` before its header that say where it comes from."""

    def __init__(self, path: Path, origin: dict[str, Any] | None) -> None:
        self._file: IO[str] = path.open("w", newline="", encoding="utf8")
        self._began = False
        for name, value in (origin or {}).items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            self._file.write(f"# {name}: {' '.join(text.split())}\r\n")

    def write(self, columns: Columns) -> None:
        """Add rows; floats get ten digits, and what is not a number is an empty cell."""
        if not self._began:
            append_rows(self._file, [tuple(columns)], "\r\n")
            self._began = True
        append_rows(self._file, zip(*map(_texts, columns.values()), strict=True), "\r\n")

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _texts(values: Sequence[Any] | np.ndarray[Any, Any]) -> Sequence[Any]:
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return [f"{v:.10g}" if v == v else "" for v in values.tolist()]
    if isinstance(values, np.ndarray):
        return values.tolist()  # type: ignore[no-any-return]
    return [f"{v:.10g}" if isinstance(v, float) else v for v in values]


class ParquetTable(AbstractContextManager["ParquetTable"]):
    """A Parquet file, with where it comes from as JSON under the key ``napari_msunet`` of its metadata."""

    def __init__(self, path: Path, origin: dict[str, Any] | None) -> None:
        self._path, self._metadata = path, {KEY: json.dumps(origin or {}, ensure_ascii=False)}
        self._writer: Any = None

    def write(self, columns: Columns) -> None:
        """Add a row group."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema.with_metadata(self._metadata), compression="zstd")
        self._writer.write_table(table.cast(self._writer.schema))

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()


class GeoJsonTable(AbstractContextManager["GeoJsonTable"]):
    """Features with their numbers as the measurements that QuPath shows.

    The column "feature" holds the feature of each row; the columns `left_out` are in it anyway.
    """

    def __init__(self, path: Path, origin: dict[str, Any] | None, left_out: Sequence[str] = ()) -> None:
        self._file = path.open("w", encoding="utf8")
        self._file.write(geojson_head(origin or {}))
        self._first, self._left_out = True, {*left_out, "feature"}

    def write(self, columns: Columns) -> None:
        """Add features."""
        numbers = {
            name: values.tolist()
            for name, values in columns.items()
            if name not in self._left_out and isinstance(values, np.ndarray)
        }
        for row, feature in enumerate(columns["feature"]):
            measured = {name: values[row] for name, values in numbers.items() if values[row] == values[row]}
            feature["properties"]["measurements"] = measured
            self._file.write(feature_line(feature, self._first))
            self._first = False

    def add(self, features: Iterable[dict[str, Any]]) -> None:
        """Add features without measurements."""
        for feature in features:
            self._file.write(feature_line(feature, self._first))
            self._first = False

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._file.write(TAIL)
        self._file.close()


def table_writer(path: Path, ending: str, origin: dict[str, Any] | None, stack: ExitStack) -> TableWriter:
    """A writer for a path (which may be a temporary one) by an ending; it is closed with the stack."""
    kinds: dict[str, Callable[[Path, dict[str, Any] | None], Any]] = {
        ".csv": CsvTable,
        ".parquet": ParquetTable,
        ".geojson": GeoJsonTable,
    }
    writer: TableWriter = stack.enter_context(kinds[ending](path, origin))
    return writer


def read_columns(path: Path, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Some columns of a table that was written here: floats, NaN where a cell is empty, or words for "class"."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path, columns=list(names))
        return {name: _as_numbers(name, table[name].to_pylist()) for name in names}
    found: dict[str, list[Any]] = {name: [] for name in names}
    if ending == ".csv":
        with path.open(encoding="utf8", newline="") as file:
            rows = csv.reader(line for line in file if not line.startswith("#"))
            places = {name: at for at, name in enumerate(next(rows, [])) if name in found}
            for row in rows:
                for name, at in places.items():
                    found[name].append(row[at])
    else:
        with path.open(encoding="utf8") as file:
            for line in file:
                if line.startswith('{"type":"Feature",'):
                    properties = json.loads(line.rstrip(",\n"))["properties"]
                    measured = {"class": properties["classification"]["name"], **properties.get("measurements", {})}
                    for name in names:
                        found[name].append(measured.get(name))
    return {name: _as_numbers(name, values) for name, values in found.items()}


def _as_numbers(name: str, values: list[Any]) -> np.ndarray[Any, Any]:
    if name == "class":
        return np.array(values, object)
    return np.array([np.nan if value in (None, "") else float(value) for value in values], np.float64)
