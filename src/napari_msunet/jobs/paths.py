"""The paths of a job on the worker's machine, where the same files have other names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from napari_msunet.events import Event, Message, Result, event_of


class PathMap:
    """Prefixes of paths on this machine and on the worker's; where several fit, the longest counts.

    Parameters
    ----------
    pairs : sequence of (here, there)
        Absolute folders, such as ``("/data/slides", "/mnt/slides")``. Without any, all paths are the same on both
        sides.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        plain = [(_plain(here), _plain(there)) for here, there in pairs]
        self._pairs = tuple(sorted(plain, key=lambda pair: -len(pair[0])))
        self._back = {there: here for here, there in plain}
        ordered = sorted(self._back, key=len, reverse=True)
        edge = r"(?=[/\\'\"\s,:;)]|\.?$)"
        self._there = re.compile(rf"(?<![\w/\\.-])({'|'.join(map(re.escape, ordered))}){edge}") if ordered else None

    def there(self, path: Path) -> str:
        """The name of a path on the worker's machine."""
        name = path.absolute().as_posix()
        for here, there in self._pairs:
            if name == here or name.startswith(here.rstrip("/") + "/"):
                rest = name[len(here) :].lstrip("/")
                mark = "\\" if "\\" in there and "/" not in there else "/"
                return there.rstrip("/\\") + mark + rest.replace("/", mark) if rest else there
        return name

    def here(self, text: str) -> str:
        """A text of the worker, with its paths as on this machine."""
        return text if self._there is None else self._there.sub(lambda found: self._back[found.group(1)], text)

    # ------------------------------------------------------------------------------------------------------- requests

    def request(self, request: dict[str, Any]) -> dict[str, Any]:
        """A request as it is sent: with the worker's paths, and with the paths that must exist there and their names
        here."""
        out = dict(request)
        kind = next((name for name in ("answer", "live") if name in request), "run")
        if isinstance(job := request.get(kind), BaseModel):
            out[kind] = self._mapped(job.model_dump(mode="json"), job)
            out["expected"] = self._seen(list(_paths(job)))
        elif isinstance(asked := request.get("inspect"), dict) and isinstance(asked.get("path"), str):
            path = Path(asked["path"])
            out["inspect"] = {**asked, "path": self.there(path)}
            out["expected"] = self._seen([path])
        return out

    def _mapped(self, plain: Any, value: Any) -> Any:
        """`plain` (the JSON of `value`) with the worker's paths."""
        if isinstance(value, Path):
            return self.there(value)
        if isinstance(value, BaseModel):
            return {name: self._mapped(inner, getattr(value, name)) for name, inner in plain.items()}
        if isinstance(value, dict):
            return {name: self._mapped(plain[name], inner) for name, inner in value.items() if name in plain}
        if isinstance(value, list | tuple):
            return [self._mapped(a, b) for a, b in zip(plain, value, strict=True)]
        return plain

    def _seen(self, paths: Sequence[Path]) -> dict[str, str]:
        """For each path the part that exists here (itself, or the nearest folder above): `{name there: name here}`."""
        found = {}
        for path in paths:
            whole = path.absolute()
            nearest = next((part for part in (whole, *whole.parents) if os.path.exists(part)), None)
            if nearest is not None and nearest != nearest.parent:
                found[self.there(nearest)] = str(nearest)
        return found

    # -------------------------------------------------------------------------------------------------------- answers

    def event(self, values: dict[str, Any]) -> list[Event]:
        """An event with the paths of this machine, and a warning where a file that was written is not visible here."""
        if values.get("event") not in ("message", "result"):
            return [event_of(values)]
        event = event_of(self._texts(values))
        missing = [p for p in event.files.values() if not os.path.exists(p)] if isinstance(event, Result) else []
        if not missing:
            return [event]
        text = (
            f"The worker has written {missing[0]}, but nothing is there on this computer; write to a folder that both "
            "see, or correct the path map in the worker's settings."
        )
        return [Message(level="warning", text=text), event]

    def _texts(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.here(value)
        if isinstance(value, dict):
            return {name: self._texts(inner) for name, inner in value.items()}
        return [self._texts(inner) for inner in value] if isinstance(value, list) else value


def missing_here(expected: dict[str, str]) -> str | None:
    """The sentence about the first path that the client's machine has and this one lacks; called by the worker."""
    for there, here in expected.items():
        if not os.path.exists(there):
            import socket

            named = "" if here == there else f" ({there} there)"
            return (
                f"{here} is on your computer, but the worker on {socket.gethostname()} does not see it{named}; put it "
                "where both see it, or correct the path map in the worker's settings."
            )
    return None


def _paths(value: Any) -> Iterator[Path]:
    """All paths in a job."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _paths(getattr(value, name))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _paths(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _paths(inner)


def _plain(prefix: str) -> str:
    return prefix.rstrip("/\\") or prefix
