"""What a process that is killed now leaves behind."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from napari_msunet.labels import LabelStore


def left_behind(store: LabelStore, name: str) -> Path:
    """A copy of an open store beside it, made while none of its threads changes a file (test_crash kills those)."""
    with store._mutex:
        session = store._session
        with nullcontext() if session is None else session._flush:
            return Path(shutil.copytree(store.path, store.path.with_name(name)))
