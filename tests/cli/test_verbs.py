"""The command line: every verb, the doctor, jobs printed and run, the whole way."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli.given import NUCLEI, SLIDE, command
from rich.console import Console

import napari_msunet as ms
from napari_msunet.app import doctor
from napari_msunet.cli import app, execute
from napari_msunet.cli.running import _Terminal, epoch_text, left_text
from napari_msunet.events import Message, Metric, Progress
from napari_msunet.jobs.run import parse_job

VERBS = ("demo", "doctor", "info", "pyramid", "train", "evaluate", "predict", "measure", "export", "run")

# --------------------------------------------------------------------------------------------------------- help, start


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_each_option(verb: str, capsys: pytest.CaptureFixture[str]):
    assert execute([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: napari-msunet {verb}" in shown
    for argument in app[verb].assemble_argument_collection(parse_docstring=True):
        if argument.show:
            assert argument.parameter.help, f"{verb} {argument.name} has no sentence"


def test_help_is_quick_and_needs_no_torch():
    code = (
        "import sys, time, resource; from napari_msunet.cli import execute; rc = execute(['--help']); "
        "assert not {'torch', 'lightning', 'numpy', 'zarr', 'napari', 'qtpy'} & set(sys.modules), sys.modules.keys(); "
        "assert rc == 0 and time.process_time() < 1.5, time.process_time()"  # 0.6 at rest; twice that beside other work
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


def test_the_version():
    done = command("--version")
    assert (done.returncode, done.stdout.strip()) == (0, ms.__version__)


def test_the_script_is_installed():
    script = Path(sys.executable).with_name("napari-msunet")
    done = subprocess.run([script, "info", SLIDE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "height: 2967" in done.stdout


# -------------------------------------------------------------------------------------------------------------- doctor


def test_doctor(capsys: pytest.CaptureFixture[str]):
    assert execute(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in (
        "napari-msunet",
        "torch 2",
        "openslide library: 4",
        "cores",
        "GPU is used",
        "GB free",
        "settings folder",
    ):
        assert word in text
    assert execute(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["numpy"] == np.__version__
    assert re.match(r"Your GPU is used: \S|No GPU is used: \S", found["gpu"])


@pytest.mark.parametrize(
    ("built_for", "driver", "hidden", "words"),
    [
        (
            None,
            False,
            None,
            "no NVIDIA driver was found on this machine, and this PyTorch (2.0) is a build for the CPU",
        ),
        (None, True, None, "built without CUDA; install a CUDA build"),
        ("12.8", False, None, "no NVIDIA driver was found on this machine (this PyTorch is ready for CUDA 12.8)"),
        ("12.8", True, "", "CUDA_VISIBLE_DEVICES='' hides it"),
        ("12.8", True, None, "the NVIDIA driver shows no device"),
    ],
)
@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has other reasons")
def test_doctor_says_why_no_gpu_is_used(built_for: str | None, driver: bool, hidden: str | None, words: str):
    assert words in doctor._why_no_gpu(built_for, "2.0", driver, hidden)


# ---------------------------------------------------------------------------------------------------------------- jobs

TRAIN = (
    *("train", "--classes", "gland,stroma", "--images", "a", "--masks", "b", "--images", "c", "--masks", "d"),
    *("--mpp", "0.62", "--values", "1=gland,2=stroma,9=background", "--table", "t.csv", "--group", "patient"),
    *("--slide", "s.svs", "--labels", "s.ome.zarr", "--scales", "1,1/2,1/3", "--fusion", "concat"),
    *("--width", "8,16,32", "--depth", "3", "--size", "128", "--batch-size", "4", "--epochs", "7"),
    *("--time-limit", "60", "--out", "run", "--no-augment", "--branch-loss", "0", "--learning-rate", "0.01"),
    *("--source", '{"kind": "folder", "images": "e", "masks": "f", "values": "instances", "role": "test"}'),
)


def test_train_builds_the_job_that_run_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert execute([*TRAIN, "--print-job"]) == 0
    printed = capsys.readouterr().out
    job = parse_job(printed)
    assert isinstance(job, ms.TrainJob)
    assert job.model.classes == ("gland", "stroma")
    assert job.model.mpp is None  # chosen from the images, since --model-mpp was not given
    assert job.model.scales == pytest.approx((1, 1 / 2, 1 / 3))
    assert [(b.depth, b.width) for b in job.model.branch] == [(3, 8), (3, 16), (3, 32)]
    assert (job.size, job.batch_size, job.epochs, job.time_limit, job.model.fusion) == (128, 4, 7, 60, "concat")
    assert (job.augmentation.rotate, job.loss.branch, job.optimiser.learning_rate) == (0, 0, 0.01)
    first, second, slide, last = job.sources
    assert (first.images, first.masks, first.mpp, first.group) == (Path("a"), Path("b"), 0.62, "patient")
    assert first.values == {1: "gland", 2: "stroma", 9: "background"}
    assert (second.images, second.table) == (Path("c"), Path("t.csv"))
    assert (slide.slide, slide.labels) == (Path("s.svs"), Path("s.ome.zarr"))
    assert (last.values, last.role, last.mpp) == ("instances", "test", None)
    (tmp_path / "job.json").write_text(printed)
    assert execute(["run", str(tmp_path / "job.json"), "--print-job"]) == 0
    assert capsys.readouterr().out == printed


def test_defaults_are_those_of_the_jobs(capsys: pytest.CaptureFixture[str]):
    source = ms.FolderSource(images=Path("a"), masks=Path("b"), mpp=0.5)
    job = ms.TrainJob(model=ms.AutoModel(classes=("x",)), sources=(source,), out=Path("o"))
    assert execute(shlex.split("train --classes x --images a --masks b --mpp 0.5 --out o --print-job")) == 0
    assert parse_job(capsys.readouterr().out) == job
    job = ms.PredictJob(slide=Path("s"), model=Path("m"), out=Path("o"))
    assert execute(shlex.split("predict s --model m --out o --print-job")) == 0
    assert parse_job(capsys.readouterr().out) == job


def test_tune_has_the_options_of_train_and_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    space = {"optimiser.learning_rate": {"low": 0.001, "high": 0.01, "log": True}, "batch_size": [4, 8]}
    (tmp_path / "space.json").write_text(json.dumps(space))
    words = shlex.split("tune --classes x --images a --masks b --mpp 0.5 --out o --scales 1 --time-limit 20 --width 8")
    own = shlex.split(
        "--sampler gp --pruner hyperband --trials 7 --workers 2 --folds 4 --storage postgresql://h/d --study s"
    )
    assert execute([*words, *own, "--space", str(tmp_path / "space.json"), "--resume", "--print-job"]) == 0
    job = parse_job(capsys.readouterr().out)
    assert isinstance(job, ms.TuneJob)
    assert (job.sampler, job.pruner, job.trials, job.workers, job.folds) == ("gp", "hyperband", 7, 2, 4)
    assert (job.storage, job.study, job.resume, job.out) == ("postgresql://h/d", "s", True, Path("o"))
    assert set(job.space) == {"optimiser.learning_rate", "batch_size"}
    assert (job.training.time_limit, job.training.resume, job.training.model.branch.width) == (20, False, 8)
    assert execute([*words, "--print-job"]) == 0
    assert "model.scales" not in parse_job(capsys.readouterr().out).searched
    assert execute([*words, "--space", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert execute([*words, "--space", '{"optimiser.learning_rat": [1]}']) == 2
    assert "did you mean optimiser.learning_rate?" in capsys.readouterr().err


def test_predict_and_evaluate_options_reach_the_job(capsys: pytest.CaptureFixture[str]):
    words = "predict s --model m --out o --region 1,2,3,4.5 --margin 16 --tile 300 --probabilities --slide-mpp 0.3"
    assert execute([*words.split(), "--device", "cpu", "--probability-dtype", "uint8", "--print-job"]) == 0
    job = parse_job(capsys.readouterr().out)
    assert (job.region, job.margin, job.tile, job.slide_mpp) == ((1, 2, 3, 4.5), 16, 300, 0.3)
    assert (job.outputs, job.device, job.probability_dtype) == (("labels", "probabilities"), "cpu", "uint8")
    words = "evaluate --model m --images a --masks b --roles test,validate --out e --print-job"
    assert execute(words.split()) == 0
    job = parse_job(capsys.readouterr().out)
    assert (job.roles, job.out, job.sources[0].images) == (("test", "validate"), Path("e"), Path("a"))


# ------------------------------------------------------------------------------------------------------- the whole way


def test_from_images_to_polygons(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(*words: object) -> str:
        assert execute([str(w) for w in words]) == 0
        return capsys.readouterr().out

    images = ("--images", NUCLEI / "train" / "images", "--masks", NUCLEI / "train" / "masks")
    images += ("--values", "instances", "--table", NUCLEI / "nuclei.csv")
    out, model, labels = tmp_path / "run", tmp_path / "run" / "model.safetensors", tmp_path / "labels.ome.zarr"
    small = shlex.split(
        "--model-mpp 1 --scales 1,1/2 --depth 1 --width 2 --size 64 --steps 2 --epochs 2 --batch-size 2"
    )
    trained = json.loads(run("train", "--classes", "nucleus", *images, *small, "--out", out, "--json"))
    assert trained["values"]["epochs"] == 2
    assert Path(trained["files"]["model"]) == model
    assert "fusion: attention" in run("info", model)
    table = run("evaluate", "--model", model, *images, "--out", tmp_path / "scores")
    assert re.search(r"fused +nucleus +0\.\d+", table)
    assert "scale 1/2" in table
    run("predict", SLIDE, "--model", model, "--out", labels, "--region", "300,300,200,260")
    assert "is: label store" in run("info", labels)
    assert "nucleus" in run("measure", labels, "--out", tmp_path / "objects.csv")
    run("export", labels, "--out", tmp_path / "labels.geojson")
    assert json.loads((tmp_path / "labels.geojson").read_text())["type"] == "FeatureCollection"
    run("pyramid", NUCLEI / "train" / "images" / "00ae65c1c6631ae6.jpg", "--out", tmp_path / "i.ome.zarr", "--mpp", 0.5)
    assert json.loads(run("info", tmp_path / "i.ome.zarr", "--json"))["um_per_pixel"] == [0.5, 0.5]


def test_numbers_as_text():
    metrics = [
        Metric(epoch=3, name="loss", split="train", value=0.5),
        Metric(epoch=3, name="iou", split="validation", value=0.75),
        Metric(epoch=3, name="iou", split="validation", output="scale 1/2", value=0.625),
        Metric(epoch=3, name="learning_rate", split="train", value=0.002),
    ]
    wanted = "epoch 3  |  train: loss 0.500  |  validation: iou 0.750; scale 1/2 iou 0.625  |  learning rate 0.002"
    assert epoch_text(metrics) == wanted
    texts = [left_text(None), left_text(5.2), left_text(65), left_text(7300)]
    assert texts == ["", ", 5 s left", ", 1 min 5 s left", ", 2 h 1 min left"]


def test_a_terminal_shows_a_bar_and_the_time_left():
    shown = io.StringIO()
    with _Terminal(Console(file=shown, force_terminal=True, width=90)) as screen:
        screen.show(Progress(done=3, total=12, unit="tiles", seconds_left=65.0))
        screen.show(Message(level="warning", text="[odd] text"))
    text = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", shown.getvalue())
    assert "3 of 12 tiles" in text
    assert "1 min 5 s left" in text
    assert "Warning: [odd] text" in text
