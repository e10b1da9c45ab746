"""A report of what is installed and what this machine has, as text to paste into a bug report."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from napari_msunet import own_process
from napari_msunet.wording import gigabytes

PACKAGES = (
    *("napari-msunet", "numpy", "torch", "lightning", "zarr", "yaozarrs", "dask", "tifffile"),
    *("openslide-python", "openslide-bin", "pillow", "scikit-image", "shapely", "pydantic", "cyclopts"),
)
WINDOW_PACKAGES = ("napari", "PyQt6", "PyQt5", "PySide6", "PySide2", "qtpy", "vispy")


def examine() -> dict[str, Any]:
    """Look at this installation and machine; plain values, in the order in which they are shown."""
    return {
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})",
        "system": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "window": {name: found for name in WINDOW_PACKAGES if (found := _version(name)) != "not installed"}
        or "napari and Qt are not installed (only the window needs them: pip install 'napari-msunet[all]')",
        "openslide library": _openslide(),
        "processor": f"{os.cpu_count()} cores ({_usable_cores()} usable), {gigabytes(_memory()[0])} of memory, "
        f"{gigabytes(_memory()[1])} free",
        "devices": _devices(),
        "gpu": _gpu_sentence(),
        "allocator": _allocator_sentence(),
        "disk": f"{gigabytes(shutil.disk_usage(Path.cwd()).free)} free in {Path.cwd()}",
        "settings folder": _settings_folder(),
    }


def as_text(found: dict[str, Any]) -> str:
    """The findings as lines."""
    lines = []
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{package} {number}" for package, number in value.items())
        elif isinstance(value, list):
            value = "; ".join(value)
        lines.append(f"{name}: {value}")
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _openslide() -> str:
    try:
        import openslide

        return str(openslide.__library_version__)
    except Exception as error:  # a broken installation can raise any error, and this report is where the user reads it
        return f"cannot be loaded ({error})"


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> tuple[int, int]:
    import psutil

    memory = psutil.virtual_memory()
    return memory.total, memory.available


def _devices() -> list[str]:
    try:
        import torch
    except Exception as error:
        return [f"torch cannot be loaded ({error})"]
    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        devices.append(f"cuda:{number} {properties.name}, {gigabytes(properties.total_memory)}")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _gpu_sentence() -> str:
    """ "Your GPU is used", or the one reason why not."""
    try:
        import torch
    except Exception as error:
        return f"No GPU is used: PyTorch cannot be loaded ({error})."
    if torch.cuda.is_available():
        return f"Your GPU is used: {torch.cuda.get_device_name(0)}."
    if torch.backends.mps.is_available():
        return f"Your GPU is used: Apple {platform.machine()} (mps)."
    return "No GPU is used: " + _why_no_gpu(
        built_for=torch.version.cuda or torch.version.hip,
        torch_version=torch.__version__,
        driver=_nvidia_driver(),
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _why_no_gpu(built_for: str | None, torch_version: str, driver: bool, hidden: str | None) -> str:
    """The reason, from what PyTorch was built for and what the machine has."""
    if sys.platform == "darwin":
        return "this Mac, or this build of PyTorch, has no Metal (mps) support."
    if built_for is None and driver:
        return (
            f"there is an NVIDIA driver, but this PyTorch ({torch_version}) was built without CUDA; install a CUDA "
            "build, see pytorch.org/get-started."
        )
    if built_for is None:
        return f"no NVIDIA driver was found on this machine, and this PyTorch ({torch_version}) is a build for the CPU."
    if not driver:
        return f"no NVIDIA driver was found on this machine (this PyTorch is ready for CUDA {built_for})."
    if hidden is not None and hidden.strip() in ("", "-1"):
        return f"the environment variable CUDA_VISIBLE_DEVICES={hidden!r} hides it; unset it."
    return (
        f"this PyTorch is built for CUDA {built_for}, but the NVIDIA driver shows no device; update the driver, or ask "
        "who runs this machine whether a GPU was given to this session."
    )


def _nvidia_driver() -> bool:
    """Whether an NVIDIA driver is installed, found out without PyTorch."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _allocator_sentence() -> str:
    if not own_process.applies():
        return "the system's own"
    if own_process.chosen_by_user():
        return "set by the environment"
    return own_process.HINT


def _settings_folder() -> str:
    """The folder of the settings, and whether it can be written."""
    from platformdirs import user_config_path

    folder = user_config_path("napari-msunet", appauthor=False)
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    return f"{folder} can be written"
