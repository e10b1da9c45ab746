"""napari's own tests of its labels layer, run on a `PyramidLabels` over a store with the same content."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("napari.layers.labels._tests.test_labels_mouse_bindings", reason="this napari ships without tests")

HISTORY = "looks into napari's history; a store's undo is its journal"
REPLACED = "sets layer.data; the labels of a store are painted, not replaced"
LEVELS = "a pyramid's value is (level, value)"
OURS = "expects the warning of napari's key; here the layer has refused the label before"
REFUSED = "expects an error for a label out of range; here it is refused with a notification"
ITS_ARRAY = "clears the numpy array it gave between two parts; the store holds a copy"
TYPES = "expects a view of uint16, for arrays that a store keeps as uint32"

DIFFERENCES = {
    "test_changing_labels": REPLACED,
    "test_changing_labels_dims": REPLACED,
    "test_labels_state_update": REPLACED,
    "test_name": "expects the name Labels; here it is the store's",
    "test_properties": LEVELS,
    "test_value": LEVELS,
    "test_get_status_with_custom_index": LEVELS,
    "test_get_tooltip_text_with_same_features": LEVELS,
    "test_selecting_label_exception": REFUSED,
    "test_guard_for_out_of_range_selected_label": OURS,
    "test_label_overflow": OURS,
    "test_paint_polygon": ITS_ARRAY,
    "test_fill_scattered_history_stores_masked_atom": HISTORY,
    "test_fill_full_bbox_history_drops_mask": HISTORY,
    "test_paint_partial_bbox_history_stores_masked_atom": HISTORY,
    "test_block_history_with_mask_painting": HISTORY,
    "test_color_shuffling_above_num_colors": "2 x 60,000 pixels are a pyramid here, whose coarsest level has one row",
    "test_docstring": "looks at the docstring of the stand-in for the class",
    "test_view_dtype_int16": TYPES,
    "test_events_defined": "needs a fixture of napari's own test suite",
}
"""Every test that ends otherwise than on napari's own layer, and why (docs/labels-layer.md says it in words)."""

PAINTING = {
    "test_paint",
    "test_paint_2d",
    "test_paint_with_preserve_labels",
    "test_paint_swap_with_preserve_labels",
    "test_paint_polygon_undo_redo",
    "test_paint_contour_local_updates",
    "test_fill",
    "test_fill_contiguous_uses_face_connectivity",
    "test_fill_swap_with_preserve_labels",
    "test_erase",
    "test_pick",
    "test_draw",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The outcomes of each test, by name: a pytest of its own with the plugin that makes the stores."""
    from napari.layers.labels import _tests

    folder = tmp_path_factory.mktemp("napari")
    for name in ("test_labels.py", "test_labels_mouse_bindings.py", "test_labels_key_bindings.py"):
        shutil.copy(Path(_tests.__path__[0]) / name, folder)
    (folder / "pytest.ini").touch()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "widgets.paint.napari_on_store", "-p", "no:cacheprovider"]
    command += [
        "-W",
        "ignore",
        "--junitxml",
        "out.xml",
        "-k",
        "not xarray and not tensorstore and not zarr and not dask",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert (folder / "out.xml").exists(), run.stdout[-2000:] + run.stderr[-2000:]
    found: dict[str, set[str]] = {}
    for case in ElementTree.parse(folder / "out.xml").iter("testcase"):
        bad = {"failure", "error"} & {child.tag for child in case}
        outcome = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        found.setdefault(case.get("name", "").split("[")[0], set()).add(outcome)
    return found


@pytest.mark.slow
def test_differences_are_the_explained_ones(outcomes: dict[str, set[str]]) -> None:
    different = {name for name, results in outcomes.items() if "failed" in results}
    assert different - set(DIFFERENCES) == set()
    assert set(DIFFERENCES) - different == set(), "these pass now: take them off the list"


@pytest.mark.slow
def test_painting_is_among_what_passes(outcomes: dict[str, set[str]]) -> None:
    assert (
        sum("passed" in results for results in outcomes.values()) > 50
    )  # docs/labels-layer.md says how many are skipped
    passed = {name for name, results in outcomes.items() if results == {"passed"}}
    assert PAINTING - passed == set(), {name: outcomes.get(name) for name in PAINTING - passed}
