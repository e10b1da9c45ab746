"""Config objects and jobs as Python code, for the button "Copy as Python"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

import napari_msunet as ms
from napari_msunet.geometry import Region

if TYPE_CHECKING:
    from collections.abc import Mapping
WIDTH = 100
VERBS = {
    "train": "train",
    "tune": "tune",
    "experiment": "experiment",
    "context": "context_study",
    "crossval": "cross_validate",
    "evaluate": "evaluate",
    "measure": "measure",
    "export": "export",
}
"""The jobs that have a function of their own; the others are run by `run`."""


def literal(value: object, indent: int = 0) -> str:
    """The expression of a value: paths as text, objects as calls with the arguments that differ from the defaults."""
    if isinstance(value, BaseModel):
        return call(_name(value), _given(value), indent)
    if isinstance(value, Region):
        return call("ms.Region", {k: getattr(value, k) for k in ("y", "x", "height", "width")}, indent)
    if isinstance(value, Path):
        return literal(value.as_posix())
    if isinstance(value, tuple):
        return _sequence([literal(v, indent + 4) for v in value], indent)
    if isinstance(value, dict) and any(isinstance(part, BaseModel) for part in value.values()):
        parts = [f"{literal(key)}: {literal(part, indent + 4)}" for key, part in value.items()]
        inner = "".join(f"{' ' * (indent + 4)}{part},\n" for part in parts)
        return f"{{\n{inner}{' ' * indent}}}"
    # a JSON string is also a Python string, and has the double quotes that are usual in code
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def call(name: str, arguments: Mapping[str, object], indent: int = 0, positional: tuple[str, ...] = ()) -> str:
    """A call, on one line if it fits, else with one argument on each."""
    parts = [*positional, *(f"{key}={literal(value, indent + 4)}" for key, value in arguments.items())]
    flat = f"{name}({', '.join(parts)})"
    if len(flat) + indent <= WIDTH and "\n" not in flat:
        return flat
    inner = "".join(f"{' ' * (indent + 4)}{part},\n" for part in parts)
    return f"{name}(\n{inner}{' ' * indent})"


def job_lines(job: BaseModel) -> str:
    """The lines that make a job and run it."""
    verb = VERBS.get(job.job)  # type: ignore[attr-defined]
    made = f"job = {literal(job)}"
    if verb is not None:
        return lines(made, f"result = ms.{verb}(job, on_event=print)")
    return lines(made, "for event in ms.run(job):\n    print(event)")


def lines(*statements: str) -> str:
    """Statements below the imports that they need."""
    body = "\n".join(statements)
    head = ["import napari_msunet as ms"]
    needed = sorted(name for name in _config_names() if f"config.{name}(" in body)
    if needed:
        head.append("from napari_msunet import config")
    return "\n".join(head) + "\n\n" + body + "\n"


def _given(value: BaseModel) -> dict[str, object]:
    """The fields that differ from their defaults."""
    fields = type(value).model_fields
    return {
        name: content
        for name, content in value
        if fields[name].is_required() or content != fields[name].get_default(call_default_factory=True)
    }


def _name(value: BaseModel) -> str:
    name = type(value).__name__
    return f"ms.{name}" if name in ms.__all__ else f"config.{name}"


def _config_names() -> list[str]:
    from napari_msunet import config

    return [name for name in vars(config) if name[:1].isupper()]


def _sequence(parts: list[str], indent: int) -> str:
    flat = f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    if len(flat) + indent <= WIDTH and "\n" not in flat:
        return flat
    inner = "".join(f"{' ' * (indent + 4)}{part},\n" for part in parts)
    return f"(\n{inner}{' ' * indent})"
