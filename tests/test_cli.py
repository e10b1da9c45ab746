"""The command line: every verb, jobs printed and run, bad input in one sentence, Ctrl-C."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file

import napari_msunet as ms
from napari_msunet import doctor
from napari_msunet.cli import app, execute
from napari_msunet.console import _Terminal, epoch_text, left_text
from napari_msunet.events import Message, Metric, Progress
from napari_msunet.jobs import parse_job

PACKAGE = Path(ms.__file__).parent
SLIDE = PACKAGE / "demo_data" / "CMU-1-Small-Region.svs"
NUCLEI = PACKAGE / "demo_data" / "nuclei"
VERBS = ("demo", "doctor", "info", "pyramid", "train", "evaluate", "predict", "measure", "export", "run")


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    words = [sys.executable, "-m", "napari_msunet", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)


def save_tiny_model(path: Path) -> Path:
    branch = ms.UNetConfig(depth=1, width=2)
    config = ms.ModelConfig(classes=("nucleus",), mpp=1.0, scales=(1, 0.5), branch=branch, fusion="mean")
    return ms.save_model(ms.build_model(config), path)


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
        "assert not {'torch', 'lightning', 'zarr', 'napari', 'qtpy'} & set(sys.modules), sys.modules.keys(); "
        "assert rc == 0 and time.process_time() < 1.0, time.process_time()"
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
    assert job.model.mpp == 0.62
    assert job.model.ratios == (Fraction(1), Fraction(1, 2), Fraction(1, 3))
    assert [(b.depth, b.width) for b in job.model.branches] == [(3, 8), (3, 16), (3, 32)]
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
    job = ms.TrainJob(model=ms.ModelConfig(classes=("x",), mpp=0.5), sources=(source,), out=Path("o"))
    assert execute(shlex.split("train --classes x --images a --masks b --mpp 0.5 --out o --print-job")) == 0
    assert parse_job(capsys.readouterr().out) == job
    job = ms.PredictJob(slide=Path("s"), model=Path("m"), out=Path("o"))
    assert execute(shlex.split("predict s --model m --out o --print-job")) == 0
    assert parse_job(capsys.readouterr().out) == job


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


# ----------------------------------------------------------------------------------------------------------- bad input


@dataclass
class Given:
    """Files that cannot be used, and good ones beside them."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    files = Given(tmp_path_factory.mktemp("given"))
    files.words.write_text("This is no image.\n")
    data = SLIDE.read_bytes()
    (files.folder / "cut.svs").write_bytes(data[: len(data) * 2 // 5])
    save_tiny_model(files.model)
    save_file({"a": np.zeros(3, np.float32)}, files.foreign)
    files.damaged.write_bytes(files.model.read_bytes()[:-1000])
    image = np.random.default_rng(0).integers(0, 255, (80, 90, 3), np.uint8)
    for name, mask in (
        ("good", np.ones((80, 90), np.uint8)),
        ("other_size", np.ones((80, 91), np.uint8)),
        ("other_values", np.full((80, 90), 7, np.uint8)),
    ):
        for kind, pixels in (("images", image), ("masks", mask)):
            (files.folder / name / kind).mkdir(parents=True)
            Image.fromarray(pixels).save(files.folder / name / kind / "a.png")
    Image.fromarray(image).save(files.folder / "no_mpp.png")
    with ms.open_slide(SLIDE) as slide:
        ms.LabelStore.create(files.empty, classes=("nucleus",), kind="annotation", slide=slide).close()
    ms.LabelStore.create(files.labels, shape=(40, 50), classes=("nucleus",)).close()
    return files


OUT = "OUT"
PREDICT = ("predict", SLIDE, "--model", "=model", "--out", OUT)
SMALL = ("--depth", "1", "--width", "2")
SHORT = ("--steps", "1", "--epochs", "1", "--size", "32")
GOOD = ("--images", "=good/images", "--masks", "=good/masks", "--mpp", "1")
TINY = ("--classes", "nucleus", "--out", OUT, *SMALL, *SHORT)
FOLDER = ("train", *TINY, *GOOD)
BAD: dict[str, tuple[tuple[object, ...], str]] = {
    "no image": (("predict", "=words", "--model", "=model", "--out", OUT), r"words is no image"),
    "no such slide": (("predict", "=nothing.svs", "--model", "=model", "--out", OUT), r"nothing\.svs is not there"),
    "truncated": (("predict", "=cut.svs", "--model", "=model", "--out", OUT), r"cut\.svs"),
    "no mpp": (("predict", "=no_mpp.png", "--model", "=model", "--out", OUT), r"no µm per pixel.*--slide-mpp"),
    "foreign model": (("predict", SLIDE, "--model", "=foreign", "--out", OUT), "no napari-msunet model"),
    "damaged model": (("predict", SLIDE, "--model", "=damaged", "--out", OUT), "damaged"),
    "text as model": (("predict", SLIDE, "--model", "=words", "--out", OUT), "words cannot be read"),
    "no model": (("predict", SLIDE, "--model", "=nothing", "--out", OUT), "There is no model file"),
    "out below a file": (("predict", SLIDE, "--model", "=model", "--out", "=words/l.ome.zarr"), "cannot be written"),
    "three numbers": ((*PREDICT, "--region", "1,2,3"), "y,x,height,width"),
    "region outside": ((*PREDICT, "--region", "9000,0,5,5"), "holds no pixel of the slide"),
    "empty region": ((*PREDICT, "--region", "10,10,0,5"), "is empty"),
    "margin": ((*PREDICT, "--margin", "wide"), "margin: Input should be 'exact' or 'fast'"),
    "tile": ((*PREDICT, "--tile", "0"), "tile: Input should be greater than or equal to 1"),
    "device": ((*PREDICT, "--device", "toaster"), "'toaster' is no device"),
    "mask of another size": (
        ("train", *TINY, "--images", "=other_size/images", "--masks", "=other_size/masks", "--mpp", "1"),
        r"80 x 91.*80 x 90|80 x 90.*80 x 91",
    ),
    "mask values": (
        ("train", *TINY, "--images", "=other_values/images", "--masks", "=other_values/masks", "--mpp", "1"),
        "7",
    ),
    "empty annotation": (
        ("train", *TINY, "--slide", SLIDE, "--labels", "=empty", "--model-mpp", "1"),
        "annotat",
    ),
    "images without mpp": (
        ("train", *TINY, "--images", "=good/images", "--masks", "=good/masks", "--model-mpp", "1"),
        "µm a pixel has",
    ),
    "scale 0": ((*FOLDER, "--scales", "1,0"), r"scale 0\.0 is not above zero"),
    "scale -1": ((*FOLDER, "--scales", "1,-1"), r"scale -1\.0 is not above zero"),
    "scale 1/0": ((*FOLDER, "--scales", "1/0"), "are no numbers"),
    "scale pi": ((*FOLDER, "--scales", "3.14159"), "no ratio of whole numbers"),
    "two widths": (("train", "--classes", "a", "--out", OUT, *GOOD, "--width", "8,16"), "one for each of the 3 scales"),
    "said twice": ((*FOLDER, "--size", "64"), "--size specified multiple times"),
    "no masks": (("train", *TINY, "--images", "=good/images", "--mpp", "1"), "--masks 0 times"),
    "nothing": (("train", *TINY, "--mpp", "1"), "No images are given"),
    "no folder": (("train", *TINY, "--images", "=nothing", "--masks", "=good/masks", "--mpp", "1"), "no folder"),
    "values": ((*FOLDER, "--values", "one=gland"), "--values 'one=gland' cannot be read"),
    "source": ((*FOLDER, "--source", '{"kind": "cloud"}'), "cloud"),
    "train below a file": (
        ("train", "--classes", "a", "--out", "=words/run", *SMALL, *SHORT, *GOOD),
        "words/run",
    ),
    "evaluate nothing": (("evaluate", "--model", "=model"), "No images are given"),
    "measure without mpp": (("measure", "=labels", "--out", "OUT.csv"), "µm per pixel"),
    "measure an image": (("measure", "=good", "--out", "OUT.csv"), "zarr.json"),
    "export ending": (("export", "=labels", "--out", "OUT.bmp"), r"\.geojson, \.ome\.tif"),
    "export below a file": (("export", "=labels", "--out", "=words/x.png"), "is a file, not a folder"),
    "pyramid of words": (("pyramid", "=words", "--out", OUT), "words is no image"),
    "job of words": (("run", "=words"), "Invalid JSON"),
    "no job": (("run", "=nothing.json"), "No such file"),
    "info": (("info", "=nothing"), "There is nothing at"),
    "unknown verb": (("trian",), 'Unknown command "trian"'),
    "unknown option": ((*PREDICT, "--colour", "red"), "--colour"),
    "no number": ((*FOLDER, "--seed", "many"), "--seed.*many"),
}


def filled(words: tuple[object, ...], given: Given, out: Path) -> list[str]:
    texts = [str(word).replace(OUT, str(out)) for word in words]
    return [str(given.folder / text[1:]) if text.startswith("=") else text for text in texts]


def check_sentence(code: int, output: str, error: str, words: str) -> None:
    assert code == 2
    *before, last = error.strip().splitlines()
    assert last.startswith("Error: ")
    assert re.search(words, last), last
    assert "Traceback" not in error
    assert not [line for line in before if line.startswith("Error: ")]
    assert output == ""


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name: str, given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words, expected = BAD[name]
    before = sorted(given.folder.rglob("*"))
    code = execute(filled(words, given, tmp_path / "out"))
    shown = capsys.readouterr()
    check_sentence(code, shown.out, shown.err, expected)
    assert list(tmp_path.iterdir()) == []
    assert sorted(given.folder.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("no image", "truncated", "no mpp", "foreign model", "mask of another size", "mask values"),
        *("empty annotation", "scale 0", "scale -1", "out below a file", "export below a file", "unknown verb"),
    ],
)
def test_bad_input_in_a_process_of_its_own(name: str, given: Given, tmp_path: Path):
    words, expected = BAD[name]
    done = command(*filled(words, given, tmp_path / "out"))
    check_sentence(done.returncode, done.stdout, done.stderr, expected)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- full disk, read-only


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a disk of a few kilobytes, or a read-only one."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here; it needs the rights of an administrator")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


