"""The README's Python runs as it stands, on the data that ships with the package."""

import re
import shutil
from pathlib import Path

import pytest

import napari_msunet as ms

ROOT = Path(__file__).parents[1]
DATA = Path(ms.__file__).parent / "demo_data"


def block(language: str) -> str:
    """The README's first block of code in a language that is longer than its set-up lines."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf8"), re.S)
    return max(blocks, key=len)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for path in sorted((DATA / "nuclei" / "train" / kind).iterdir())[:10]:
            shutil.copy(path, tmp_path / kind)
    # A network of five seconds finds noise everywhere: a small piece of the slide has enough of it.
    with ms.open_slide(DATA / "CMU-1-Small-Region.svs") as slide:
        piece = slide.read(ms.Region(900, 700, 600, 500))
    ms.build_pyramid(piece, tmp_path / "slide.ome.zarr", mpp=0.499)
    code = block("python")
    assert "time_limit=120" in code
    names: dict[str, object] = {}
    exec(code.replace("time_limit=120", "time_limit=5").replace("slide.svs", "slide.ome.zarr"), names)
    labels = names["labels"]
    assert labels.shape == (599, 499)
    assert not labels.edited.any().compute()  # the stroke was undone
    assert (tmp_path / "labels.geojson").read_text().startswith('{"type"')
    labels.close()


def test_the_verbs_of_the_readme_exist():
    from napari_msunet.cli import app

    verbs = set(re.findall(r"^napari-msunet (\w+)", block("bash"), re.M))
    assert verbs
    for verb in verbs:
        assert app[verb] is not None


def test_every_verb_is_in_the_documentation():
    from napari_msunet.cli import app

    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf8")
    verbs = [name for name in app if not name.startswith("-")]
    assert len(verbs) > 10
    assert [verb for verb in verbs if f"| `{verb}" not in text] == []
