"""An error reads in the words of the door at which it is shown."""

import ast
import re
from pathlib import Path

import pytest

from napari_msunet.cli.running import error_text
from napari_msunet.errors import MsunetError
from napari_msunet.wording import _ARGUMENT, in_flags, in_labels

SOURCE = Path(__file__).parents[1] / "src" / "napari_msunet"


@pytest.mark.parametrize(
    ("python", "flags", "labels"),
    [
        ("use device='cpu', or engine=\"x\".", "use --device cpu, or --engine x.", "use Device: cpu, or Engine: x."),
        ("give channels=(...), by name", "give --channels, by name", "give the field Channels, by name"),
        ("which one (set=...), give", 'which one ("set" in a --source), give', "which one (the field Which), give"),
        ("give SlideSource(mpp=...).", "give --mpp.", "give the field Pixel size."),
        ('keep outputs=("labels", "entropy").', "keep --outputs labels,entropy.", 'keep "Entropy" ticked.'),
        ('say values={"Layer 1": "gland"}.', 'say --values "Layer 1=gland".', "say Values: Layer 1=gland."),
        ("say overwrite=True to replace it.", "say --overwrite to replace it.", "say Overwrite: True to replace it."),
        ("narrower, or batch_size=4.", "narrower, or --batch-size 4.", "narrower, or Batch: 4."),
    ],
)
def test_one_sentence_in_three_doors(python, flags, labels):
    assert in_flags(python) == flags
    assert in_labels(python) == labels
    assert error_text(MsunetError(python)) == flags


@pytest.mark.parametrize(
    "text",
    [
        "1=gland, 2=stroma",
        "http://host/page?x=1",
        "/data/scale=2/slide.svs is not there",
        "--name=3",
        "name=value of a file",
        "Region(y=0.0, x=0.0, height=1.0, width=2.0) is empty" * 0,
    ],
)
def test_what_is_no_argument_stays(text):
    assert in_flags(text) == in_labels(text) == text


def test_no_python_is_left_in_any_sentence_of_an_error():
    """Of all errors in the source, in the words of the other two doors."""
    left = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                first = node.exc.args[0]
                parts = first.values if isinstance(first, ast.JoinedStr) else [first]
                texts = (getattr(p, "value", None) for p in parts)
                said = "".join(text if isinstance(text, str) else "X" for text in texts)
                for turned in (in_flags(said), in_labels(said)):
                    if _ARGUMENT.search(turned) or re.search(r"\b[a-z_]+=(\.\.\.|\()", turned):
                        left.append(f"{path.name}:{node.lineno}: {turned}")
    assert not left


def test_the_dock_tells_an_error_in_its_own_words():
    notifications = pytest.importorskip("napari.utils.notifications")
    from napari_msunet.widgets.dock.show_errors import notify_error

    found = []
    notifications.notification_manager.notification_ready.connect(found.append)
    notify_error('No run kept probabilities; predict with outputs=("labels", "probabilities").')
    notifications.notification_manager.notification_ready.disconnect(found.append)
    assert found[0].message == 'No run kept probabilities; predict with "Probabilities" ticked.'
