"""Every option of a model and of a training is in the dock: shown, explained, and taken when changed."""

from typing import Annotated

import pytest
from pydantic import Field as PydanticField

from napari_msunet.config import (
    FUSIONS,
    Augmentation,
    ClassicalConfig,
    EncoderConfig,
    HRNetConfig,
    LinkNetConfig,
    LossConfig,
    ModelConfig,
    Optimiser,
    UNetConfig,
)
from napari_msunet.config.base import Option
from napari_msunet.config.training import BRANCH_LOSSES, Sampling
from napari_msunet.widgets.dock.fields import AnyField, CheckField, ChoiceField, NumberField, WholeField
from napari_msunet.widgets.dock.model_form import BranchesField, ModelForm
from napari_msunet.widgets.forms import Form
from napari_msunet.widgets.state import TrainChoices

NETWORKS = (UNetConfig, LinkNetConfig, HRNetConfig, EncoderConfig, ClassicalConfig)
PARTS = {"loss": LossConfig, "optimiser": Optimiser, "augmentation": Augmentation, "sampling": Sampling}


@pytest.fixture
def form(qtbot):
    made = Form(TrainChoices())
    qtbot.addWidget(made)
    return made


def test_nothing_is_out_of_reach(form):
    wanted = {f"{part}.{name}" for part, kind in PARTS.items() for name in kind.model_fields}
    wanted |= {name for name in TrainChoices.model_fields if name not in PARTS}
    assert wanted == set(form.editors)


class Louder(LossConfig):
    loudness: Annotated[float, PydanticField(ge=0), Option("Loudness", "Loss", step=0.5)] = 0.25
    """How loud the loss is."""


def test_a_new_field_has_a_row(qtbot):
    made = Form(Louder())
    qtbot.addWidget(made)
    editor = made.editors["loudness"]
    assert (editor.accessibleName(), editor.toolTip(), editor.singleStep()) == (
        "Loudness",
        "How loud the loss is.",
        0.5,
    )
    editor.setValue(0.75)
    assert made.value().loudness == 0.75


def other(editor):
    """Another value that the editor can have."""
    if isinstance(editor, CheckField):
        return not editor.value()
    if isinstance(editor, ChoiceField):
        return next(v for v in editor.values if v != editor.value())
    if isinstance(editor, WholeField):
        return max(editor.value() or 3, editor.minimum()) + 1
    if isinstance(editor, NumberField):
        return round(min(editor.value() + editor.singleStep(), (editor.value() + editor.maximum()) / 2), 4)
    return None


def test_every_change_arrives(form):
    """One after the other, from the same beginning; what only fits together with something else is said."""
    usual = form.value()
    said = []
    for name, editor in form.editors.items():
        value = other(editor)
        if value is None:
            continue
        editor.setValue(value)
        found = form.value()
        for part in name.split("."):
            found = getattr(found, part)
        if form.problem.isVisibleTo(form):
            said.append(name)
        else:
            assert found == pytest.approx(value), name
        form.setValue(usual)
        assert form.value() == usual, name
    assert set(said) <= {"optimiser.nesterov", "loss.cross_entropy", "loss.border", "sampling.balance"}, said


@pytest.mark.parametrize(
    ("text", "value"), [("", None), ("balanced", "balanced"), ("1, 2.5", (1.0, 2.5)), ("nonsense", "balanced")]
)
def test_values_of_any_type(qtbot, text, value):
    field = AnyField(LossConfig.model_fields["class_weights"])
    qtbot.addWidget(field)
    field.setValue("balanced")
    field.setText(text)
    field.editingFinished.emit()
    assert field.value() == value


def test_what_encoders_lack_is_said_beside_them(qtbot, monkeypatch):
    sentence = "Known encoders need timm, which is not installed here."
    monkeypatch.setattr("napari_msunet.widgets.dock.model_form.missing_for_encoders", lambda: sentence)
    field = BranchesField()
    qtbot.addWidget(field)
    assert not field.lacking.isVisibleTo(field)
    field.kind.setValue("encoder")
    assert field.lacking.isVisibleTo(field)
    assert field.lacking.text() == sentence
    field.kind.setValue("linknet")
    assert not field.lacking.isVisibleTo(field)


def test_networks_of_all_kinds_with_their_options(qtbot):
    field = BranchesField()
    qtbot.addWidget(field)
    field.set_scales((1.0, 0.5))
    field.setValue((UNetConfig(depth=2, width=8), UNetConfig(depth=3, width=16)))
    field.details.editors["residual"].setValue(True)
    field.details.editors["stem"].setValue("space_to_depth")
    assert [(b.depth, b.residual, b.stem) for b in field.value()] == [
        (2, True, "space_to_depth"),
        (3, True, "space_to_depth"),
    ]
    for kind, config in (
        ("linknet", LinkNetConfig),
        ("hrnet", HRNetConfig),
        ("classical", ClassicalConfig),
        ("encoder", EncoderConfig),
    ):
        field.kind.setValue(kind)
        assert all(isinstance(b, config) for b in field.value())
        assert set(field.details.editors) == set(config.model_fields) - {"kind", "depth", "width", "dropout"}
    field.details.editors["frozen"].setValue(True)  # of random weights: not possible
    assert not field.value()[0].frozen
    assert not field.details.editors["frozen"].isChecked()


def test_a_drawing_and_a_sentence_for_each_fusion(qtbot):
    form = ModelForm(ModelConfig(classes=("a",), mpp=1.0))
    qtbot.addWidget(form)
    seen = set()
    for name, (_, sentence) in FUSIONS.items():
        form.editors["fusion"].setValue(name)
        assert form.meaning.text() == sentence
        picture = form.picture.pixmap()
        assert picture.width() == 264
        image = picture.toImage()
        seen.add(bytes(image.constBits().asarray(image.sizeInBytes())))
        assert form.value().fusion == name
    assert len(seen) == len(FUSIONS)
    form.editors["upscale"].setValue(2)
    assert form.value().upscale == 2


def test_how_scales_are_trained_has_a_drawing_and_a_sentence(form):
    editor, seen = form.editors["loss.branch"], set()
    assert editor.value() == form.value().loss.branch == 0.4
    for name, (_, sentence) in BRANCH_LOSSES.items():
        editor.mode.setValue(name)
        assert editor.meaning.text() == sentence
        image = editor.picture.pixmap().toImage()
        seen.add(bytes(image.constBits().asarray(image.sizeInBytes())))
        assert form.value().loss.branch_mode == name
        assert editor.weight.isVisibleTo(editor) == (name == "joint")
    assert len(seen) == 3
    assert form.value().loss.branch == "separate"
    editor.mode.setValue("joint")
    editor.weight.setText("1, 0.5")
    editor.weight.editingFinished.emit()
    assert form.value().loss.branch == (1.0, 0.5)
