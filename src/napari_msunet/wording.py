"""Translating sentences for the place where they are shown: to flags on the command line, to labels in the dock.

Other packages know neither. Their messages use the words of Python, such as ``device="cpu"``; the command line and the
dock translate these here, and Python shows them unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_VALUE = r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}|\"[^\"]*\"|'[^']*'|\.\.\.|-?\d[\w.]*|True|False|None"
_ARGUMENT = re.compile(rf"(?<![\w\"'./?&-])(?:[\w.]+\.)?([a-z][a-z_]*)=({_VALUE})")
_CALL = re.compile(rf"\b(?:\w+\.)*\w+\((?:path, )?([a-z][a-z_]*=(?:{_VALUE}))\)")
_ANYTHING = ("...", "(...)")
_IN_SOURCE = ("set", "edited_only", "part", "suffix")
"""Fields without a flag of their own."""

WITHOUT_DAMAGED = "Go on without what is damaged"
"""The text of the dock's button under a job that has found damage."""

LABELS: Mapping[str, str] = {
    "set": "Which",
    "values": "Values",
    "mpp": "Pixel size",
    "device": "Device",
    "engine": "Engine",
    "margin": "Margin",
    "batch_size": "Batch",
    "own_grid": "On the finest scale's own grid",
}
"""Labels of the dock's fields that differ from the name of the field."""


def in_flags(sentence: str) -> str:
    """A sentence in the words of the command line: ``device="cpu"`` is ``--device cpu``."""

    def flag(name: str, value: str) -> str:
        if name in _IN_SOURCE:
            return f'"{name}" in a --source'
        if value == "False":
            return f"no --{name.replace('_', '-')}"
        shown = ",".join(_items(value)) if value not in _ANYTHING and value != "True" else ""
        shown = f'"{shown}"' if " " in shown else shown
        return f"--{name.replace('_', '-')} {shown}".rstrip()

    return _turned(sentence, flag)


def in_labels(sentence: str) -> str:
    """A sentence in the words of the dock: ``device="cpu"`` is ``Device: cpu``."""

    def label(name: str, value: str) -> str:
        items = _items(value)
        if name == "outputs":
            ticked = [f'"{item.capitalize()}"' for item in items if item != "labels"]
            return f"{' and '.join(ticked) or 'labels only'} ticked"
        if name == "damaged":
            return f'the button "{WITHOUT_DAMAGED}"'
        shown = LABELS.get(name) or name.replace("_", " ").capitalize()
        return f"the field {shown}" if value in _ANYTHING else f"{shown}: {', '.join(items)}"

    return _turned(sentence, label)


def _turned(sentence: str, words: Callable[[str, str], str]) -> str:
    plain = _CALL.sub(r"\1", sentence)
    return _ARGUMENT.sub(lambda found: words(found[1], found[2]), plain)


def _items(value: str) -> list[str]:
    """The items of a literal, without quotes: ``("labels", "entropy")`` is labels and entropy."""
    inner = value[1:-1] if value[:1] in "([{" else value
    inner = inner.replace(": ", "=") if value.startswith("{") else inner
    return [item.strip().replace('"', "").replace("'", "") for item in inner.split(",") if item.strip()]


def duration(seconds: float) -> str:
    """A time in words, such as ``"4 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def gigabytes(size: float) -> str:
    """Bytes in words: "1.5 GB"."""
    return f"{size / 1e9:.1f} GB"
