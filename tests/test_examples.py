"""The examples run as they are, on the data of the package."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = {
    "train_from_folder": "fused +Dice 0",
    "predict_batch": r"piece2\.ome\.zarr,,done",
    "correct_and_retrain": r"\d{4} corrected pixels; they stayed: True",
    "search_options": "Best: Dice 0",
    "context_study": r"Answer: (yes|no|unclear)\.",
}
"""Those that train, with something that each prints."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, from which scripts find one another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    return tmp_path


def run(name, monkeypatch, capsys):
    """What a script prints when it is called with --quick."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--quick"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_it_runs_and_says_what_it_found(name, here, monkeypatch, capsys):
    assert re.search(SCRIPTS[name], run(name, monkeypatch, capsys))


def test_results_become_a_table_in_pandas(here, monkeypatch, capsys):
    pytest.importorskip("pandas", reason="pandas comes with napari")
    said = run("results_in_pandas", monkeypatch, capsys)
    assert re.search(r"nucleus +[1-9]\d* ", said)
    assert "haematoxylin_od" in said


def test_a_slide_and_the_dock_open_in_napari(tmp_path):
    pytest.importorskip("napari")
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "settings")}
    command = [sys.executable, EXAMPLES / "open_in_napari.py", "--quick"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "then press Train" in done.stdout
    assert (tmp_path / "examples-output" / "painted.msunet" / "project.json").is_file()


@pytest.mark.slow
def test_the_notebook_runs(here, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    pytest.importorskip("pandas", reason="pandas comes with napari")
    matplotlib.use("agg")
    names: dict[str, object] = {}
    for cell in cells():
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace("SECONDS = 20", "SECONDS = 5"), names)
    assert len(names["objects"]) > 0
    assert (here / "examples-output" / "notebook" / "labels.geojson").is_file()


def cells():
    return json.loads((EXAMPLES / "from_slide_to_numbers.ipynb").read_text(encoding="utf8"))["cells"]


def test_the_notebook_is_kept_without_results():
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in cells()}) == len(cells())


def test_each_example_is_tested_and_in_the_readme():
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert files == {f"{name}.py" for name in (*SCRIPTS, "results_in_pandas", "open_in_napari")} | {
        "from_slide_to_numbers.ipynb"
    }
    listed = set(re.findall(r"\]\(([\w.]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf8")))
    assert listed == files
