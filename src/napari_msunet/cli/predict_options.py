"""The options of `napari-msunet predict`, and the parts of a job they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter
from pydantic import ValidationError

from napari_msunet.cli.options import parse_region
from napari_msunet.config import Cluster, Output, Postprocess, PredictSettings, explain
from napari_msunet.errors import MsunetError

_SETTINGS, _POST = PredictSettings.model_fields, Postprocess.model_fields
_LIST = Parameter(show_default=False, negative=())


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What is computed, and how.

    Attributes
    ----------
    region : str
        y,x,height,width in level-0 pixels of the slide; the whole slide without it.
    where : str
        Only a part: tissue, the areas of a file of outlines (such as .geojson), or the classes of a label store:
        tissue.ome.zarr, or labels.ome.zarr:gland,stroma for some of them.
    outputs : str
        labels, probabilities, disagreement (between the scales), entropy, instances; with commas.
    probabilities : bool
        Keep the probabilities of all classes too: the same as --outputs labels,probabilities.
    probability_dtype : str
        How probabilities are stored.
    channels : str
        Channels of the slide that become the model's, by name or number, with commas; matched by name without it.
    margin : str
        exact; fast (half of it, small differences at tile borders); or a number of pixels of the model's resolution.
    tile : int
        Useful side of a tile in pixels of the model's resolution; chosen for speed and --memory without it.
    batch_size : int
        Tiles computed at once.
    memory : float
        GB that the prediction may take.
    tta : str
        Test-time augmentation: the mean over mirror images (flips), or those with quarter turns too (dihedral).
    engine : str
        What runs the network.
    precision : str
        Of the network's arithmetic; the lower ones are for GPUs.
    compile : bool
        Compile the network first; takes a minute, pays on long predictions.
    device : str
        auto, cpu, cuda, cuda:1 or mps.
    """

    region: str | None = None
    where: str = "all"
    outputs: str = "labels"
    probabilities: bool = False
    probability_dtype: Literal["float16", "float32", "uint8"] = "float16"
    channels: str | None = None
    margin: str = "exact"
    tile: int | None = None
    batch_size: int = _SETTINGS["batch_size"].default
    memory: float = _SETTINGS["memory"].default
    tta: Literal["none", "flips", "dihedral"] = "none"
    engine: Literal["torch", "onnx"] = "torch"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    device: str = "auto"

    def fields(self) -> dict[str, Any]:
        """Fields of `PredictSettings`; `MsunetError` where something cannot be read."""
        from napari_msunet.infer.given import parse_where

        same = ("tile", "batch_size", "memory", "tta", "engine", "precision", "compile", "device", "probability_dtype")
        return {
            "region": parse_region(self.region),
            "where": parse_where(self.where),
            "outputs": self._outputs(),
            "channels": None if self.channels is None else tuple(_channel(c) for c in self.channels.split(",")),
            "margin": int(self.margin) if self.margin.isdecimal() else self.margin,
            **{name: getattr(self, name) for name in same},
        }

    def _outputs(self) -> tuple[str, ...]:
        names = [name.strip() for name in self.outputs.split(",")]
        known = get_args(Output)
        if wrong := [name for name in names if name not in known]:
            raise MsunetError(f"--outputs cannot give {', '.join(wrong)!r}; it can give {', '.join(known)}.")
        return tuple(dict.fromkeys([*names, "probabilities"] if self.probabilities else names))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PostprocessOptions:
    """From probabilities to labels.

    Attributes
    ----------
    threshold : str
        NAME=0.6: a class is taken only where its probability reaches this; can be given for several classes.
    smoothing : float
        Standard deviation in µm of a Gaussian over the probabilities; this, areas and distances are in pixels of the
        image for a model in pixels.
    smallest : float
        Objects under this area in µm² (or pixels) become background.
    holes : float
        Holes under this area in µm² (or pixels) are filled.
    instances : str
        How touching objects are parted when --outputs has instances.
    boundary : str
        Class that marks boundaries, for --instances boundary.
    spacing : float
        Least distance in µm (or pixels) between the centres of two instances; chosen from the objects' size without it.
    """

    threshold: Annotated[tuple[str, ...], _LIST] = ()
    smoothing: float = _POST["smoothing"].default
    smallest: float = _POST["smallest"].default
    holes: float = _POST["holes"].default
    instances: Literal["distance", "boundary"] = "distance"
    boundary: str | None = None
    spacing: float = _POST["spacing"].default

    def settings(self) -> Postprocess:
        """The settings; `MsunetError` where something cannot be used."""
        same = ("smoothing", "smallest", "holes", "instances", "boundary", "spacing")
        try:
            return Postprocess(
                thresholds=pairs("--threshold", self.threshold, "gland=0.6"),
                **{name: getattr(self, name) for name in same},
            )
        except ValidationError as error:
            raise explain(error, "What becomes of the probabilities") from error


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Who computes it.

    Attributes
    ----------
    cluster : str
        Workers of Dask: local:2 (processes here), tcp://host:8786 (a cluster that runs), slurm:20 (jobs to submit).
    cluster_threads : int
        CPU threads of each worker's network.
    cluster_option : str
        NAME=VALUE for SLURM, such as queue=gpu or walltime=04:00:00; can be given several times.
    """

    cluster: str | None = None
    cluster_threads: int | None = None
    cluster_option: Annotated[tuple[str, ...], _LIST] = ()

    def settings(self) -> Cluster | None:
        """The cluster; `MsunetError` where something cannot be used."""
        if self.cluster is None:
            if self.cluster_option or self.cluster_threads:
                raise MsunetError("--cluster-option and --cluster-threads need a --cluster, such as slurm:20.")
            return None
        try:
            options = pairs("--cluster-option", self.cluster_option, "queue=gpu")
            return Cluster(at=self.cluster, threads=self.cluster_threads, options=options)
        except ValidationError as error:
            raise explain(error, "The cluster") from error


def predict_settings(
    model: tuple[Path, ...], predicting: PredictOptions, post: PostprocessOptions, cluster: ClusterOptions
) -> PredictSettings:
    """What all these options say; `MsunetError` where something cannot be used."""
    fields = predicting.fields()
    try:
        return PredictSettings(
            model=model[0] if len(model) == 1 else model,
            postprocess=post.settings(),
            cluster=cluster.settings(),
            **fields,
        )
    except ValidationError as error:
        raise explain(error, "What was given") from error


def pairs(option: str, texts: tuple[str, ...], example: str) -> dict[str, str]:
    """`NAME=VALUE` texts as a dict."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise MsunetError(f"{option} {text!r} cannot be read; give NAME=VALUE, such as {example}.")
        found[name.strip()] = value.strip()
    return found


def _channel(text: str) -> str | int:
    return int(text) if text.strip().isdecimal() else text.strip()
