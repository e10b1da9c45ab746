"""Names of files, columns and classes as people and systems write them: what is compared, and what can be printed."""

from __future__ import annotations

import unicodedata


def same_name(text: str) -> str:
    """A name as it is compared: macOS writes an ä as an a and dots (NFD), other systems as one letter (NFC)."""
    return unicodedata.normalize("NFC", text)


def printable(text: object) -> str:
    """Text that any console and file takes: a file's name need not be UTF-8, and its odd bytes are shown as ``\\xe4``.

    Python holds such bytes as lone surrogates, which cannot be encoded.
    """
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
