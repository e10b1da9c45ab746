"""The Model step: the model to train, or one from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from qtpy.QtWidgets import QButtonGroup, QFileDialog, QHBoxLayout, QPushButton, QRadioButton, QToolButton

from napari_msunet.config import ClassicalConfig, ModelConfig, explain
from napari_msunet.data.recipe import WINDOW
from napari_msunet.errors import MsunetError
from napari_msunet.widgets import resolve
from napari_msunet.widgets.dock.background import Background
from napari_msunet.widgets.dock.model_card import model_config
from napari_msunet.widgets.dock.model_form import ModelForm
from napari_msunet.widgets.dock.python_lines import lines, literal
from napari_msunet.widgets.dock.show_errors import show_errors
from napari_msunet.widgets.forms import Form
from napari_msunet.widgets.prediction.models import ChosenModel
from napari_msunet.widgets.state import AUTOMATIC, AUTOMATIC_SENTENCE, PRESETS, RESOLUTIONS, Preset
from napari_msunet.widgets.steps.step import Step
from napari_msunet.wording import in_labels

if TYPE_CHECKING:
    from napari_msunet.widgets.fields_of_view import FieldsOfView
    from napari_msunet.widgets.jobs import Jobs
    from napari_msunet.widgets.layers import Layers
    from napari_msunet.widgets.state import State


OWN_CHOICE = "None of these: your own choice."
"""Where the model is none of the presets."""

DRAWN = 3
"""Scales in the drawings of the fusions; of a model with others they would tell something wrong."""


class ModelStep(Step):
    """Edits presets, resolution, scales and fusion; shows what each scale sees; loads a model file."""

    name = "model"
    title = "Model"
    purpose = "How large the pixels are that the model looks at, at how many scales, and how these are combined."

    def __init__(self, state: State, jobs: Jobs, layers: Layers) -> None:
        super().__init__(state, jobs, layers)
        self._fields: FieldsOfView | None = None
        self._background = Background("msunet-model", self)
        self._made_of: dict[Path, ModelConfig] = {}
        self.chosen = ChosenModel(state)
        self.chosen.load_wanted.connect(show_errors(self._choose_model))
        self.body.addWidget(self.chosen)
        self.loaded = self.note()
        self.body.addWidget(self.loaded)
        self.body.addWidget(self.note("For the next training:"))
        self.presets = QButtonGroup(self)
        self._add_preset(AUTOMATIC, AUTOMATIC_SENTENCE, len(PRESETS), self.state.leave_model_open)
        for number, preset in enumerate(PRESETS):
            self._add_preset(preset.name, preset.sentence, number, lambda p=preset: self.use_preset(p))
        self.sentence = self.note()
        self.body.addWidget(self.sentence)
        self.classical = Form(ClassicalConfig())
        self.classical.valueChanged.connect(self.use_method)
        self.untrained = QPushButton("Use without training")
        self.untrained.setObjectName("primary")
        self.untrained.setToolTip(
            "Makes a model of this method at once, for the Predict step: a first annotation to correct."
        )
        self.untrained.clicked.connect(show_errors(lambda *_: self.use_untrained()))
        self.body.addWidget(self.classical)
        self.body.addWidget(self.untrained)
        self.form = ModelForm(self.state.model)
        self.form.valueChanged.connect(self.state.set_model)
        self.body.addWidget(self.form)
        self.suggestion = self.note()
        self.form.rows.insertRow(1, self._resolutions())
        self.form.rows.insertRow(2, self.suggestion)
        self.body.addLayout(self._buttons())

    def _add_preset(self, name: str, text: str, number: int, chosen: Callable[[], object]) -> None:
        """Add a choice; its sentence stands below all of them once it is chosen."""
        button = QRadioButton(name)
        button.setToolTip(text)
        button.clicked.connect(lambda *_: chosen())
        self.presets.addButton(button, number)
        self.body.addWidget(button)

    def _resolutions(self) -> QHBoxLayout:
        """A row of buttons with the usual resolutions for some kinds of objects."""
        row = QHBoxLayout()
        row.setSpacing(4)
        for what, mpp in RESOLUTIONS.items():
            chip = QToolButton()
            chip.setObjectName("chip")
            chip.setText(f"{what} {mpp:g}")
            chip.setToolTip(f"What is usual for {what.lower()}: sets the resolution to {mpp:g} µm/px.")
            chip.clicked.connect(lambda *_, chosen=mpp: self.use_resolution(chosen))
            row.addWidget(chip)
        row.addStretch()
        return row

    def _buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self.show_fields = QPushButton("Show what it sees")
        self.show_fields.setCheckable(True)
        self.show_fields.setToolTip(
            "Draws the field of view of each scale at the mouse, and shows what each network is given there."
        )
        self.show_fields.toggled.connect(show_errors(self.toggle_fields))
        row.addWidget(self.show_fields)
        return row

    # ------------------------------------------------------------------------------------------------ what buttons do

    def use_preset(self, preset: Preset) -> None:
        """Start from a preset, at the resolution that is set."""
        options = preset.trained(self.state.train_options)
        if options != self.state.train_options:
            self.state.set_train_options(options)
        config = preset.make(self.state.model.classes, self.state.model.mpp)
        self.set_model(config.model_copy(update={"channels": self.state.model.channels}))

    def use_resolution(self, mpp: float) -> None:
        """Let the model work at this many µm per pixel."""
        self.set_model(self.state.model.model_copy(update={"mpp": mpp, "pixel": 1.0}))

    def set_model(self, config: ModelConfig) -> None:
        """Choose the model to train; its classes become those of the table."""
        self.state.set_model(config)
        if config.classes != self.state.classes:
            self.state.set_classes(config.classes)
        self.refresh()

    def use_method(self, method: ClassicalConfig) -> None:
        """Choose the options of a classical method."""
        try:
            self.set_model(self.state.model.model_copy(update={"branch": method}))
        except ValidationError as error:  # the fields keep what was given, so that it can be put right
            self.classical.problem.setText(in_labels(str(explain(error, "This method"))))
            self.classical.problem.show()

    def use_untrained(self) -> None:
        """Make a model of the classical method, which then predicts; in the background, since torch may be loaded.

        Raises
        ------
        MsunetError
            If it is fitted to training images, so that it has to be trained.
        """
        config, branch = self.state.model, self.state.model.branch
        path = self.state.make_project().model_path(getattr(branch, "method", "model"))

        def make() -> Path:
            from napari_msunet.models import save_model
            from napari_msunet.models.compose import untrained_model

            return save_model(untrained_model(config), path)

        self._background.run(make, self._made)

    def _made(self, path: Path) -> None:
        self._made_of[path] = self.state.model
        self.state.use_model(path)

    def load_model(self, path: str | Path) -> ModelConfig:
        """Choose a model file that predicts; gives its config.

        Raises
        ------
        ModelError
            If the file is no model of napari-msunet.
        """
        where = Path(path).absolute()
        config = model_config(where)
        self.state.use_model(where)
        return config

    def toggle_fields(self, shown: bool) -> None:
        """Show the fields of view of all scales at the mouse, or hide them."""
        if not shown:
            if self._fields is not None:
                self._fields.hide()
            return
        layer = self.layers.slide(self.state.active)
        if layer is None:
            self._fields_visible(False)
            raise MsunetError(resolve.NO_SLIDE)
        from napari_msunet.widgets.fields_of_view import FieldsOfView

        if self._fields is None:
            self._fields = FieldsOfView(self.viewer, layer, self.state.model, self._window)
            self._fields.visibleChanged.connect(self._fields_visible)
        self._fields.set_layer(layer)
        self._fields.set_model(self.state.model, self._window)
        self._fields.show()

    @property
    def _window(self) -> int:
        """Side of the training window, where it is known, else the default."""
        return self.state.train_options.size or WINDOW

    def _fields_visible(self, visible: bool) -> None:
        """Update the button, also when the overlay disappears by itself, such as with its layer."""
        self.show_fields.blockSignals(True)
        self.show_fields.setChecked(visible)
        self.show_fields.blockSignals(False)

    @show_errors
    def _choose_model(self, *_: object) -> None:
        project = self.state.project
        start = str(project.folder if project else Path.home())
        chosen, _kind = QFileDialog.getOpenFileName(self, "Load a model", start, "Models (*.safetensors)")
        if chosen:
            self.load_model(chosen)

    # ----------------------------------------------------------------------------------------------------- what shows

    def summary(self) -> str:
        """The resolution and scales of the next training in a few words."""
        if not self.state.model_chosen:
            return "to train: automatic"
        config = self.state.model
        scales = ", ".join(str(ratio) for ratio in config.ratios)
        return f"to train: {config.resolution.short} · {scales}"

    def refresh(self) -> None:
        """Show the present model."""
        config = self.state.model
        if self.form.value() != config:
            self.form.blockSignals(True)
            self.form.setValue(config)
            self.form.blockSignals(False)
        size = self._window
        if self._fields is not None and (self._fields.config, self._fields.size) != (config, size):
            self._fields.set_model(config, size)
        automatic = not self.state.model_chosen
        self._show_method(None if automatic else config)
        self.form.setVisible(not automatic)
        self.form.picture.setVisible(len(config.ratios) == DRAWN)
        fitting = next((n for n, preset in enumerate(PRESETS) if preset.fits(config)), None)
        fitting = len(PRESETS) if automatic else fitting  # the number of the choice "automatic"
        self.presets.setExclusive(False)
        for button in self.presets.buttons():
            button.setChecked(self.presets.id(button) == fitting)
        self.presets.setExclusive(True)
        chosen = self.presets.checkedButton()
        self.sentence.setText(OWN_CHOICE if chosen is None else chosen.toolTip())
        self.suggestion.setText(self._resolution_words())
        self.suggestion.setVisible(bool(self.suggestion.text()))
        path = self.state.model_path
        self.chosen.refresh()
        self.loaded.setText("" if path is None else _loaded(path))
        self.loaded.setToolTip(str(path or ""))
        self.loaded.setVisible(path is not None)

    def _show_method(self, config: ModelConfig | None) -> None:
        """Show the options of a classical method, those that it has enabled; hide them for networks."""
        branch = None if config is None else config.branch
        for widget in (self.classical, self.untrained):
            widget.setVisible(isinstance(branch, ClassicalConfig))
        if not isinstance(branch, ClassicalConfig):
            return
        self.classical.setValue(branch)
        by_hand = branch.method == "threshold"
        self.untrained.setEnabled(branch.by_slide or by_hand)
        has = {"parts": branch.method in ("multiotsu", "kmeans"), "threshold": by_hand, "fit": not by_hand}
        for name, enabled in has.items():
            self.classical.editors[name].setEnabled(enabled)

    def _resolution_words(self) -> str:
        record = self.state.active
        if record is None or record.mpp is None or self.state.model.mpp is None:
            return ""
        own, mpp = record.mpp[0], self.state.model.mpp
        if mpp < own * 0.95:
            return f"Finer than the slide's {own:.3g}: nothing more to see there."
        return f"The slide has {own:.3g}."

    def as_python(self) -> str:
        """The lines that make the config and the network, or load the model."""
        made = [f"config = {literal(resolve.wanted_model(self.state))}"]
        if self.state.model_path in self._made_of:
            made = [f"config = {literal(self._made_of[self.state.model_path])}"]
            path = literal(self.state.model_path)
            return lines(
                *made, "model = ms.build_model(config)", f"ms.save_model(model, {path})", "print(model.config)"
            )
        if self.state.model_path is not None:
            return lines(*made, f"model = ms.load_model({literal(self.state.model_path)})", "print(model.config)")
        if not self.state.model_chosen:
            return lines(*made)
        return lines(*made, "model = ms.build_model(config)", "print(model.margin)")

    def closing(self) -> None:
        """Remove the overlay, and end the thread."""
        self._background.close()
        if self._fields is not None:
            self._fields.hide()
            self._fields = None


def _loaded(path: Path) -> str:
    return f"{path.name} in {path.parent.name}, with its own scales, which the Predict step shows."
