"""Comparing and printing names of files, columns and classes, which people and systems encode in different ways."""

from __future__ import annotations

import json
import os
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError


def same_name(text: str) -> str:
    """A name in the form for comparisons: macOS stores an ä as an a and dots (NFD), other systems as one letter
    (NFC)."""
    return unicodedata.normalize("NFC", text)


def printable(text: object) -> str:
    """Text that any console and file accepts: bytes of a file's name that are no UTF-8 are shown as ``\\xe4``.

    Python holds such bytes as lone surrogates, which cannot be encoded.
    """
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def true_path(path: Path) -> Path:
    """The file or folder with this name, however its accents are encoded; else the unchanged path."""
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


class AnyNames(BaseModel):
    """A pydantic model whose JSON can hold names that are no UTF-8; each such byte is an escape (``\\udce4``)."""

    def model_dump_json(self, **options: Any) -> str:
        """As in pydantic, which refuses such names."""
        try:
            return super().model_dump_json(**options)
        except PydanticSerializationError:
            indent = options.pop("indent", None)
            return json.dumps(self.model_dump(mode="json", **options), indent=indent)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """As in pydantic, which refuses such escapes."""
        try:
            return super().model_validate_json(json_data, **options)
        except ValidationError as error:
            return cls.model_validate(loaded_again(json_data, error), **options)


def loaded_again(text: str | bytes | bytearray, error: ValidationError) -> Any:
    """The values in JSON that pydantic could not read; raises `error` where such escapes were not the reason."""
    if b"\\ud" not in (text.encode("utf-8", "replace") if isinstance(text, str) else text).lower():
        raise error
    try:
        return json.loads(text)
    except ValueError:
        raise error from None
