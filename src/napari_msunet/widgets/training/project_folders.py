"""Folders of searches, experiments and studies in a project: the next one, and the newest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_msunet.widgets.state import State


def next_folder(state: State, kind: str, word: str) -> Path:
    """The folder of a new piece of work, such as "searches/search 3"; the project is made where there is none."""
    folder = state.make_project().folder / kind
    numbers = [int(path.name.rpartition(" ")[2]) for path in folder.glob(f"{word} [0-9]*")]
    return folder / f"{word} {1 + max(numbers, default=0)}"


def newest_folder(state: State, kind: str, file: str) -> Path | None:
    """The newest folder of its kind, which has the file of its job; None where there is none."""
    if state.project is None:
        return None
    found = [path.parent for path in (state.project.folder / kind).glob(f"*/{file}")]
    return max(found, key=lambda path: (path / file).stat().st_mtime, default=None)
