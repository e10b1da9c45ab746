"""The rows of the table of objects as a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from napari_msunet.labels.files import output_errors, replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt


def write_rows(path: Path, headers: list[str], columns: list[Sequence[str] | npt.NDArray[np.number]]) -> None:
    """Write columns of equal length as CSV; `OutputError` if the disk refuses.

    Parameters
    ----------
    path : Path
        Replaced if it is there.
    headers : list of str
        Names of the columns.
    columns : list of sequences
        The first of text, the others of numbers.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(headers)
    writer.writerows([name, *(f"{v:.10g}" for v in rest)] for name, *rest in zip(*columns, strict=True))
    with output_errors(path):
        replace_file(path, text.getvalue().encode())
