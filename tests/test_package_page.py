"""What a package index and napari's hub show of the package: links, pictures, addresses, classifiers, the manifest."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf8")


@pytest.fixture
def with_addresses(monkeypatch):
    """The function of hatch_build.py; its hook is used where the package is built, and hatchling is there only then."""
    interface = ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = object
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.with_addresses


def targets(text):
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_every_path_in_the_readme_is_a_file():
    paths = [path.partition("#")[0] for path in targets(README) if "://" not in path]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_no_link_of_the_package_is_a_path(with_addresses):
    found = targets(with_addresses(README, PROJECT["urls"]))
    assert len(found) > 10
    assert [link for link in found if not link.startswith("https://")] == []


def test_links_to_pages_follow_the_one_address(with_addresses):
    pages = {"Documentation": "https://pages.example/v1/"}
    made = with_addresses(
        "[a](docs/training.md#search) ![b](docs/images/w.jpg) [c](docs/index.md) [d](LICENSE) [e](https://x.y/z.md)",
        pages,
    )
    assert made == (
        "[a](https://pages.example/v1/training/#search) ![b](https://pages.example/v1/images/w.jpg) "
        "[c](https://pages.example/v1/) d [e](https://x.y/z.md)"
    )
    both = pages | {"Repository": "https://code.example/p"}
    assert with_addresses("[d](LICENSE)", both) == "[d](https://code.example/p/blob/main/LICENSE)"


def test_the_address_stands_in_one_place():
    address = re.sub(r"https://([^/]+)/.*", r"\1", PROJECT["urls"]["Documentation"])
    text = {
        path.name
        for path in (*ROOT.glob("*.*"), *(ROOT / "docs").glob("*"))
        if path.is_file() and address.encode() in path.read_bytes()
    }
    assert text == {"pyproject.toml"}


def test_the_hub_finds_it():
    assert "Framework :: napari" in PROJECT["classifiers"]
    assert [name for name in PROJECT["classifiers"] if "Windows" in name or "MacOS" in name] == []  # never run there


def test_the_manifest_is_valid():
    npe2 = pytest.importorskip("npe2")
    manifest = npe2.PluginManifest.from_file(ROOT / "src" / "napari_msunet" / "napari.yaml")
    manifest.validate_imports()
    assert manifest.name == PROJECT["name"]
