"""Editors of config objects: what is put in comes out, what is typed arrives, what cannot be is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QWidget

from napari_msunet.config import (
    Augmentation,
    FolderSource,
    LossConfig,
    ModelConfig,
    Normalisation,
    Optimiser,
    Postprocess,
    PublishedSource,
    ShapesSource,
    TableSource,
    UNetConfig,
)
from napari_msunet.widgets.dock.fields import OutputsField
from napari_msunet.widgets.dock.model_form import ModelForm
from napari_msunet.widgets.dock.training_data import FolderForm, PublishedForm, ShapesForm, TableForm
from napari_msunet.widgets.forms import Form
from napari_msunet.widgets.state import PredictChoices, TrainChoices


def train_form(value):
    return Form(value)


def predict_form(value):
    return Form(value, {"outputs": OutputsField()}, left_out=("postprocess",))


def cleaning_form(value):
    return Form(value)


MODEL = ModelConfig(classes=("a", "b"), mpp=0.4991234, scales=(1.0, 0.5), channels=1)
OBJECTS = [
    (ModelForm, MODEL),
    (
        ModelForm,
        ModelConfig(
            classes=("x",),
            mpp=2,
            scales=(1.5, 1.0, 1 / 3),
            fusion="concat",
            branch=(UNetConfig(depth=1), UNetConfig(depth=5, width=9), UNetConfig(dropout=0.2)),
            field="concentric",
            normalisation=Normalisation(mean=(0.5,) * 3, std=(0.1,) * 3),
        ),
    ),
    (ModelForm, ModelConfig(classes=("x",), mpp=1, scales=(1.0, 0.25), shared=True, fusion="max")),
    (
        train_form,
        TrainChoices(
            size=130,
            border=7,
            batch_size=3,
            epochs=9,
            steps=11,
            time_limit=95.0,
            validation=0.35,
            augmentation=Augmentation(flip=False, rotate=12, scale=0.35, brightness=0.3, contrast=0, stain=1),
            loss=LossConfig(cross_entropy=0.5, dice=0, branch=(0.1, 0.2)),
            optimiser=Optimiser(learning_rate=3e-4, weight_decay=0.003, schedule="cosine", patience=3, stop_after=4),
            seed=12,
            device="cpu",
        ),
    ),
    (
        predict_form,
        PredictChoices(
            outputs=("labels", "probabilities", "entropy", "instances"),
            margin=96,
            tile=700,
            batch_size=2,
            memory=3.5,
            device="cuda:0,cuda:1",
            tta="flips",
            engine="onnx",
            precision="bfloat16",
            compile=True,
            probability_dtype="uint8",
            channels=("red", 1),
            where="tissue",
            postprocess=Postprocess(thresholds={"a": 0.25}),
        ),
    ),
    (
        cleaning_form,
        Postprocess(
            thresholds={"a": 0.25}, smoothing=1.5, smallest=20, holes=7.5, instances="boundary", boundary="b", spacing=3
        ),
    ),
    (
        FolderForm,
        FolderSource(
            images=Path("a"),
            masks=Path("b"),
            mask_suffix="_m",
            values={1: "gland", 2: "background"},
            mpp=(0.5, 0.25),
            table=Path("t.csv"),
            group="patient",
            role="validate",
        ),
    ),
    (TableForm, TableSource(table=Path("t.csv"), values={"#ff0000": "background", "#0000ff": "gland"}, group="p")),
    (
        ShapesForm,
        ShapesSource(
            slide=Path("s.svs"), shapes=Path("s.xml"), values={"Tumor": "gland"}, outside="ignored", mpp=0.25, group="p"
        ),
    ),
    (
        PublishedForm,
        PublishedSource(folder=Path("f"), set="pannuke", part="Fold 1", values={"Dead": "ignored"}, radius=3.5),
    ),
]


def form_of(kind, value, qtbot):
    form = kind(value)
    qtbot.addWidget(form)
    return form


@pytest.mark.parametrize(("kind", "value"), OBJECTS)
def test_what_is_shown_is_what_is_given_back(qtbot, kind, value):
    form = form_of(kind, value, qtbot)
    assert form.value() == value
    assert form._read() == value  # out of the fields themselves


@pytest.mark.parametrize(("kind", "value"), OBJECTS)
def test_setting_another_object_shows_and_tells_it(qtbot, kind, value):
    usual = {
        ModelForm: MODEL.model_copy(update={"scales": (1.0,), "mpp": 1.0}),
        train_form: TrainChoices(),
        predict_form: PredictChoices(),
        cleaning_form: Postprocess(),
        FolderForm: FolderSource(images=Path("i"), masks=Path("m")),
        TableForm: TableSource(table=Path("u.csv")),
        ShapesForm: ShapesSource(slide=Path("u.svs"), shapes=Path("u.xml")),
        PublishedForm: PublishedSource(folder=Path("u")),
    }[kind]
    form = form_of(kind, usual, qtbot)
    with qtbot.waitSignal(form.valueChanged) as told:
        form.setValue(value)
    assert told.args[0] == value
    assert form._read() == value


@pytest.mark.parametrize(("kind", "value"), OBJECTS)
def test_every_field_has_a_tooltip(qtbot, kind, value):
    form = form_of(kind, value, qtbot)
    assert all(len(editor.toolTip()) > 15 for editor in form.editors.values())


def test_typing_changes_the_object(qtbot):
    form = form_of(train_form, TrainChoices(), qtbot)
    epochs = form.editors["epochs"]
    epochs.selectAll()
    with qtbot.waitSignal(form.valueChanged):
        qtbot.keyClicks(epochs, "42")
        qtbot.keyClick(epochs, Qt.Key.Key_Return)
    assert form.value().epochs == 42


def test_chips_add_and_take_scales_away(qtbot):
    form = form_of(ModelForm, MODEL, qtbot)
    qtbot.mouseClick(form.scales.chips.itemAt(1).widget(), Qt.MouseButton.LeftButton)
    assert form.value().scales == (1.0,)
    assert not form.scales.chips.itemAt(0).widget().isEnabled()  # the last one stays
    form.scales.menu.aboutToShow.emit()
    next(action for action in form.scales.menu.actions() if action.text().startswith("1/4")).trigger()
    assert form.value().scales == (1.0, 0.25)


def test_networks_of_their_own_follow_the_scales(qtbot):
    form = form_of(ModelForm, MODEL, qtbot)
    form.branches.same.setChecked(False)
    assert len(form.value().branch) == 2
    form.scales.setValue((1.0, 0.5, 0.25))
    assert len(form.value().branch) == 3
    form.scales.setValue((1.0,))
    assert len(form.value().branches) == 1


def test_what_cannot_be_is_said_and_the_last_object_stays(qtbot):
    form = form_of(ModelForm, MODEL, qtbot)
    form.branches.same.setChecked(False)
    form.branches._rows[0][0].setValue(2)
    before = form.value()
    form.editors["shared"].setChecked(True)
    assert form.value() == before
    assert "share their weights" in form.problem.text()
    form.editors["shared"].setChecked(False)
    assert not form.problem.isVisibleTo(form)


def test_the_wheel_scrolls_the_dock_instead_of_changing_values(qtbot):
    from qtpy.QtCore import QPoint, QPointF
    from qtpy.QtGui import QWheelEvent

    form = form_of(train_form, TrainChoices(), qtbot)
    event = QWheelEvent(
        QPointF(5, 5),
        QPointF(5, 5),
        QPoint(0, 120),
        QPoint(0, 120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QWidget.event(form, event)
    form.editors["epochs"].wheelEvent(event)
    assert form.value() == TrainChoices()
