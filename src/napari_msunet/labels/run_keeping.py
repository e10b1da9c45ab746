"""The runs of a label store: each prediction as the machine made it, and merging them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from napari_msunet.errors import StoreError
from napari_msunet.geometry import Window
from napari_msunet.labels import checks
from napari_msunet.labels.checkpoint import load_checkpoint
from napari_msunet.labels.class_editing import ClassEditing
from napari_msunet.labels.merge import value_table
from napari_msunet.labels.runs import Run

if TYPE_CHECKING:
    import dask.array as da


class RunKeeping(ClassEditing):
    """The runs of a label store; `LabelStore` adds what people write."""

    @property
    def runs(self) -> list[Run]:
        """All runs, by key; one that is damaged is left out, and `messages` says so."""
        folder = self.path / "runs"
        keys = sorted(path.parent.name for path in folder.glob("*/run.json") if not path.parent.name.startswith("."))
        found = []
        self.unreadable_runs.clear()
        for key in keys:
            try:
                found.append(self.run(key))
            except StoreError as error:
                self.unreadable_runs.append(str(error))
                if str(error) not in self.messages:
                    self.messages.append(str(error))
        return found

    def create_run(self, key: str, description: dict[str, Any], classes: Sequence[str], outputs: dict[str, str]) -> Run:
        """Make an empty run, or give the one that has this key. Needs no lock.

        Parameters
        ----------
        key : str
            Names the folder: a hash of what makes the prediction what it is.
        description : dict
            Plain JSON values to keep with it.
        classes : sequence of str
            Names of the run's classes 1, 2, ...
        outputs : dict
            ``{"labels": "uint8", "probabilities": "float16"}``, the latter if wanted, or "float32", "uint8".
        """
        Run.create(self.path / "runs", key, self.info, description, classes, outputs)
        return self.run(key)

    def merge(self, run: Run, windows: Iterable[Window] | None = None) -> None:
        """Show a run's labels wherever nobody edited.

        This is no stroke and cannot be undone; merging an older run again takes it back.

        Parameters
        ----------
        run : Run
            Of this store; its classes are matched by name, new ones appended.
        windows : iterable of Window, optional
            Parts of the run's finished blocks; None: all of them.

        Raises
        ------
        StoreError
            If the run has another shape or mpp, or belongs to another store.
        """
        checks.fits(self._info, self.path, run)
        done = list(run.done.values())
        parts = done if windows is None else [w.intersection(block) for w in windows for block in done]
        parts = [part for part in parts if not part.empty]
        if not parts:
            return
        if windows is None:
            run.damaged(look=True)  # chunks that are gone say nothing, as those that do not decode
        session = self._begin()
        if not self._info.instances:
            self._append_classes(run.classes)
        session.merge(run, value_table(run, self._info.classes, self._info.instances), parts)
        if windows is None:
            session.flush()

    @property
    def probabilities(self) -> da.Array:
        """Probabilities of the newest merged run that kept them: lazy, `y x K+1`, background first."""
        merged = [str(note["run"]) for note in load_checkpoint(self.path)["merges"]]
        if self._session is not None:
            merged = [merge.key for merge in self._session.merges.newest_first()][::-1]
        for key in reversed(merged):
            if "probabilities" in self.run(key).outputs:
                return self.run(key).probabilities
        raise StoreError(
            f'{self.path} shows no run that kept probabilities; predict with outputs=("labels", "probabilities").'
        )
