"""The settings for all projects of a person, in a small file in the configuration folder."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath

import platformdirs
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from napari_msunet._io import input_error, write_text
from napari_msunet.errors import MsunetError

WORKER_VARIABLE = "NAPARI_MSUNET_WORKER"
"""Environment variable that overrides `worker` in the file."""


def split_command(value: object) -> tuple[str, ...]:
    """A command as its words.

    Parameters
    ----------
    value : str or sequence of str
        Words, or a line quoted as for a shell, or a JSON list of words. The command is run without a shell.

    Raises
    ------
    ValueError
        If the value is none of these, or empty.
    """
    words: object = value
    if isinstance(value, str):
        try:
            words = json.loads(value) if value.lstrip().startswith("[") else _split_line(value)
        except ValueError as error:
            raise ValueError(f"{value!r} cannot be split into words ({error}); check its quotes") from None
    if not isinstance(words, list | tuple) or not all(isinstance(w, str) for w in words):
        raise ValueError(f"{value!r} is no command; give a line such as 'ssh gpu-box napari-msunet worker'")
    if not words or not words[0].strip():
        raise ValueError("the command is empty; give a line such as 'ssh gpu-box napari-msunet worker'")
    return tuple(words)


def _split_line(line: str) -> list[str]:
    if os.name != "nt":
        return shlex.split(line)
    # on Windows a backslash is part of a path, not an escape
    return [word.strip('"') for word in shlex.split(line, posix=False)]


class Settings(BaseModel):
    """The settings of a person.

    Attributes
    ----------
    worker : tuple of str, optional
        The command that starts the worker process; None: this Python on this machine.
    path_map : tuple of (here, there)
        Folders of this computer and their names on the worker's machine; where several fit, the longest counts.
    recent : tuple of str
        Folders of the projects that were open last, the newest first.
    """

    model_config = ConfigDict(frozen=True, extra="allow")  # settings that a newer version has written are kept

    worker: tuple[str, ...] | None = None
    path_map: tuple[tuple[str, str], ...] = ()
    recent: tuple[str, ...] = ()

    @field_validator("worker", mode="before")
    @classmethod
    def _words(cls, value: object) -> tuple[str, ...] | None:
        return None if value is None else split_command(value)

    @field_validator("path_map")
    @classmethod
    def _folders(cls, pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for pair in pairs:
            for folder in pair:
                if not (PurePosixPath(folder).is_absolute() or PureWindowsPath(folder).is_absolute()):
                    raise ValueError(f"{folder!r} in the path map is no whole path; give one such as /data/slides")
        return pairs


def settings_file() -> Path:
    """The path of the settings file."""
    return Path(platformdirs.user_config_path("napari-msunet", appauthor=False)) / "settings.json"


def load_settings() -> Settings:
    """The settings; the defaults where there is no file.

    Raises
    ------
    MsunetError
        If the file cannot be used.
    """
    path = settings_file()
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise input_error(f"The settings {path}", error, "check its permissions", MsunetError) from error
    try:
        return Settings.model_validate_json(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ").rstrip(".")
        raise MsunetError(f"The settings {path} cannot be used: {reason}. Correct or remove the file.") from error


def save_settings(settings: Settings) -> Path:
    """Write the settings, whole or not at all, and give the file.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    path = settings_file()
    write_text(path, settings.model_dump_json(indent=1), parents=True)
    return path


def default_worker() -> tuple[str, ...]:
    """The command of a worker on this machine: this Python."""
    # -P: a file in the working folder must not be imported in place of an installed module
    return (sys.executable, "-P", "-m", "napari_msunet", "worker")


def worker_command() -> tuple[str, ...]:
    """The command that starts the worker: from the environment, else from the settings, else with this Python.

    Raises
    ------
    MsunetError
        If the command cannot be used.
    """
    value = os.environ.get(WORKER_VARIABLE, "")
    if not value.strip():
        return load_settings().worker or default_worker()
    try:
        return split_command(value)
    except ValueError as error:
        raise MsunetError(f"The environment variable {WORKER_VARIABLE} cannot be used: {error}.") from error
