"""The Export step: labels for other programs, measurements, and the model file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QComboBox, QFileDialog, QGridLayout, QHBoxLayout, QLabel, QPushButton

from napari_msunet._io import aside
from napari_msunet.annotation.measure_tables import ENDINGS
from napari_msunet.config import MeasureJob
from napari_msunet.errors import MsunetError
from napari_msunet.events import Result
from napari_msunet.geometry import Region
from napari_msunet.labels import open_labels
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.job_box import JobBox
from napari_msunet.widgets.dock.python_lines import job_lines
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.forms import Fold, Form
from napari_msunet.widgets.objects.class_numbers import NumbersBox
from napari_msunet.widgets.objects.positive_cells import PositiveCells, density_layers, read_density
from napari_msunet.widgets.placement import visible_region
from napari_msunet.widgets.prediction.models import model_name
from napari_msunet.widgets.state import changed
from napari_msunet.widgets.steps.step import Step

if TYPE_CHECKING:
    from napari_msunet.config import ExportJob, ExportModelJob
    from napari_msunet.widgets.jobs import JobHandle, Jobs
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import State
FORMATS = {
    ".geojson": ("GeoJSON for QuPath", "An annotation for each object, in pixels of the slide; QuPath opens it."),
    ".json": ("COCO", "The instances of COCO, in pixels of the slide, for programs that learn from them."),
    ".xml": ("XML for ASAP", "A polygon for each object, in pixels of the slide; ASAP opens it."),
    ".ome.tif": ("OME-TIFF", "A tiled pyramid of class numbers, for ImageJ, QuPath and others."),
    ".ome.zarr": ("OME-Zarr", "A plain copy of the labels for any reader of OME-Zarr, without the history of edits."),
    ".png": ("PNG of the view", "Class numbers of what the window shows now, in the classes' colours."),
}


MODELS = {
    ".safetensors": "Model of napari-msunet",
    ".onnx": "ONNX",
    ".pt2": "torch.export",
    ".zip": "bioimage.io package",
}


class ExportStep(Step):
    """Writes the labels of the active slide to files."""

    name = "export"
    title = "Export"
    purpose = "Files for other programs: the labels, what is measured on them, and the model."

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        super().__init__(state, jobs, layers)
        self.needed = self.note()
        self.format = QComboBox()
        for ending, (name, tip) in FORMATS.items():
            self.format.addItem(f"{name} ({ending})", ending)
            self.format.setItemData(self.format.count() - 1, tip, 3)  # Qt's ToolTipRole
        self.format.currentIndexChanged.connect(self._describe)
        self.about = self.note()
        self.write = QPushButton("Export…")
        self.write.setObjectName("primary")
        self.write.setToolTip("Asks for the file, then writes it.")
        self.write.clicked.connect(show_errors(lambda *_: self._choose_and_export()))
        self.numbers = NumbersBox(self.viewer.theme)
        self.measure_button = QPushButton("Measures…")
        self.measure_button.setToolTip(
            "Tables of classes and objects, as CSV, Parquet or GeoJSON: area, shape, stain, place and neighbours."
        )
        self.measure_button.clicked.connect(show_errors(lambda *_: self._choose_and_measure()))
        self.options = Form(state.measure_options, folded="More measures")
        self.options.valueChanged.connect(state.set_measure_options)
        self.measured = Fold("What is measured", "Stain, positive cells, neighbours, densities, regions.")
        self.measured.inside.addWidget(self.options)
        self.positive = PositiveCells(self.viewer)
        self.positive.thresholds_changed.connect(self._thresholds)
        self.density_button = QPushButton("Show density and hotspots")
        self.density_button.setToolTip("Adds the density map and the hotspots of the last measurement as layers.")
        self.density_button.clicked.connect(show_errors(lambda *_: self._show_density()))
        self.density_button.hide()
        self.model_button = QPushButton("Model…")
        self.model_button.setToolTip(
            "Copies the model file; or writes the model for other programs, as ONNX, torch.export or bioimage.io "
            "package."
        )
        self.model_button.clicked.connect(show_errors(lambda *_: self._choose_and_copy()))
        self.box = JobBox(state, jobs, "export")
        self.box.ended.connect(self._ended)
        self.written = QLabel()
        self.written.setWordWrap(True)
        self.open_folder = QPushButton("Open its folder")
        self.open_folder.setToolTip("Shows the file in the file manager.")
        self.open_folder.clicked.connect(self._open_folder)
        self.last: Path | None = None
        self._last_job: ExportJob | ExportModelJob | MeasureJob | None = None
        self._result: Result | None = None
        self._shown = state.active
        self._background = Background("msunet-copy", self)
        self._lay_out()
        self._describe()
        self.viewer.events.theme.connect(self._restyle)

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setSpacing(6)
        label = QLabel("Format")
        label.setBuddy(self.format)
        grid.addWidget(label, 0, 0)
        grid.addWidget(self.format, 0, 1)
        grid.setColumnStretch(1, 1)
        row = QHBoxLayout()
        row.addWidget(self.measure_button)
        row.addWidget(self.model_button)
        self.body.addWidget(self.needed)
        self.body.addWidget(self.numbers)
        self.body.addLayout(grid)
        self.body.addWidget(self.about)
        self.body.addWidget(self.write)
        self.body.addWidget(self.measured)
        self.body.addLayout(row)
        for widget in (self.box, self.written, self.open_folder, self.density_button, self.positive):
            self.body.addWidget(widget)
        self.written.hide()
        self.open_folder.hide()

    # -------------------------------------------------------------------------------------------------------- showing

    def refresh(self) -> None:
        missing = self.missing()
        self.needed.setText(missing or "")
        self.needed.setVisible(missing is not None)
        ready = missing is None and resolve.blocked_by(self.state, "export") is None
        self.write.setEnabled(ready)
        self.measure_button.setEnabled(ready)
        active = self.state.active
        if self.options.value() != self.state.measure_options:
            self.options.setValue(self.state.measure_options)
        if self._shown is not active:  # of another slide
            self._shown, self._result = active, None
            self.positive.forget()
            self.density_button.hide()
        layer = None if missing or active is None else self.layers.of_store(active.labels)
        self.numbers.set_labels(active, layer)
        path = self.state.model_path
        self.model_button.setEnabled(path is not None and path.is_file())

    def _restyle(self, event: object = None) -> None:
        self.numbers.set_theme(self.viewer.theme)

    def summary(self) -> str:
        return self.last.name if self.last else ""

    def _describe(self, *_: object) -> None:
        self.about.setText(FORMATS[self.format.currentData()][1])

    def _open_folder(self) -> None:
        if self.last is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.last.parent)))

    # ------------------------------------------------------------------------------------------------------- exporting

    def _suggested(self, ending: str, name: str | None = None) -> str:
        record = self.state.active
        name = name or (record.name if record else "labels")
        folder = record.path.parent if record else Path.home()
        return str(folder / f"{name}{ending}")

    def _ask(self, title: str, ending: str, kind: str, name: str | None = None) -> Path | None:
        """Ask for the file to write, with its ending; None if none was chosen."""
        chosen, _kind = QFileDialog.getSaveFileName(self, title, self._suggested(ending, name), f"{kind} (*{ending})")
        if not chosen:
            return None
        return Path(chosen if chosen.lower().endswith(ending) else f"{chosen}{ending}")

    def _choose_and_export(self) -> None:
        ending = self.format.currentData()
        path = self._ask("Export the labels", ending, FORMATS[ending][0])
        if path is not None:
            self.export(path)

    def _choose_and_measure(self) -> None:
        kinds = "CSV (*.csv);;Parquet (*.parquet);;GeoJSON with measurements (*.geojson)"
        chosen, kind = QFileDialog.getSaveFileName(self, "Measure the labels", self._suggested(".csv"), kinds)
        if chosen:
            known = Path(chosen).suffix.lower() in ENDINGS
            ending = next((e for e in ENDINGS if f"*{e})" in kind), ".csv")
            self.measure(chosen if known else f"{chosen}{ending}")

    def _choose_and_copy(self) -> None:
        source = self.state.model_path
        name = None if source is None else re.sub(r"[^\w .-]+", " ", model_name(source, self.state.model_names))
        kinds = ";;".join(f"{name} (*{ending})" for ending, name in MODELS.items())
        suggested = self._suggested(".safetensors", name)
        chosen, kind = QFileDialog.getSaveFileName(self, "Write the model", suggested, kinds)
        if not chosen:
            return
        known = Path(chosen).suffix.lower() in MODELS
        path = Path(chosen if known else chosen + next((e for e in MODELS if f"*{e})" in kind), ".safetensors"))
        if path.suffix.lower() == ".safetensors":
            self.copy_model(path)
        else:
            self.export_model(path)

    def export_model(self, path: str | Path) -> JobHandle:
        """Write the current model for other programs (.onnx, .pt2, bioimage.io .zip); returns at once."""
        job = resolve.export_model_job(self.state, Path(path).absolute())
        self.written.hide()
        self.open_folder.hide()
        handle = self.box.start(job, f"Writing {job.out.name}.")
        self._last_job = job
        return handle

    def export(self, path: str | Path, region: Region | None = None) -> JobHandle:
        """Write the labels of the active slide to a file, whose ending chooses the format; returns at once.

        Parameters
        ----------
        path : path
            ``.geojson``, ``.json`` (COCO), ``.xml`` (ASAP), ``.ome.tif``, ``.ome.zarr`` or ``.png``.
        region : Region, optional
            The region in level-0 pixels of the labels; None: all, or for a PNG the view.
        """
        path = Path(path).absolute()
        if region is None and path.suffix.lower() == ".png":
            region = self._view()
        job = resolve.export_job(self.state, path, region=region)
        return self._start(job, f"Writing {path.name}.")

    def measure(self, path: str | Path) -> JobHandle:
        """Measure the labels of the active slide into .csv, .parquet or .geojson; returns at once."""
        job = resolve.measure_job(self.state, Path(path).absolute())
        return self._start(job, "Measuring.")

    def _view(self) -> Region:
        """What is in view, in level-0 pixels of the labels."""
        if (missing := self.missing()) is not None:
            raise MsunetError(missing)
        record = self.state.active
        seen = visible_region(self.viewer, self.layers.need_slide(record))
        y, x = open_labels(record.labels).pixel
        return Region(seen.y / y, seen.x / x, seen.height / y, seen.width / x)

    def _start(self, job: ExportJob | MeasureJob, text: str) -> JobHandle:
        self.written.hide()
        self.open_folder.hide()
        store = open_labels(job.labels)
        # Strokes are safe in the journal, but the worker reads the chunks, so they are flushed first.
        handle = self.box.start(job, text, before=store.flush)
        self._last_job = job
        return handle

    def _ended(self, outcome: str, result: Result | None) -> None:
        if outcome != "done" or result is None:
            return
        files = [Path(path) for path in result.files.values()]
        objects = result.values.get("objects")
        found = f" ({objects:,} objects)" if objects is not None else ""
        self._wrote(files, found)
        job = self._last_job
        if isinstance(job, MeasureJob):
            self._show_measured(job, result)

    def _show_measured(self, job: MeasureJob, result: Result) -> None:
        """Offer what a measurement can show in the view."""
        self._result = result
        self.density_button.setVisible("density" in result.files)
        record = self.state.active
        if job.stain != "haematoxylin-dab" or record is None or record.labels != job.labels:
            self.positive.forget()
            return
        self.positive.load(job, Path(result.files["objects"]), self.layers.need_slide(record))

    def _thresholds(self, values: tuple[float, float, float]) -> None:
        """Keep the thresholds for the next measurement."""
        self.state.set_measure_options(changed(self.state.measure_options, thresholds=values))
        self.options.setValue(self.state.measure_options)

    def _show_density(self) -> None:
        result, record = self._result, self.state.active
        if result is None or record is None:
            return
        layer = self.layers.need_slide(record)
        self._background.run(
            lambda: read_density(result.files), lambda found: density_layers(self.viewer, layer, result, found)
        )

    def _wrote(self, files: list[Path], found: str = "") -> None:
        self.last = files[0]
        self.state.exported.extend(files)
        names = " and ".join(path.name for path in files)
        self.written.setText(f"{names}{found} in {files[0].parent}")
        self.written.show()
        self.open_folder.show()
        self.state.emit("results")

    def copy_model(self, path: str | Path) -> None:
        """Copy the current model file to `path`; returns at once."""
        source, target = self.state.model_path, Path(path).absolute()
        if source is None or not source.is_file():
            raise MsunetError("There is no model yet: train one, or load a model file.")
        if target == source:
            raise MsunetError(f"{target} is the model itself; choose another name.")

        def copy() -> Path:
            with aside(target) as copied:
                shutil.copyfile(source, copied)
            return target

        self._background.run(copy, lambda where: self._wrote([where]))

    def as_python(self) -> str:
        """The last export as Python; before the first one, the export of a GeoJSON."""
        job = self._last_job or resolve.export_job(self.state, Path(self._suggested(self.format.currentData())))
        return job_lines(job)

    def closing(self) -> None:
        self.box.closing()
        self.numbers.closing()
        self.positive.closing()
        self.viewer.events.theme.disconnect(self._restyle)
        self._background.close()
