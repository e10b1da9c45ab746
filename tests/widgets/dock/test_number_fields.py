"""Numbers typed and pasted into the fields of the dock, in languages with decimal points and with decimal commas."""

import pytest
from qtpy.QtCore import QEvent, QLocale, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractSpinBox, QApplication, QLineEdit

from napari_msunet.config import LossConfig
from napari_msunet.widgets.dock.fields import AnyField, MinutesField, NumberField, NumbersField, WholeField, _Typed
from napari_msunet.widgets.dock.training_data import MppField
from napari_msunet.widgets.objects.table import FilterRow

LANGUAGES = ("C", "en_US", "de_DE", "uk_UA", "fr_CH", "ar_EG")


@pytest.fixture(params=LANGUAGES)
def language(request):
    before = QLocale()
    QLocale.setDefault(QLocale(request.param))
    yield request.param
    QLocale.setDefault(before)


def line_of(field):
    return field if isinstance(field, QLineEdit) else field.findChild(QLineEdit)


def typed(field, text, paste=False):
    """Click into a field, put a text in place of what is there, press Return."""
    line = line_of(field)
    QTest.mouseClick(line, Qt.MouseButton.LeftButton)
    line.selectAll()
    if paste:
        QApplication.clipboard().setText(text)
        line.paste()
    else:
        QTest.keyClicks(line, text)
    QTest.keyClick(line, Qt.Key.Key_Return)
    return field.value()


def shown(qtbot, field):
    qtbot.addWidget(field)
    field.show()
    return field


@pytest.mark.parametrize("text", ["0.25", "0,25", "0,25 µm", ".25", "2.5e-1", "0.250"])
@pytest.mark.parametrize("paste", [False, True])
def test_a_quarter_is_a_quarter(qtbot, language, text, paste):
    field = shown(qtbot, NumberField(0, 1000, 0.05, 4, "µm"))
    assert typed(field, text, paste) == 0.25
    assert field.text() == f"0{field.locale().decimalPoint()}25 µm"


def test_all_typed_digits_count(qtbot, language):
    field = shown(qtbot, NumberField(0, 1000, 0.05, 2, "µm"))
    assert typed(field, "0,2527319") == 0.2527319
    field.stepUp()
    assert field.value() == pytest.approx(0.3027319, abs=1e-9)
    field.setValue(1 / 3)
    assert line_of(field).text() == f"0{field.locale().decimalPoint()}33 µm"


def test_what_cannot_be_read_is_said_and_the_old_value_stays(qtbot, language, messages):
    field = shown(qtbot, NumberField(0, 1e9, 10, 1, "µm²"))
    field.setValue(50)
    other = "," if field.locale().decimalPoint() == "." else "."
    for text in ("abc", "0.2.5", f"1{other}125", "25 nm", "-3", "nan", "1e12"):
        assert typed(field, text) == 50, text
        assert line_of(field).text() == "50 µm²"
    assert len(messages) == 7
    assert messages[0].message == '"abc" is no number, such as 0.25 or 0,25 (in µm²). 50 µm² stays.'
    assert typed(field, "1 000 000") == 1e6


def test_small_fields_have_no_thousands(qtbot, language):
    field = shown(qtbot, MppField())
    assert typed(field, "1.125") == typed(field, "1,125") == 1.125
    assert typed(field, "from the files") is None


def test_whole_numbers(qtbot, language, messages):
    field = shown(qtbot, WholeField(1, 100_000, "epochs", none="automatic"))
    for text in ("1200", "1.200", "1,200", "1 200", "1'200", "1200 epochs"):
        field.setValue(None)
        assert typed(field, text, paste=True) == 1200, text
    assert typed(field, "12,5") == 1200
    assert messages
    assert typed(field, "automatic") is None
    minutes = shown(qtbot, MinutesField("none"))
    assert typed(minutes, "5 min") == 300


def test_several_numbers(qtbot, language, messages):
    field = shown(qtbot, NumbersField())
    for text, value in {
        "0,5": 0.5,
        "0.5": 0.5,
        "0,5; 0,25": (0.5, 0.25),
        "1, 2": (1, 2),
        "0.5,0.25": (0.5, 0.25),
    }.items():
        assert typed(field, text) == value, text
    assert not messages
    assert typed(field, "0,5, 0,25") == (0.5, 0.25)
    assert typed(field, "1,2") == (0.5, 0.25)
    assert len(messages) == 2
    field.setValue(1.23456789)
    QTest.mouseClick(field, Qt.MouseButton.LeftButton)
    QTest.keyClick(field, Qt.Key.Key_Return)
    assert field.value() == 1.23456789


def test_a_field_of_any_type(qtbot, language, messages):
    field = shown(qtbot, AnyField(LossConfig.model_fields["class_weights"]))
    assert typed(field, "0,5; 2") == (0.5, 2.0)
    assert typed(field, "1,2") == (0.5, 2.0)
    assert len(messages) == 1


def test_areas_of_the_filter(qtbot, language):
    row = shown(qtbot, FilterRow())
    for text, low in {"0,5": 0.5, "0.5": 0.5, "1 500": 1500, "abc": 0}.items():
        row.low.setText(text)
        assert row.value().low == low
        assert ("is no number" in row.low.toolTip()) == (text == "abc")


def test_the_whole_dock_has_one_class_of_number_fields(dock):
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)  # rows that were taken away
    found = dock.findChildren(QAbstractSpinBox)
    assert len(found) > 20
    assert [box for box in found if not isinstance(box, _Typed)] == []


def test_the_pixel_size_typed_in_the_window(dock, tmp_path, language):
    """The field was made before: the language is that of the window."""
    import numpy as np
    import tifffile

    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    dock.open_slide(path)
    dock.show_step("slide")
    dock.refresh()
    field = dock.step("slide").mpp
    field.setLocale(QLocale(language))
    typed(field, "0.25", paste=True)
    assert dock.state.active.mpp == (0.25, 0.25)
    typed(field, "0,499 µm", paste=True)
    assert dock.state.active.mpp == (0.499, 0.499)
    typed(field, "abc")
    assert dock.state.active.mpp == (0.499, 0.499)
