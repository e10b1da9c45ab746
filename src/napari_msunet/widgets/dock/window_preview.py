"""What each scale will see of the training windows, before anything is trained: a picture that the worker makes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QDialog, QLabel, QPushButton, QScrollArea, QVBoxLayout

from napari_msunet.config import PreviewAugmentationJob, TrainJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import Result
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.telling import tell_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_msunet.widgets.dock.dock import MultiScaleUNet

TEXT, BUSY = "See the windows…", "Reading windows…"


class WindowPreview(QPushButton):
    """A button: asks the worker for some windows of a training, and shows them in a window of their own.

    Attributes
    ----------
    shown : Signal()
        The picture is there.
    dialog : QDialog, optional
        The last one.
    """

    shown = Signal()

    def __init__(self, dock: MultiScaleUNet) -> None:
        super().__init__(TEXT)
        self.setToolTip(
            "Shows some training windows as each scale will see them, as they are and after the random changes set "
            "under Advanced. Nothing is trained."
        )
        self.dock = dock
        self.dialog: QDialog | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="msunet-windows-")
        self._handle: Any = None
        self._connected = False
        self._count = 0
        self._flushing = Background("msunet-windows", self)

    @property
    def busy(self) -> bool:
        """Whether windows are being read."""
        return self.text() == BUSY

    def ask(self, job: TrainJob, flush: Callable[[], None]) -> None:
        """Ask for the windows of a training; `flush` runs first, in a thread."""
        if self.busy or self.dock.closed:
            return
        if not self._connected:
            self.dock.runner.happened.connect(self._happened)
            self.dock.runner.ended.connect(self._ended)
            self._connected = True
        self.setText(BUSY)
        self.setEnabled(False)
        self._count += 1
        out = Path(self._folder.name) / str(self._count)
        wanted = PreviewAugmentationJob(training=job, count=3, variants=2, out=out)
        self._flushing.run(flush, lambda _: self._send(wanted), self._failed)

    def _send(self, job: PreviewAugmentationJob) -> None:
        self._handle = self.dock.runner.submit(job)

    def _failed(self, error: BaseException) -> None:
        self._rest()
        tell_error(str(error))

    def _rest(self) -> None:
        self._handle = None
        self.setText(TEXT)
        self.setEnabled(True)

    def _happened(self, handle: Any, event: Any) -> None:
        if handle is self._handle and isinstance(event, Result):
            self._show(next(Path(p) for p in event.files.values() if str(p).endswith(".png")))

    def _ended(self, handle: Any, outcome: str, text: str | None) -> None:
        if handle is not self._handle:
            return
        if outcome == "error":
            self._failed(MsunetError(text or "The windows could not be read."))
        else:
            self._rest()

    def _show(self, picture: Path) -> None:
        """Open the picture."""
        pixmap = QPixmap(str(picture))
        dialog = QDialog(self.window())
        dialog.setWindowTitle("What each scale will see")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        label = QLabel()
        label.setPixmap(pixmap)
        label.setAccessibleName("Training windows")
        area = QScrollArea()
        area.setWidget(label)
        column = QVBoxLayout(dialog)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(area)
        dialog.resize(min(pixmap.width() + 24, 1100), min(pixmap.height() + 24, 720))
        dialog.destroyed.connect(self._forget)
        dialog.show()
        self.dialog = dialog
        self.shown.emit()

    def _forget(self, *_: Any) -> None:
        self.dialog = None

    def closing(self) -> None:
        """Listen no longer; the picture goes."""
        self._flushing.close()
        if self._connected:
            self.dock.runner.happened.disconnect(self._happened)
            self.dock.runner.ended.disconnect(self._ended)
            self._connected = False
        if self.dialog is not None:
            self.dialog.close()
        self._folder.cleanup()
