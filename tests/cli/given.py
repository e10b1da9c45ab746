"""What the tests of the command line share: files to give it, good and bad, and what it says of them."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

import napari_msunet as ms

PACKAGE = Path(ms.__file__).parent
SLIDE = PACKAGE / "demo_data" / "CMU-1-Small-Region.svs"
NUCLEI = PACKAGE / "demo_data" / "nuclei"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    words = [sys.executable, "-m", "napari_msunet", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)


def save_tiny_model(path: Path) -> Path:
    branch = ms.UNetConfig(depth=1, width=2)
    config = ms.ModelConfig(classes=("nucleus",), mpp=1.0, scales=(1, 0.5), branch=branch, fusion="mean")
    return ms.save_model(ms.build_model(config), path)


@dataclass
class Given:
    """Files that cannot be used, and good ones beside them."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / name


def make_given(folder: Path) -> Given:
    """Make them in an empty folder."""
    files = Given(folder)
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


def filled(words: tuple[object, ...], given: Given, out: Path) -> list[str]:
    """The words of a command: ``=name`` is a given file, OUT what is to be written."""
    texts = [str(word).replace(OUT, str(out)) for word in words]
    return [str(given.folder / text[1:]) if text.startswith("=") else text for text in texts]


def check_sentence(code: int, output: str, error: str, words: str) -> None:
    """It ended with one sentence that holds these words (a pattern), and said nothing else."""
    assert code == 2
    *before, last = error.strip().splitlines()
    assert last.startswith("Error: ")
    assert re.search(words, last), last
    assert "Traceback" not in error
    assert not [line for line in before if line.startswith("Error: ")]
    assert output == ""
