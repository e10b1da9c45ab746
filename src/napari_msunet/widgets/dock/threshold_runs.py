"""Which run of a label store has probabilities whose thresholds can be changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_msunet.labels import LabelStore, Run, open_labels
from napari_msunet.labels.metadata import Colour, default_colours


@dataclass(frozen=True)
class Kept:
    """A complete run with probabilities, of a store, with the colours of its classes."""

    store: LabelStore
    run: Run
    colours: tuple[Colour, ...]

    @property
    def path(self) -> Path:
        """Of the store."""
        return self.store.path


def find_kept(
    path: Path, before: list[tuple[int, str]] | None = None
) -> tuple[list[tuple[int, str]], Kept | None] | None:
    """Look for the newest prediction of a store; runs that were made from another one's probabilities do not count.

    Parameters
    ----------
    path : Path
        Of the store.
    before : optional
        What was given the last time: nothing is opened where nothing changed.

    Returns
    -------
    tuple or None
        What to give the next time, and the newest run, None where it kept no probabilities or is not complete.
        None in all where nothing changed.
    """
    notes = sorted((note.stat().st_mtime_ns, note.parent.name) for note in path.glob("runs/[!.]*/run.json"))
    if notes == before:
        return None
    store = open_labels(path)
    for _, key in reversed(notes):
        run = store.run(key)
        if run.description.get("derived"):
            continue
        if "probabilities" in run.outputs and run.complete:
            known = dict(zip(store.classes, store.colours, strict=True))
            spare = default_colours(len(run.classes))
            return notes, Kept(store, run, tuple(known.get(c, spare[n]) for n, c in enumerate(run.classes)))
        break
    return notes, None
