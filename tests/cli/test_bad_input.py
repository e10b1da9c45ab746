"""Bad input to the command is one sentence, and leaves nothing behind."""

from pathlib import Path

import pytest
from cli.given import (
    FOLDER,
    GOOD,
    OUT,
    PREDICT,
    SHORT,
    SLIDE,
    SMALL,
    TINY,
    Given,
    check_sentence,
    command,
    filled,
    make_given,
)

from napari_msunet.cli import execute


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return make_given(tmp_path_factory.mktemp("given"))


BAD: dict[str, tuple[tuple[object, ...], str]] = {
    "no image": (("predict", "=words", "--model", "=model", "--out", OUT), r"words is no image"),
    "no such slide": (("predict", "=nothing.svs", "--model", "=model", "--out", OUT), r"nothing\.svs is not there"),
    "truncated": (("predict", "=cut.svs", "--model", "=model", "--out", OUT), r"cut\.svs"),
    "no mpp": (("predict", "=no_mpp.png", "--model", "=model", "--out", OUT), r"no µm per pixel.*--mpp"),
    "foreign model": (("predict", SLIDE, "--model", "=foreign", "--out", OUT), "no napari-msunet model"),
    "damaged model": (("predict", SLIDE, "--model", "=damaged", "--out", OUT), "damaged"),
    "text as model": (("predict", SLIDE, "--model", "=words", "--out", OUT), "words cannot be read"),
    "no model": (("predict", SLIDE, "--model", "=nothing", "--out", OUT), "There is no model file"),
    "out below a file": (("predict", SLIDE, "--model", "=model", "--out", "=words/l.ome.zarr"), "cannot be written"),
    "three numbers": ((*PREDICT, "--region", "1,2,3"), "y,x,height,width"),
    "region outside": ((*PREDICT, "--region", "9000,0,5,5"), "holds no pixel of the slide"),
    "empty region": ((*PREDICT, "--region", "10,10,0,5"), "is empty"),
    "margin": ((*PREDICT, "--margin", "wide"), "give exact, fast, or a number of pixels"),
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
        "no µm per pixel.*--mpp",
    ),
    "scale 0": ((*FOLDER, "--scales", "1,0"), r"scale 0\.0 is not above zero"),
    "scale -1": ((*FOLDER, "--scales", "1,-1"), r"scale -1\.0 is not above zero"),
    "scale 1/0": ((*FOLDER, "--scales", "1/0"), "give ratios with commas, such as 1,1/2,1/4"),
    "scale pi": ((*FOLDER, "--scales", "3.14159"), "no ratio of whole numbers"),
    "two widths": (
        ("train", "--classes", "a", "--out", OUT, *GOOD, "--scales", "1,1/2,1/4", "--width", "8,16"),
        "one for each of the 3 scales",
    ),
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
    "measure an image": (("measure", "=good", "--out", "OUT.csv"), "zarr.json"),
    "export ending": (("export", "=labels", "--out", "OUT.bmp"), r"\.geojson, .*\.ome\.tif"),
    "export below a file": (("export", "=labels", "--out", "=words/x.png"), "is a file, not a folder"),
    "pyramid of words": (("pyramid", "=words", "--out", OUT), "words is no image"),
    "job of words": (("run", "=words"), "Invalid JSON"),
    "no job": (("run", "=nothing.json"), "No such file"),
    "info": (("info", "=nothing"), "There is nothing at"),
    "unknown verb": (("trian",), 'Unknown command "trian"'),
    "unknown option": ((*PREDICT, "--colour", "red"), "--colour"),
    "half an epoch": ((*FOLDER, "--warmup", "2.5"), r'--warmup: "2\.5" cannot be read; give a whole number'),
    "half a seed": ((*FOLDER, "--seed", "1.7"), r'--seed: "1\.7" cannot be read; give a whole number'),
    "decimal comma": ((*FOLDER, "--learning-rate", "0,01"), r'--learning-rate: "0,01" cannot be read; give a number'),
    "no number": ((*FOLDER, "--seed", "many"), "--seed.*many"),
}


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
        *("no mpp", "foreign model", "mask values", "export below a file", "unknown verb"),
    ],
)
def test_bad_input_in_a_process_of_its_own(name: str, given: Given, tmp_path: Path):
    words, expected = BAD[name]
    done = command(*filled(words, given, tmp_path / "out"))
    check_sentence(done.returncode, done.stdout, done.stderr, expected)
    assert list(tmp_path.iterdir()) == []
