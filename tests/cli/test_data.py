"""The command's options of sources, windows and sides reach the job, each explained; crossval and preview work."""

import json
import shlex
from pathlib import Path

import pytest
from data.making import write_folder

from napari_msunet.cli import execute
from napari_msunet.jobs.run import parse_job

SMALL = "--classes disc --mpp 1 --scales 1,1/2 --depth 2 --width 4 --size 32 --batch-size 4 --epochs 1 --steps 2"


def printed(text: str, capsys) -> dict:
    assert execute([*shlex.split(text), "--print-job"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    parse_job(out)
    return json.loads(out)


def test_sources(capsys):
    job = printed(
        "train --classes gland --model-mpp 1 --out o --slide a.svs --shapes a.xml --values Tumor=gland,x=background "
        '--published p --part Train --source \'{"kind": "published", "folder": "q", "set": "glas"}\'',
        capsys,
    )
    shapes, published, glas = job["sources"]
    assert (shapes["kind"], shapes["values"]) == ("shapes", {"Tumor": "gland", "x": "background"})
    assert (published["folder"], published["part"], published["set"]) == ("p", "Train", "auto")
    assert glas["set"] == "glas"
    job = printed("train --classes gland --model-mpp 1 --out o --pairs t.csv --group patient", capsys)
    assert (job["sources"][0]["kind"], job["sources"][0]["group"]) == ("table", "patient")


def test_windows_and_sides(capsys):
    job = printed(
        f"train {SMALL} --images a --masks b --out o --test 0.2 --validation 0.1 --fold 2/5 --normalise percentile "
        "--balance 0.3 --hard 0.2 --augmentation elastic=8,flip=no,jpeg=0.5",
        capsys,
    )
    assert (job["test"], job["fold"], job["normalise"]) == (0.2, [2, 5], "percentile")
    assert job["sampling"] == {"balance": 0.3, "hard": 0.2}
    assert [job["augmentation"][n] for n in ("elastic", "flip", "jpeg", "rotate")] == [8.0, False, 0.5, 180.0]
    off = printed(f"train {SMALL} --images a --masks b --out o --no-augment --augmentation blur=1", capsys)
    assert (off["augmentation"]["rotate"], off["augmentation"]["blur"]) == (0, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--augmentation elastic", "name=value"),
        ("--augmentation wobble=1", "elastic"),
        ("--augmentation jpeg=3", "jpeg"),
        ("--fold two", "such as 2/5"),
        ("--fold 7/5", "fold (7, 5) is none"),
        ("--balance 0.8 --hard 0.5", "together at most 1"),
        ("--test 0.9 --validation 0.2", "nothing to train on"),
        ("--slide s --shapes a --labels b", "one sort of truth"),
    ],
)
def test_bad_options_get_one_sentence(options, said, capsys):
    assert execute(shlex.split(f"train {SMALL} --images a --masks b --out o {options}")) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("verb", ["train", "crossval", "preview"])
def test_each_option_is_explained(verb, capsys):
    execute([verb, "--help"])
    text = capsys.readouterr().out
    for words in (
        "--balance",
        "a class drawn at random",
        "--augmentation",
        "elastic=8",
        "--published",
        "PanNuke",
        "--fold",
    ):
        assert words in " ".join(text.replace("│", " ").split())


def test_crossval_and_preview(tmp_path: Path, capsys):
    images, masks = write_folder(tmp_path, 4, (40, 40))
    given = f"{SMALL} --images {images} --masks {masks} --group 'name(.)'"
    assert execute(shlex.split(f"preview {given} --out {tmp_path / 'p'} --count 2 --variants 1")) == 0
    assert (tmp_path / "p" / "preview.png").is_file()
    assert execute(shlex.split(f"crossval {given} --out {tmp_path / 'cv'} --folds 2 --json")) == 0
    out = capsys.readouterr().out
    found = json.loads(out[out.index("{") :])
    assert len((found.get("values") or found)["folds"]) == 2
    assert execute(shlex.split(f"crossval {given} --out {tmp_path / 'cv'} --folds 2")) == 2
    assert "already holds a cross-validation" in capsys.readouterr().err
    assert execute(shlex.split(f"crossval {given} --out {tmp_path / 'cv'} --folds 2 --resume")) == 0


def test_import(tmp_path: Path, capsys):
    from napari_msunet.geometry import Window
    from napari_msunet.labels import open_labels

    images, _ = write_folder(tmp_path, 1, (60, 80))
    ring = [[10, 10], [40, 10], [40, 30], [10, 30], [10, 10]]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": name}},
        }
        for name in ("Tumor", "dust")
    ]
    shapes = tmp_path / "a.geojson"
    shapes.write_text(json.dumps(features[:1]))
    store = tmp_path / "labels.ome.zarr"
    given = f"import {shapes} --labels {store}"
    assert execute(shlex.split(given)) == 2
    assert "give --slide" in capsys.readouterr().err
    assert execute(shlex.split(f"{given} --slide {images / 'name0.png'} --mpp 0.5 --values Tumor=gland")) == 0
    assert "1 shape was painted" in capsys.readouterr().out
    with open_labels(store) as labels:
        assert labels.classes == ("gland",)
        assert (labels.read(Window(10, 10, 20, 30)) == 1).all()
        assert labels.kind == "annotation"
    shapes.write_text(json.dumps(features))
    assert execute(shlex.split(f"{given} --values Tumor=gland --json")) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {"dust": 1}
    assert execute(shlex.split(f"{given} --values x=gland")) == 2
    assert "say which class" in capsys.readouterr().err
    # A file of several images, with points
    points = '<points label="cell" points="30,30;60,40"/></image>'
    shapes.write_text(f'<annotations><image name="x.jpg">{points}<image name="y.jpg">{points}</annotations>')
    given = f"import {shapes} --labels {tmp_path / 'c.ome.zarr'} --slide {images / 'name0.png'} --mpp 0.5 --json"
    assert execute(shlex.split(given)) == 2
    assert "outlines of 2 images (x.jpg, y.jpg), none of which is called name0.png" in capsys.readouterr().err
    assert execute(shlex.split(f"{given} --image y.jpg")) == 2
    assert "With a radius, points are read as discs" in capsys.readouterr().err
    assert execute(shlex.split(f"{given} --image y.jpg --radius 2")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shapes"] == 2
    assert abs(found["pixels"] - 2 * 3.1416 * 4**2) < 10
