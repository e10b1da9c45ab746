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
    """One branch from pixels to class logits and what the fusion needs: all that inference runs tile by tile."""

    def __init__(self, model: MSUNet, i: int) -> None:
        super().__init__()
        self.model = model
        self.i = i

    def forward(self, x: Tensor) -> Tensor:
        model, i = self.model, self.i
        features: Tensor = model.branch(i).network(model._normalised(i, x))
        return model._project(i, features)


def check_exportable(model: MSUNet) -> None:
    """Whether a model's branches can be written as ONNX here, or `ModelError`."""
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

    The whole of a multi-scale model is its branches, then bilinear (or area) resampling to the target grid, then the
    fusion, which is cheap: `MSUNet.to_target` and `MSUNet.combine` do these.

    Parameters
    ----------
    model : MSUNet
        It is not changed.
    i : int
        Which of `config.scales`.

    Returns
    -------
    bytes
        With an input ``x``, float32 `(B, C, h, w)` in 0..1, sides multiples of the branch's stride, and an output
        ``z``, float32 `(B, Z, h, w)`: class logits (K+1 channels), then what the fusion needs of the features.

    Raises
    ------
    ModelError
        If onnx or onnxscript is not installed, if the branches cannot be computed one by one (a joint model), or if a
        layer cannot be written for windows of any size.
    """
    check_exportable(model)
    stride = model.config.branches[i].stride
    example = torch.zeros(2, model.config.channels, 4 * stride, 6 * stride)
    free = torch.export.Dim.DYNAMIC  # an error rather than a silent constant, where a layer counts on one size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own code
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
