"""Every command in the pages can be typed as it stands: verbs, options, targets of make, scripts, extras exist."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from cyclopts import CycloptsError, MissingArgumentError

from napari_msunet.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]
)
OURS = "napari-msunet"
PLACEHOLDERS = {"…", "...", "VERB"}


def lines(text):
    """The lines of a page's blocks for a shell, and the commands in its sentences."""
    for block in re.findall(r"^ *```(?:bash|sh|console)\n(.*?)```", text, re.S | re.M):
        for line in re.sub(r" *\\\n *", " ", block).splitlines():
            yield line.strip().removeprefix("$ ")
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
    for found in re.findall(r"`((?:napari-msunet|python|make|pip) [^`]*)`", prose):
        yield f"{' '.join(found.split())} …"


def commands():
    """Every command of the pages, as `(page, words)`; what is named in a sentence, or cut short, ends in "…"."""
    for page in PAGES:
        for line in lines(page.read_text(encoding="utf8")):
            words = shlex.split(line, comments=True)
            while "&&" in words:
                yield page.name, words[: words.index("&&")]
                words = words[words.index("&&") + 1 :]
            if words:
                yield page.name, words


def ours(words):
    """The words that follow the command's name, also after `srun` and the like; None: it is another command."""
    for number, word in enumerate(words):
        if word.removeprefix(".venv/bin/") == OURS or words[number - 1 : number + 1] == ["-m", "napari_msunet"]:
            return words[number + 1 :]
    return None


def check(words):
    """Raise where a verb or an option does not exist, a value does not fit, or a whole command lacks an argument."""
    given = [word for word in words if word not in PLACEHOLDERS]
    try:
        app.parse_args(given, print_error=False, exit_on_error=False, help_on_error=False)
    except MissingArgumentError:
        if given == words:
            raise


OF_OURS = sorted({(page, " ".join(map(shlex.quote, ours(words)))) for page, words in commands() if ours(words)})


@pytest.mark.parametrize(("page", "line"), OF_OURS)
def test_its_verb_and_options_exist(page, line):
    check(shlex.split(line))


@pytest.mark.parametrize(
    "line", ["trian --images a", "train --imagse a", "predict s.svs --tile many", "model melt a b", "run"]
)
def test_a_wrong_one_is_found(line):
    with pytest.raises(CycloptsError):
        check(shlex.split(line))


def test_there_are_many():
    assert len(OF_OURS) > 40
    assert {page for page, _ in OF_OURS} >= {"README.md", "training.md", "cluster.md", "prediction.md"}


def test_targets_of_make_exist():
    made = re.findall(r"^([\w-]+)(?=[\w -]*:(?!=))", (ROOT / "Makefile").read_text(encoding="utf8"), re.M)
    wanted = {word for _, words in commands() if words[0] == "make" for word in words[1:] if word not in PLACEHOLDERS}
    assert wanted
    assert wanted - set(made) == set()


def test_scripts_that_are_called_exist():
    called = {word for page, words in commands() if words[0].endswith("python") for word in words if ".py" in word}
    assert called
    missing = {path for path in called if not (ROOT / path).is_file() and not (ROOT / "examples" / path).is_file()}
    assert missing == set()


def test_extras_that_are_installed_exist():
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    text = "\n".join(page.read_text(encoding="utf8") for page in PAGES)
    named = {extra for group in re.findall(r"napari-msunet\[([\w,]+)\]", text) for extra in group.split(",")}
    assert named
    assert named - extras == set()
