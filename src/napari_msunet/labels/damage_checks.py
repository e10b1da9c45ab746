"""Looking for corrupt chunks before anything is made of a store or a run."""

from __future__ import annotations

from collections.abc import Sequence

from napari_msunet.config import Damaged
from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels.damage import AGAIN, settle_damage, told
from napari_msunet.labels.run_keeping import RunKeeping
from napari_msunet.labels.run_view import RunView
from napari_msunet.labels.runs import Run
from napari_msunet.labels.view import LabelView


def check_store(
    store: LabelView,
    damaged: Damaged = "refuse",
    planes: Sequence[str] = ("labels",),
    window: Window | None = None,
) -> str | None:
    """Look at all chunks that will be read, before anything is made of them.

    Parameters
    ----------
    store : LabelView
    damaged : "refuse" or "skip"
    planes : sequence of str
        "labels", "edited".
    window : Window, optional
        In level-0 pixels of the store; None: all.

    Returns
    -------
    str or None
        What is left out, in a sentence; None: all is whole.

    Raises
    ------
    StoreError
        If something is damaged, which the message names, and `damaged` is "refuse".
    """
    found = store.find_damage(planes, window)
    return settle_damage(told(found, store.path.name, store.shape), damaged) if found else None


def check_run(
    run: RunView, damaged: Damaged = "refuse", outputs: Sequence[str] | None = None, window: Window | None = None
) -> str | None:
    """The same of outputs of a run; None: all that it has."""
    found = run.find_damage(outputs, window)
    if not found:
        return None
    name = f"{run.path.parent.parent.name} (its run {run.key})"
    return settle_damage(told(found, name, run.info.shape), damaged, AGAIN)


def sound_runs(store: RunKeeping, damaged: Damaged = "refuse") -> list[Run]:
    """All runs of a store, where the newest is asked for: one that cannot be opened may be the one that is meant.

    Raises
    ------
    StoreError
        If one is damaged, and `damaged` is "refuse".
    """
    runs = store.runs
    if damaged == "refuse" and store.unreadable_runs:
        raise StoreError(
            f'{store.unreadable_runs[0].rstrip(".")}; or name another run, or go on without it (damaged="skip").'
        )
    return runs
