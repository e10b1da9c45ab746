"""The editor of a model: resolution, scales, fusion, networks."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from qtpy.QtCore import QByteArray, Qt
from qtpy.QtGui import QPainter, QPixmap
from qtpy.QtSvg import QSvgRenderer
from qtpy.QtWidgets import QLabel

import napari_msunet
from napari_msunet.config import Fusion, ModelConfig
from napari_msunet.widgets.dock.branch_form import BranchesField
from napari_msunet.widgets.dock.every_field import AnyField
from napari_msunet.widgets.dock.fields import CheckField, ChoiceField, NumberField, ScalesField
from napari_msunet.widgets.dock.forms import Form

DRAWINGS = Path(napari_msunet.__file__).parent / "widgets" / "drawings"

FUSIONS: dict[Fusion, tuple[str, str]] = {
    "attention": ("Attention", "At each pixel it learns which scale to trust."),
    "weighted": ("Weighted", "One learned weight per scale, the same everywhere: easy to read off."),
    "mean": ("Mean", "All scales count the same; nothing to learn."),
    "max": ("Maximum", "The most confident scale decides at each pixel."),
    "concat": ("Concatenate", "Learns one decision from the features of all scales together."),
    "multihead": ("Multi-head attention", "At each pixel several heads learn which scale to trust, each for itself."),
    "inject": ("Context injection", "What the coarse scales find enters the finest one's network where it is deepest."),
    "pyramid": ("Image pyramid", "One network; copies of the image at all scales enter its levels."),
}


class ResolutionField(NumberField):
    """µm per pixel, or None: the images' own pixels."""

    def __init__(self) -> None:
        super().__init__(0, 1000, 0.05, 3, "µm/px")
        self.setSpecialValueText("image pixels")

    def value(self) -> float | None:
        return super().value() or None

    def setValue(self, value: float | None) -> None:
        super().setValue(value or 0)


class ModelForm(Form):
    """Edits a `ModelConfig`; its classes, channels and normalisation stay as they were set."""

    def __init__(self, value: ModelConfig) -> None:
        super().__init__(value)
        self.add(
            "mpp",
            "Resolution",
            ResolutionField(),
            "Size of a pixel, in µm, that the model works with. Smaller shows more detail, sees less far and costs "
            "more: half the size is four times the work. The labels have this resolution. "
            "At the lowest value it works in the images' own pixels, for images without a size in µm.",
        )
        self.scales = ScalesField()
        self.scales.valueChanged.connect(lambda scales: self.branches.set_scales(scales))
        self.branches = BranchesField()
        self.add(
            "scales",
            "Scales",
            self.scales,
            "One network per scale, relative to the resolution: 1/2 sees pixels twice as large, so twice as far. "
            "Add coarser ones when an object is only recognised by what is around it.",
        )
        names = {name: words for name, (words, _) in FUSIONS.items()}
        self.add("fusion", "Fusion", ChoiceField(names), "How the scales' answers become one.")
        self.meaning = QLabel()
        self.meaning.setObjectName("note")
        self.meaning.setWordWrap(True)
        self.rows.addRow(self.meaning)
        self.picture = QLabel()
        self.picture.setAccessibleName("What this fusion does")
        self.rows.addRow(self.picture)
        self.editors["fusion"].valueChanged.connect(self._explain)
        self._advanced()
        self._show(value)
        self._explain(value.fusion)

    def _advanced(self) -> None:
        """What rarely needs another value."""
        self.add("branch", "", self.branches, "Size of the networks.", advanced=True)
        self.add(
            "shared",
            "",
            CheckField("One network for all scales (shared weights)"),
            "Fewer weights to learn. Try it with little annotation and objects that look alike at all scales.",
            advanced=True,
        )
        fields = {"same": "the same area", "concentric": "more surroundings"}
        self.add(
            "field",
            "Coarse scales see",
            ChoiceField(fields),
            "What a coarse scale sees in training: the same area with fewer pixels, or as many pixels and so more "
            "surroundings around the same centre, which costs more time.",
            advanced=True,
        )
        self.add(
            "upscale",
            "Output",
            ChoiceField({1: "at the resolution", 2: "twice as fine (learned)"}),
            "Twice as fine: labels have pixels of half the size, which the network learns to place.",
            advanced=True,
        )
        self.add(
            "finest_scale",
            "Read at most at",
            AnyField(ModelConfig.model_fields["finest_scale"]),
            "Scales above this one are not read from the file but brought up inside the network, which learns how. "
            "Set it to 1 when the slide has nothing finer.",
            advanced=True,
        )

    def _explain(self, name: Fusion) -> None:
        """The sentence and the drawing of a fusion."""
        self.meaning.setText(FUSIONS[name][1])
        self.picture.setPixmap(drawing(name, self.devicePixelRatioF()))

    def _show(self, value: Any) -> None:
        self.branches.set_scales(value.scales)
        super()._show(value)

    def _read(self) -> ModelConfig:
        # A number that the field shows rounded is not changed by being shown.
        config: ModelConfig = super()._read()
        before = self._value.mpp
        if config.mpp is not None and before is not None and abs(config.mpp - before) < 0.0005:
            config = config.model_copy(update={"mpp": before})
        return config


@cache
def drawing(name: str, ratio: float = 1.0) -> QPixmap:
    """One of the drawings in `widgets/drawings`, 264 pixels wide."""
    renderer = QSvgRenderer(QByteArray((DRAWINGS / f"{name}.svg").read_bytes()))
    size = renderer.defaultSize().scaled(int(264 * ratio), 10_000, Qt.AspectRatioMode.KeepAspectRatio)
    picture = QPixmap(size)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    renderer.render(painter)
    painter.end()
    picture.setDevicePixelRatio(ratio)
    return picture
