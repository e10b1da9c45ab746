"""Branches as ONNX, for runtimes that are not PyTorch (extra `onnx`)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from napari_msunet.errors import ModelError
from napari_msunet.models.msunet import MSUNet
from napari_msunet.models.strip_inference import folded

MISSING = "ONNX needs {}, which is not installed; install it: pip install 'napari-msunet[onnx]'."


class _Branch(nn.Module):
    """One branch from pixels to class logits and the channels that the fusion needs, as inference runs it on tiles."""

    def __init__(self, model: MSUNet, i: int) -> None:
        super().__init__()
        self.model = model
        self.i = i

    def forward(self, x: Tensor) -> Tensor:
        model, i = self.model, self.i
        features: Tensor = model.branch(i).network(model._normalised(i, x))
        return model._project(i, features)


def check_exportable(model: MSUNet) -> None:
    """Raise `ModelError` where the branches of a model cannot be written as ONNX."""
    if model.config.joint:
        raise ModelError(
            f"The branches of a model with fusion {model.config.fusion!r} see each other, so they cannot be exported "
            "to ONNX one by one; use engine='torch'."
        )
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(MISSING.format(error.name)) from error


def branch_onnx(model: MSUNet, i: int) -> bytes:
    """One branch as an ONNX model, batch normalisation folded into its convolutions.

    A multi-scale model runs its branches, then resamples their outputs to the target grid (bilinearly, or by area
    average), then applies the fusion. The last two are cheap and stay in `MSUNet.to_target` and `MSUNet.combine`.

    Parameters
    ----------
    model : MSUNet
        It is not changed.
    i : int
        Which of `config.scales`.

    Returns
    -------
    bytes
        The file's contents. Its input ``x`` is float32 `(B, C, h, w)` in 0..1, with sides that are multiples of the
        branch's stride, and its output ``z`` float32 `(B, Z, h, w)`: class logits (K+1 channels), then the channels
        that the fusion needs.

    Raises
    ------
    ModelError
        If onnx or onnxscript is not installed, if the branches cannot be computed one by one (a joint model), or if a
        layer cannot be written for windows of any size.
    """
    check_exportable(model)
    stride = model.config.branches[i].stride
    example = torch.zeros(2, model.config.channels, 4 * stride, 6 * stride)
    free = torch.export.Dim.DYNAMIC  # so that a layer that depends on one size is an error, not a silent constant
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own code
            program: Any = torch.onnx.export(
                _Branch(folded(model).cpu(), i).eval(),
                (example,),
                dynamo=True,
                input_names=["x"],
                output_names=["z"],
                dynamic_shapes={"x": {0: free, 2: free, 3: free}},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0][:200].rstrip(".")
        raise ModelError(
            f"Branch {i} of this model cannot be written as ONNX for windows of any size ({reason}); use "
            "engine='torch'."
        ) from error
    data: bytes = program.model_proto.SerializeToString()
    return data
