"""What is imported is what pyproject.toml names, and nothing else: a base install beside any napari opens the dock."""

import ast
import re
import sys
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "napari_msunet"

NAMED_OTHERWISE = {
    "PIL": "pillow",
    "bioimageio": "bioimageio.core",
    "yaml": "pyyaml",
    "openslide": "openslide-python",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "pydantic_core": "pydantic",  # the same release, always
    "distributed": "dask",
    "mlflow": "mlflow-skinny",
}
"""Packages by the module that they install, where the two names differ."""

NOT_IMPORTED = {
    "imagecodecs": "codecs that tifffile looks for",
    "openslide-bin": "the library that openslide-python loads",
}
QT_BINDINGS = {"pyqt5", "pyqt6", "pyside2", "pyside6"}


def _name(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _declared():
    """Packages of a base install, and of all extras that people install."""
    project = _project()
    extras = {name: {_name(r) for r in found} for name, found in project["optional-dependencies"].items()}
    return {_name(r) for r in project["dependencies"]}, extras


@cache
def _parsed(folder):
    """All modules below a folder, each with its nodes."""
    found = [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(folder.rglob("*.py"))]
    return [(path, list(ast.walk(tree))) for path, tree in found]


def _imports(folder):
    """The packages that the modules below a folder import, each with one of these modules."""
    found = {}
    for path, nodes in _parsed(SOURCE):
        for node in nodes if folder in (path.parent, *path.parents) else ():
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
                names = [a.value for a in node.args if isinstance(a, ast.Constant)]
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and top != "napari_msunet":
                    found[NAMED_OTHERWISE.get(top, top).lower().replace("_", "-")] = path.relative_to(SOURCE)
    return found


EXTRAS = ("encoders", "bioimageio", "dicom", "onnx", "openvino", "parquet", "tracking", "cluster")
"""Those that are not the window's."""


def test_everything_imported_is_named():
    base, extras = _declared()
    optional = set().union(
        *(extras[n] for n in ("bioimageio", "encoders", "onnx", "openvino", "parquet", "tracking", "cluster"))
    )
    optional = set().union(*(extras[n] for n in EXTRAS))
    missing = {
        name: str(path)
        for name, path in _imports(SOURCE).items()
        if name not in base | optional and not (path.parts[0] == "widgets" and name in extras["gui"])
    }
    assert not missing


def test_everything_named_is_imported():
    base, extras = _declared()
    imported = set(_imports(SOURCE))
    assert base - imported - set(NOT_IMPORTED) == set()
    assert extras["gui"] - imported == set()


def test_a_base_install_beside_a_napari_lacks_nothing_of_the_window():
    """`pip install napari-msunet` is what napari's plugin manager does; what is left comes with napari itself."""
    base, extras = _declared()
    window = set(_imports(SOURCE / "widgets"))
    assert window - base == {"napari", *(extras["gui"] - {"napari"})} & window
    assert extras["gui"] - {"napari"} <= {"app-model", "pint", "vispy"}  # that napari requires, each of them
    if _installed("napari"):
        from importlib.metadata import requires

        assert extras["gui"] - {"napari"} <= {_name(r) for r in requires("napari")}


def test_no_binding_of_qt_and_no_napari_is_forced_on_anybody():
    base, extras = _declared()
    assert not base & (QT_BINDINGS | {"napari"})
    assert not extras["gui"] & QT_BINDINGS
    assert not set(_imports(SOURCE)) & QT_BINDINGS
    if not _installed("superqt"):
        pytest.skip("superqt is not installed")
    from importlib.metadata import requires

    for name in ("pyqtgraph", "qtpy", "superqt", "psygnal"):
        assert name in base
        plain = {_name(r) for r in requires(name) or () if "extra" not in r}
        assert not plain & QT_BINDINGS, name


def test_nothing_is_defined_twice():
    """The second definition of a name silently takes the place of the first."""
    twice = []
    for path, nodes in [entry for folder in (SOURCE, ROOT / "tests", ROOT / "benchmarks") for entry in _parsed(folder)]:
        for scope in [n for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]:
            seen = set()
            for node in scope.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    if any(ast.unparse(d).endswith((".setter", ".deleter", "overload")) for d in node.decorator_list):
                        continue
                    names = [node.name]
                elif isinstance(node, ast.Assign) and not isinstance(scope, ast.FunctionDef):
                    names = [t.id for t in node.targets if isinstance(t, ast.Name)]
                elif isinstance(node, ast.AnnAssign) and not isinstance(scope, ast.FunctionDef):
                    names = [getattr(node.target, "id", "_")]
                else:
                    continue
                twice += [f"{path.relative_to(ROOT)}:{node.lineno} {n}" for n in names if n in seen and n != "_"]
                seen.update(names)
    assert not twice


def _installed(name):
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _imports_anywhere(path, modules):
    """The modules of the package that a file imports anywhere: also for types only, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules else node.module)
    return found & set(modules)


def test_no_import_goes_in_a_circle():
    names = {".".join(path.relative_to(ROOT / "src").with_suffix("").parts): path for path in SOURCE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in names.items()}
    left = {name: _imports_anywhere(path, modules) - {name} for name, path in modules.items()}
    for package in ("napari_msunet", "napari_msunet.widgets"):  # they load what they give when it is asked for
        left[package] = set()
    while free := [name for name, imported in left.items() if not imported & set(left)]:
        for name in free:
            del left[name]
    assert sorted(left) == []


def test_folders_files_and_classes_have_names_of_their_own():
    files = [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    folders = Counter(path.parent for path in SOURCE.rglob("*.py"))
    assert {str(folder): count for folder, count in folders.items() if count > 20} == {}
    stems = Counter(path.stem for path in files)
    assert {stem: count for stem, count in stems.items() if count > 2} == {}
    classes = Counter(
        node.name
        for path in files
        for outer in ast.parse(path.read_text(encoding="utf8")).body
        for node in (outer.body if isinstance(outer, ast.If) else [outer])  # also a class for type checkers only
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name: count for name, count in classes.items() if count > 1} == {}
