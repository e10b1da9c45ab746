"""Names of files, columns and classes as people and systems write them: what is compared, and what can be printed."""

from __future__ import annotations

import os
import unicodedata
from contextlib import suppress
from pathlib import Path


def same_name(text: str) -> str:
    """A name as it is compared: macOS writes an ä as an a and dots (NFD), other systems as one letter (NFC)."""
    return unicodedata.normalize("NFC", text)


def printable(text: object) -> str:
    """Text that any console and file takes: a file's name need not be UTF-8, and its odd bytes are shown as ``\\xe4``.

    Python holds such bytes as lone surrogates, which cannot be encoded.
    """
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def true_path(path: Path) -> Path:
    """The file or folder that is there under this name, however its accents are written; else the path as it is."""
    if os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        step = found / part
        if not os.path.lexists(step) and not part.isascii():
            with suppress(OSError):
                step = next((p for p in found.iterdir() if same_name(p.name) == same_name(part)), step)
        found = step
    return found if os.path.lexists(found) else path
