"""What `import napari_msunet` gives, and what it must not cost."""

import json
import subprocess
import sys

import pytest

import napari_msunet as ms

IMPORT = """
import json, sys, time
before = time.process_time()
import napari_msunet as ms
seconds = time.process_time() - before
names = dir(ms)
heavy = [m for m in ("torch", "napari", "qtpy", "PyQt6", "PySide6", "numpy", "pydantic", "zarr") if m in sys.modules]
print(json.dumps({"seconds": seconds, "heavy": heavy, "names": names}))
"""


def in_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_is_quick_and_light():
    found = json.loads(in_new_process(IMPORT))
    assert found["heavy"] == []
    assert found["seconds"] < 0.2
    assert set(ms.__all__) <= set(found["names"])


def test_at_most_55_names_and_each_is_there():
    assert len(ms.__all__) <= 55
    assert len(set(ms.__all__)) == len(ms.__all__)
    for name in ms.__all__:
        value = getattr(ms, name)
        assert value.__name__ == name
        assert value.__doc__


def test_the_version_and_an_unknown_name():
    assert ms.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ms.nonsense  # noqa: B018


def test_train_stays_the_function_after_the_room_of_that_name_is_imported():
    code = """
import napari_msunet as ms
from napari_msunet.training.fit import train_events
import napari_msunet.training
from napari_msunet import train
assert callable(ms.train) and ms.train is train and ms.train.__module__ == "napari_msunet.jobs.run", ms.train
assert train_events.__module__.startswith("napari_msunet.training")
"""
    in_new_process(code)


def test_configs_and_geometry_need_no_torch():
    code = """
import sys, napari_msunet as ms
ms.ModelConfig(classes=("gland",), mpp=0.5); ms.Region(0, 0, 1, 1); ms.run, ms.train, ms.open_slide, ms.open_labels
assert "torch" not in sys.modules and "lightning" not in sys.modules
"""
    in_new_process(code)