WRITERS: dict[str, tuple[object, ...]] = {
    "train": ("train", *FOLDER[1:], "--scales", "1"),
    "predict": PREDICT,
    "evaluate": (
        *("evaluate", "--model", "=model", "--images", "=good/images", "--masks", "=good/masks", "--mpp", "1"),
        *("--out", OUT),
    ),
    "pyramid": ("pyramid", SLIDE, "--out", OUT),
    "measure": ("measure", "=big", "--out", "OUT.csv"),
    **{f"export {e}": ("export", "=big", "--out", f"OUT{e}") for e in (".geojson", ".ome.tif", ".ome.zarr", ".png")},
}


@pytest.fixture(scope="module")
def big(given: Given) -> Path:
    noise = np.random.default_rng(0).integers(0, 2, (500, 500)).astype(np.uint8)
    with ms.LabelStore.create(given.big, shape=noise.shape, mpp=0.5, classes=("nucleus",)) as store:
        store.write(ms.Region(0, 0, *noise.shape), noise)
    return given.big


@pytest.mark.parametrize("kind", ["full", "read-only"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_refuses(
    name: str,
    kind: str,
    given: Given,
    big: Path,
    small_disk: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
):
    # "full": room for names and one page, so that a write fails in the middle
    disk = small_disk("size=4k" if kind == "full" else "size=4k,ro")
    code = execute(filled(WRITERS[name], given, disk / "out"))
    shown = capsys.readouterr()
    check_sentence(code, shown.out, shown.err, "out")
    left = [path for path in disk.rglob("*") if path.is_file()]
    if name in ("train", "predict", "evaluate"):  # several files, or to be gone on with: what is there is whole
        assert not [path for path in left if "part" in path.suffix]
    else:
        assert left == []


# -------------------------------------------------------------------------------------------------- others, and Ctrl-C

HOLDER = """
import sys, time, napari_msunet as ms
labels = ms.open_labels(sys.argv[1])
labels.write(ms.Region(0, 0, 5, 5), 1)
print("held", flush=True)
time.sleep(120)
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A label store of the slide into which another process writes."""
    with ms.open_slide(SLIDE) as slide:
        store = ms.LabelStore.create(tmp_path / "held.ome.zarr", classes=("nucleus",), slide=slide, mpp=1.0)
    store.close()
    words = [sys.executable, "-c", HOLDER, str(store.path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield store.path
        process.kill()


def test_predicting_into_labels_that_somebody_edits_fills_the_run_and_says_who(
    held: Path, given: Given, capsys: pytest.CaptureFixture[str]
):
    words = ["predict", str(SLIDE), "--model", str(given.model), "--out", str(held), "--region", "0,0,200,200"]
    assert execute(words) == 0
    error = capsys.readouterr().err
    assert re.search(r"Warning: .*not merged.*(held|process)", error), error
    (run,) = ms.open_labels(held).runs
    assert run.complete


@contextmanager
def started(words: list[object]) -> Iterator[subprocess.Popen[str]]:
    """The command, running; killed in the end if it still does."""
    command = [sys.executable, "-m", "napari_msunet", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_keeps_the_best_model_and_says_so(tmp_path: Path):
    words = ["train", "--classes", "nucleus", "--out", tmp_path / "run", *SMALL, "--steps", "2", "--epochs", "100000"]
    words += ["--images", NUCLEI / "test" / "images", "--masks", NUCLEI / "test" / "masks", "--values", "instances"]
    words += ["--table", NUCLEI / "nuclei.csv", "--model-mpp", "1", "--size", "32", "--stop-after", "100000"]
    with started(words) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    assert "The best model so far is" in rest
    assert "Traceback" not in rest
    assert ms.load_model(tmp_path / "run" / "model.safetensors").config.classes == ("nucleus",)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_stopped_prediction_goes_on(tmp_path: Path, given: Given):
    out = tmp_path / "labels.ome.zarr"
    words = ["predict", SLIDE, "--model", given.model, "--out", out, "--tile", "64", "--region", "0,0,1400,1400"]
    with started(words) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and not any(p.stat().st_size for p in out.glob("runs/[!.]*/ledger.jsonl")):
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "the same command goes on where it stopped" in error
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Going on with the run \w+: [1-9]\d* of", done.stderr)
