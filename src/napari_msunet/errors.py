"""The errors a user can meet. Each message says what was given, what was expected and what to do."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any


class MsunetError(ValueError):
    """Something given to napari-msunet cannot be used; the message is one clear sentence for the user."""


class SlideError(MsunetError):
    """A file cannot be read as an image."""


class NotNumbersError(SlideError):
    """An image has values that are no numbers: NaN or infinite."""


class MissingMppError(SlideError):
    """A slide's file gives no µm per pixel and a caller needs it."""


class SourceError(MsunetError):
    """Training or evaluation images and masks do not fit together."""


class ShapeFileError(MsunetError):
    """A file of shapes cannot be read."""


class ImageNeededError(ShapeFileError):
    """A file of shapes can only be read for a certain image, which was not given.

    Attributes
    ----------
    images : tuple of str
        The names of the images in the file that may be meant; empty where it is the image's size that is needed.
    """

    images: tuple[str, ...] = ()


class ModelError(MsunetError):
    """A model file or model configuration cannot be used."""


class StoreError(MsunetError):
    """A label store is damaged, or does not fit what is written into it."""


class StoreLockedError(StoreError):
    """Another process writes into this label store; the message names the holder."""


class OutputError(MsunetError):
    """An output cannot be written: a full disk, a read-only folder, a name that is taken."""


def as_path(value: Any, what: str) -> Path:
    """A path from a caller; `MsunetError` if the value is none. `what` names the thing at the path, such as "a
    slide"."""
    if not isinstance(value, str | os.PathLike):
        raise MsunetError(f"{value!r} is no path; give the path of {what} as text or a Path.")
    return Path(value)


def failure(error: BaseException) -> tuple[str, str | None]:
    """An error as one sentence, and the traceback where a developer would need it."""
    if isinstance(error, MsunetError):
        return str(error), None
    details = "".join(traceback.format_exception(error))
    if isinstance(error, MemoryError):
        return "There is not enough memory; give a smaller tile, window size or batch size.", details
    # an error of torch, which must not be imported only to name its class
    if type(error).__name__ == "OutOfMemoryError":
        return "The device has not enough memory; give a smaller tile, window size or batch size, or 'cpu'.", details
    if isinstance(error, OSError):
        where = f"{error.filename} cannot be used: " if error.filename else ""
        return f"{where}{error.strerror or error}.", details
    reason = " ".join(str(error).split())
    said = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return (
        f"Something went wrong that should not ({said[:200].rstrip('.')}); please report it with the details.",
        details,
    )


class NotSavedError(OutputError):
    """A stroke was made and is shown, but the disk refuses it: it is kept in memory until the disk takes it.

    Attributes
    ----------
    number : int
        Number of the stroke, or of the undo or redo.
    region : Region or None
        The region that changed, in the store's level-0 pixels.
    """

    def __init__(self, message: str, number: int = 0, region: object = None) -> None:
        super().__init__(message)
        self.number = number
        self.region = region
