"""The table of keys: none is napari's own, none stands for two things, and they do what they say."""

import pytest
from app_model.types import KeyBinding
from qtpy.QtCore import Qt
from widgets import mouse

from napari_msunet.errors import MsunetError
from napari_msunet.labels import LabelStore
from napari_msunet.widgets import keys


def napari_keys():
    """What napari binds for the viewer, its menus and labels layers, now: key -> (action, all keys of that action)."""
    from napari._app_model import get_app_model
    from napari.layers import Labels
    from napari.utils.action_manager import action_manager
    from napari.viewer import Viewer

    found = {}
    for name, shortcuts in action_manager._shortcuts.items():
        action = action_manager._actions.get(name)
        provider = getattr(action, "keymapprovider", None)
        if provider is None or not (issubclass(Labels, provider) or issubclass(Viewer, provider)):
            continue
        own = {str(KeyBinding.validate(s)) for s in shortcuts}
        found |= dict.fromkeys(own, (name, own))
    for provider in (Labels, Viewer):
        for cls in provider.__mro__:
            for key, function in getattr(cls, "class_keymap", {}).items():
                found.setdefault(str(key), (getattr(function, "__name__", str(function)), {str(key)}))
    for binding in get_app_model().keybindings:
        found.setdefault(str(binding.keybinding), (binding.command_id, {str(binding.keybinding)}))
    return found


@pytest.fixture
def theirs(make_napari_viewer):
    make_napari_viewer()
    found = napari_keys()
    assert {"E", "P", "V", "Ctrl+R", "Ctrl+Z"} <= set(found)  # all three places were read
    return found


def ours():
    import napari_msunet.widgets.dock.dock  # registers all

    assert napari_msunet.widgets.dock.dock
    return keys.table()


def test_no_key_is_one_of_naparis(theirs):
    free = [line for line in ours() if not line.napari and not line.instead]
    assert len(free) >= 3
    clashes = {(line.name, key) for line in free for key in line.keys if str(KeyBinding.validate(key)) in theirs}
    assert not clashes


def test_what_is_said_to_be_naparis_is(theirs):
    for line in ours():
        if line.napari:
            assert any(str(KeyBinding.validate(key)) in theirs for key in line.keys), line


def test_a_digit_taken_from_napari_leaves_its_action_another_key(theirs):
    given = {"napari:activate_labels_polygon_mode": "paint.polygon"}
    given["napari:activate_labels_transform_mode"] = "paint.transform"
    taken = {str(KeyBinding.validate(k)) for line in ours() if line.instead for k in line.keys if k != "Escape"}
    names = {line.name for line in ours()}
    for key in taken:
        action, all_keys = theirs[key]
        assert all_keys - taken or given[action] in names, (key, action)


def test_no_key_stands_for_two_things():
    seen = {}
    for line in ours():
        for key in line.keys:
            assert str(KeyBinding.validate(key)) not in seen, (line, seen)
            seen[str(KeyBinding.validate(key))] = line.name
    with pytest.raises(MsunetError, match=r"cannot have the key p: 'Brush'"):
        keys.register("test.other", "p", "Something else", "Test")
    with pytest.raises(MsunetError, match=r"cannot have the name paint\.fill"):
        keys.register("paint.fill", "Ctrl+Alt+9", "Something else", "Test")


def test_a_bound_key_acts_and_a_released_one_does_not(make_napari_viewer, tmp_path, qtbot):
    from napari_msunet.widgets.paint import add_labels

    viewer = make_napari_viewer(show=True)
    layer = add_labels(viewer, LabelStore.create(tmp_path / "a.ome.zarr", (200, 200), classes=("a",)))
    pressed = []
    keys.bind(layer, "paint.polygon", lambda: pressed.append(1))
    canvas = mouse.canvas(viewer)
    canvas.setFocus()
    mouse.settle()
    qtbot.keyClick(canvas, Qt.Key.Key_P, Qt.KeyboardModifier.ShiftModifier)
    assert pressed == [1]
    keys.release(layer, "paint.polygon")
    qtbot.keyClick(canvas, Qt.Key.Key_P, Qt.KeyboardModifier.ShiftModifier)
    assert pressed == [1]
    viewer.layers.clear()
    layer.store.close()
