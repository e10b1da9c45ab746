"""What all measurements share: sizes, the folder for slides and models, options."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .process import environment


@dataclass(frozen=True)
class Setting:
    """One run of the benchmark.

    Attributes
    ----------
    folder : Path
        For slides, models and label stores.
    quick : bool
        Small slides, to see that everything works; the numbers mean little.
    environments : Path
        Folder of the environments of other tools, made by `make bench-env-monai` and `make bench-env-tiatoolbox`.
    models : tuple of Path
        Trained models.
    """

    folder: Path
    quick: bool
    environments: Path
    models: tuple[Path, ...] = ()

    @property
    def side(self) -> int:
        """Of most slides, in pixels."""
        return 1024 if self.quick else 4096

    def slide(self, side: int | None = None, share: float = 1.0, count: int = 2) -> Path:
        """The path of a slide, which is made when it is not there."""
        from .slides import make_slide

        side = side or self.side
        return make_slide(self.folder / f"slide-{side}-{share:g}-{count}.tif", side, share, count)

    def model(self, name: str = "three scales") -> Path:
        """The path of a model, which is made when it is not there."""
        from .models import SCALES, make_model

        path = self.folder / f"{name.replace(' ', '-')}.safetensors"
        return path if path.exists() else make_model(path, SCALES[name], 8 if self.quick else 16)

    def env(self, threads: int | None = 2, allocator: bool = True) -> dict[str, str]:
        """Of a process; speeds that plans measure are those of this run."""
        return environment(self.folder / "cache", allocator, threads)

    @cached_property
    def python(self) -> dict[str, Path]:
        """The Python of each other tool that is installed."""
        found = {name: self.environments / f"bench-{name}" / "bin" / "python" for name in ("monai", "tiatoolbox")}
        return {name: path for name, path in found.items() if path.exists()}
