"""Many slides: folders and tables, a table of results, a slide that fails, going on, the command line."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image
from shapely.geometry import Polygon, mapping

import napari_msunet as ms
from napari_msunet.cli import execute
from napari_msunet.config import Drawn, GivenSlide, InClasses, PredictManyJob, PredictSettings
from napari_msunet.errors import MsunetError
from napari_msunet.events import Message, Progress, Result
from napari_msunet.inference.many_slides import ResultsTable, class_areas
from napari_msunet.inference.slide_inputs import drawn, is_many, parse_where, slide_inputs
from napari_msunet.jobs.run import parse_job
from napari_msunet.labels.store import is_open


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    branch = ms.UNetConfig(depth=1, width=2)
    config = ms.ModelConfig(classes=("gland", "stroma"), mpp=1.0, scales=(1, 0.5), branch=branch, fusion="mean")
    return ms.save_model(ms.build_model(config), tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """A folder with two images, one of them below, and one that is none."""
    folder = tmp_path / "slides"
    (folder / "b").mkdir(parents=True)
    for seed, path in enumerate((folder / "one.png", folder / "b" / "two.png")):
        noise = np.random.default_rng(seed).integers(0, 255, (90, 110, 3), np.uint8)
        Image.fromarray(noise).save(path)
    (folder / "broken.png").write_bytes(b"\x89PNG no more")
    (folder / "notes.doc").write_text("no slide")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def job_for(model: Path, slides: Path, out: Path, **settings: object) -> PredictManyJob:
    given = [s.model_copy(update={"mpp": 1.0}) for s in slide_inputs([slides], out)]
    return PredictManyJob(slides=given, out=out, settings=PredictSettings(model=model, device="cpu", **settings))


# ------------------------------------------------------------------------------------------------------------- running


def test_one_that_fails_does_not_stop_the_rest_and_all_are_in_the_table(model: Path, slides: Path, tmp_path: Path):
    out = tmp_path / "out"
    job = job_for(model, slides, out)
    events = list(ms.run(job))
    assert events[-1].values == {"slides": 3, "done": 2, "skipped": 0, "failed": 1}
    assert Path(events[-1].files["results"]) == out / "results.csv"
    found = {Path(row["slide"]).name: row for row in rows(out / "results.csv")}
    assert {name: row["status"] for name, row in found.items()} == {
        "two.png": "done",
        "broken.png": "failed",
        "one.png": "done",
    }
    assert found["broken.png"]["error"].endswith(".")
    assert "broken.png" in found["broken.png"]["error"]
    two = found["two.png"]
    assert two["labels"] == "b/two.ome.zarr"
    assert float(two["megapixels"]) == pytest.approx(90 * 110 / 1e6)
    assert float(two["seconds"]) > 0
    assert float(two["megapixels_per_second"]) > 0
    with ms.open_labels(out / two["labels"]) as store:
        run = store.run(two["run"])
        labels = run.read(ms.geometry.Window(0, 0, 90, 110))
        areas = class_areas(run)
    assert set(np.unique(labels)) != {0}
    for value, name in enumerate(("gland", "stroma"), 1):
        assert float(two[f"mm2 {name}"]) == pytest.approx((labels == value).sum() / 1e6, rel=1e-4)
        assert areas[name] == (labels == value).sum()
    assert any(isinstance(e, Message) and e.level == "error" and e.text.startswith("broken.png: ") for e in events)
    steps = [e.done for e in events if isinstance(e, Progress)]
    assert steps == sorted(steps)
    assert steps[-1] == 3
    assert not is_open(out / "one.ome.zarr")


def test_the_table_is_whole_after_each_slide(model: Path, slides: Path, tmp_path: Path):
    out = tmp_path / "out"
    counts = []
    for event in ms.run(job_for(model, slides, out)):
        if isinstance(event, Progress) and event.done in (1, 2, 3):
            counts.append(len(rows(out / "results.csv")))
            assert sorted(p.name for p in out.iterdir() if "part" in p.name) == []
    assert counts == sorted(counts)
    assert {1, 2, 3} <= set(counts)


def test_started_again_it_goes_on(model: Path, slides: Path, tmp_path: Path):
    out = tmp_path / "out"
    job = job_for(model, slides, out)
    first = []
    events = ms.run(job)
    for event in events:
        first.append(event)
        if isinstance(event, Progress) and event.done == 1:
            break
    events.close()
    pace = rows(out / "results.csv")[0]
    shutil.copy(slides / "one.png", slides / "broken.png")  # mended meanwhile
    again = list(ms.run(job))
    assert again[-1].values == {"slides": 3, "done": 2, "skipped": 1, "failed": 0}
    found = {Path(row["slide"]).name: row for row in rows(out / "results.csv")}
    assert found["two.png"]["status"] == "skipped"
    assert found["two.png"]["seconds"] == pace["seconds"]  # of the time when it was computed
    assert list(ms.run(job))[-1].values == {"slides": 3, "done": 0, "skipped": 3, "failed": 0}
    other = job.model_copy(update={"settings": job.settings.model_copy(update={"tile": 32})})
    assert list(ms.run(other))[-1].values["done"] == 3  # another setting is another run


def test_a_store_that_is_open_here_stays_open(model: Path, slides: Path, tmp_path: Path):
    job = job_for(model, slides, tmp_path / "out")
    list(ms.run(job))
    with ms.open_labels(tmp_path / "out" / "one.ome.zarr") as store:
        list(ms.run(job.model_copy(update={"settings": job.settings.model_copy(update={"tile": 32})})))
        store.write(ms.Region(0, 0, 5, 5), 1)
    assert isinstance(list(ms.run(job))[-1], Result)


def test_tables_that_are_none_and_rows_that_stay(tmp_path: Path):
    path = tmp_path / "results.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(MsunetError, match="is no table of results"):
        ResultsTable(path)
    path.unlink()
    ResultsTable(path).put(tmp_path / "a.ome.zarr", {"slide": "a", "status": "done", "mm2 gland": "1.5"})
    ResultsTable(path).put(Path("/elsewhere/b.ome.zarr"), {"slide": "b", "status": "failed", "error": 'x, "y"\nz'})
    table = ResultsTable(path)
    assert [row["labels"] for row in table.rows] == ["a.ome.zarr", "/elsewhere/b.ome.zarr"]
    assert table.rows[1]["error"] == 'x, "y"\nz'
    assert table.row(tmp_path / "a.ome.zarr")["mm2 gland"] == "1.5"


# ---------------------------------------------------------------------------------------------------- what is given


def test_folders(slides: Path, tmp_path: Path):
    ms.build_pyramid(slides / "one.png", slides / "c.ome.zarr", mpp=1.0)
    ms.LabelStore.create(slides / "labels.ome.zarr", shape=(5, 5), classes=("x",)).close()
    (slides / "scan.mrxs").touch()
    (slides / "scan").mkdir()
    (slides / "scan" / "Data0000.jpg").touch()
    (slides / ".hidden.png").touch()
    out = tmp_path / "out"
    found = {
        s.slide.relative_to(slides).as_posix(): s.out.relative_to(out).as_posix() for s in slide_inputs([slides], out)
    }
    assert found == {
        "b/two.png": "b/two.ome.zarr",
        "broken.png": "broken.ome.zarr",
        "c.ome.zarr": "c.ome.zarr",
        "one.png": "one.ome.zarr",
        "scan.mrxs": "scan.ome.zarr",
    }
    (slides / "scan" / "nothing").mkdir()
    assert is_many([slides])
    assert is_many([slides / "one.png", slides / "b" / "two.png"])
    assert not is_many([slides / "c.ome.zarr"])
    assert not is_many([slides / "one.png"])
    with pytest.raises(MsunetError, match="No slide was found in"):
        slide_inputs([slides / "scan" / "nothing"], out)


def test_same_names(slides: Path, tmp_path: Path):
    Image.new("RGB", (9, 9)).save(slides / "one.jpg")
    names = {s.out.name for s in slide_inputs([slides / "one.png", slides / "one.jpg"], tmp_path)}
    assert names == {"one.png.ome.zarr", "one.jpg.ome.zarr"}
    (tmp_path / "other").mkdir()
    shutil.copy(slides / "one.png", tmp_path / "other" / "one.png")
    with pytest.raises(MsunetError, match=r"have the same name; give a CSV with the columns slide and out"):
        slide_inputs([slides / "one.png", tmp_path / "other" / "one.png"], tmp_path)


def test_tables_of_slides(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = slides / "list.csv"
    table.write_text(
        "\ufeffslide,Slide_MPP,out,group,where,comment\none.png,0.25,x/one.ome.zarr,p1,tissue,-\nb/two.png,,,p2,,\n"
    )
    monkeypatch.chdir(tmp_path)
    one, two = slide_inputs([table], Path("out"))
    assert (one.slide, one.mpp, one.out) == (slides / "one.png", 0.25, slides / "x" / "one.ome.zarr")
    assert (one.group, one.where) == ("p1", "tissue")
    assert (two.slide, two.mpp, two.out) == (slides / "b/two.png", None, Path("out/two.ome.zarr"))
    for text, words in (
        ("path\na.png\n", "one called slide is needed"),
        ("slide,mpp\na.png,fine\n", "Row 2 of .* has 'fine' as µm per pixel"),
        ("slide,mpp\n,1\n", "Row 2 of .* names no slide"),
        ("slide,where\na.png,nowhere\n", "none of: tissue"),
    ):
        table.write_text(text)
        with pytest.raises(MsunetError, match=words):
            slide_inputs([table], tmp_path)
    lines = slides / "list.txt"
    lines.write_text("one.png\n\nb/two.png\n")
    assert [s.slide for s in slide_inputs([lines], tmp_path)] == [slides / "one.png", slides / "b/two.png"]
    semicolons = slides / "german.csv"
    semicolons.write_text("slide;mpp\none.png;0.5\n")
    assert slide_inputs([semicolons], tmp_path)[0].mpp == 0.5


def test_a_store_for_each(tmp_path: Path):
    item = GivenSlide(slide=Path("a"), out=Path("o"))
    with pytest.raises(ValueError, match="both go to o; give each its own label store"):
        PredictManyJob(slides=(item, GivenSlide(slide=Path("b"), out=Path("o"))), out=tmp_path, settings={"model": "m"})


def test_each_slide_has_its_own_outlines_in_one_file(slides: Path, model: Path, tmp_path: Path, capsys):
    images = [{"id": n, "file_name": name} for n, name in enumerate(("two.jpg", "one.jpg"))]
    found = [
        {"image_id": n, "category_id": 1, "segmentation": [[n, 10, n + 20, 10, n + 20, 30]]} for n in range(len(images))
    ]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": found, "categories": []}))
    given = ["predict", "--model", str(model), "--out", str(tmp_path / "out"), "--where", str(path), "--print-job"]
    (slides / "broken.png").rename(slides / "one.tif")  # fails when its turn comes
    assert execute([*given, str(slides)]) == 0
    job = parse_job(capsys.readouterr().out)
    drawn_at = {s.slide.name: s.where.polygons[0][0][1] for s in job.slides}
    assert drawn_at == {"two.png": 0, "one.png": 1, "one.tif": 1}
    (slides / "one.tif").rename(slides / "broken.png")
    assert execute([*given, str(slides / "one.png")]) == 0
    assert parse_job(capsys.readouterr().out).where.polygons[0][0] == (10, 1)
    assert parse_where(f"{path}:two.jpg").polygons[0][0] == (10, 0)
    (slides / "broken.png").rename(slides / "three.png")
    assert execute([*given, str(slides)]) == 2
    assert "none of which is called three.png" in capsys.readouterr().err
    table = tmp_path / "t.csv"
    table.write_text("slide,where\nslides/one.png,coco.json\n")
    (one,) = slide_inputs([table], tmp_path)
    assert one.where.polygons[0][0] == (10, 1)


def test_where_a_slide_is_computed(tmp_path: Path):
    outer, holes = (
        [(0, 0), (10, 0), (10, 20), (0, 20)],
        [[(2, 2), (4, 2), (4, 4), (2, 4)], [(6, 6), (8, 6), (8, 9), (6, 9)]],
    )
    ring = Polygon(outer, holes)
    other = Polygon([(30, 30), (40, 30), (40, 31)])
    features = [{"type": "Feature", "geometry": mapping(g), "properties": {}} for g in (ring, other)]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    where = parse_where("a.geojson", tmp_path)
    assert isinstance(where, Drawn)
    pieces = [Polygon([(x, y) for y, x in polygon]) for polygon in where.polygons]
    together = shapely.union_all(pieces)
    assert together.symmetric_difference(shapely.union_all([ring, other])).area < 1e-9
    assert sum(p.area for p in pieces) == pytest.approx(together.area)
    (tmp_path / "l.ome.zarr").mkdir()
    assert parse_where("l.ome.zarr:gland, stroma", tmp_path) == InClasses(
        labels=tmp_path / "l.ome.zarr", classes=("gland", "stroma")
    )
    assert parse_where("l.ome.zarr", tmp_path) == InClasses(labels=tmp_path / "l.ome.zarr")
    assert [parse_where("all"), parse_where("tissue")] == ["all", "tissue"]
    path.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(MsunetError, match="holds no area"):
        drawn(path)
    path.write_text("{")
    with pytest.raises(MsunetError, match="is damaged"):
        drawn(path)
    with pytest.raises(MsunetError, match="cannot be read"):
        drawn(tmp_path / "no.geojson")


# ------------------------------------------------------------------------------------------------------ command line


def test_the_command_over_a_folder(
    model: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    words = ["predict", "slides", "--model", str(model), "--out", "out", "--slide-mpp", "1", "--device", "cpu"]
    assert execute(words) == 1
    shown = capsys.readouterr()
    assert "failed: 1" in shown.out
    assert "1 of 3 slides failed" in shown.err
    os.remove(slides / "broken.png")
    assert execute(words) == 0
    assert "skipped: 2" in capsys.readouterr().out


def test_all_options_reach_the_jobs(slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [
        "predict",
        str(slides),
        "--model",
        "a",
        "--model",
        "b",
        "--out",
        "o",
        "--slide-mpp",
        "0.3",
        "--where",
        "tissue",
    ]
    words += ["--outputs", "labels,entropy,instances", "--threshold", "gland=0.6", "--threshold", "my stroma=0.25"]
    words += ["--smallest", "30", "--holes", "20", "--smoothing", "1.5", "--memory", "3", "--tta", "flips"]
    words += ["--precision", "bfloat16", "--compile", "--engine", "onnx", "--channels", "DAPI,2", "--margin", "fast"]
    words += ["--cluster", "slurm:20", "--cluster-threads", "4", "--cluster-option", "queue=gpu", "--print-job"]
    words += ["--instances", "boundary", "--boundary", "edge", "--spacing", "7"]
    assert execute(words) == 0
    job = parse_job(capsys.readouterr().out)
    assert isinstance(job, PredictManyJob)
    one = job.one(job.slides[0])
    assert one.models == (Path("a"), Path("b"))
    assert (one.where, one.outputs, one.slide_mpp) == ("tissue", ("labels", "entropy", "instances"), 0.3)
    post = one.postprocess
    assert post.thresholds == {"gland": 0.6, "my stroma": 0.25}
    assert (post.smallest, post.holes, post.smoothing, post.spacing) == (30, 20, 1.5, 7)
    assert (post.instances, post.boundary) == ("boundary", "edge")
    assert (one.memory, one.tta, one.precision, one.compile, one.engine) == (3, "flips", "bfloat16", True, "onnx")
    assert (one.channels, one.margin) == (("DAPI", 2), "fast")
    assert one.cluster is not None
    assert (one.cluster.at, one.cluster.workers, one.cluster.threads) == ("slurm:20", 20, 4)
    assert one.cluster.options == {"queue": "gpu"}


def test_the_plan_is_printed_and_nothing_is_written(
    model: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = [
        "predict",
        str(slides / "one.png"),
        "--model",
        str(model),
        "--out",
        str(tmp_path / "o"),
        "--slide-mpp",
        "1",
    ]
    assert execute([*words, "--plan", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tiles"] >= 1
    assert found["useful_pixels"] >= 90 * 110
    assert {"memory_gb", "seconds", "network_pixels"} <= set(found)
    assert execute([*words, "--plan"]) == 0
    assert "tiles: " in capsys.readouterr().out
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--threshold", "gland"], "--threshold 'gland' cannot be read; give NAME=VALUE"),
        (["--threshold", "gland=two"], "thresholds.gland"),
        (["--threshold", "gland=2"], "less than 1"),
        (["--outputs", "labels,heat"], "--outputs 'labels,heat' cannot be read; give labels, probabilities"),
        (["--where", "nowhere"], "none of: tissue"),
        (["--cluster", "pbs:3"], "is no cluster; give local:2"),
        (["--cluster-option", "queue=gpu"], "need a --cluster"),
        (["--instances", "boundary"], "needs the name of the class"),
    ],
)
def test_bad_options_are_one_sentence(
    more: list[str], words: str, slides: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = ["predict", str(slides / "one.png"), "--model", str(model), "--out", str(tmp_path / "o"), *more]
    assert execute(given) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.strip().count("\n") == 0
    assert not (tmp_path / "o").exists()


def test_no_slide_at_all(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert execute(["predict", "--model", str(model), "--out", str(tmp_path / "o")]) == 2
    assert "No slide was given" in capsys.readouterr().err
