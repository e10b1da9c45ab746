"""The command where a disk is full or read-only."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cli.given import FOLDER, OUT, PREDICT, SLIDE, Given, check_sentence, filled, make_given

import napari_msunet as ms
from napari_msunet.cli import execute


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return make_given(tmp_path_factory.mktemp("given"))


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
