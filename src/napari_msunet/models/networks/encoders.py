"""Encoders of timm with decoders of segmentation-models-pytorch, as branches (needs the extra `encoders`)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from napari_msunet.config.branches import Decoder, EncoderConfig
from napari_msunet.errors import ModelError

CLASSES: dict[Decoder, str] = {
    "unet": "Unet",
    "unetplusplus": "UnetPlusPlus",
    "linknet": "Linknet",
    "fpn": "FPN",
    "manet": "MAnet",
    "deeplabv3plus": "DeepLabV3Plus",
}
"""The class of segmentation-models-pytorch for each decoder."""

HUB = "hf-hub:"


class EncoderNetwork(nn.Module):
    """An encoder and a decoder; the result is the features of the decoder, at the resolution of the input.

    Parameters
    ----------
    config : EncoderConfig
    channels : int
        Image channels; the first convolution is adapted to them.

    Raises
    ------
    ModelError
        If the extra is not installed, or there is no such encoder, or it does not fit the decoder.

    References
    ----------
    Iakubovskii, "Segmentation Models Pytorch"; Wightman, "PyTorch Image Models".
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        whole, about = _built(config, channels)
        self.encoder: nn.Module = whole.encoder
        self.decoder: nn.Module = whole.decoder
        self.last: nn.Module = whole.segmentation_head
        self.features = config.width
        """Channels of the result."""
        self.grain = 1
        """Pixels of the input a side that are one of the result."""
        for name, values in (("mean", about["mean"]), ("std", about["std"])):
            # Kept in the model file, because another version of timm may have other constants.
            repeated = [values[n % len(values)] for n in range(channels)]
            self.register_buffer(name, torch.tensor(repeated, dtype=torch.float32))
        if config.frozen:
            self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As for any module, but a frozen encoder keeps its statistics too."""
        super().train(mode)
        if self.config.frozen:
            self.encoder.eval()
        return self

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise the input in 0..1 by the encoder's constants, in place of the model's own first layer."""
        return (x - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, h, w)`, sides multiples of the stride, to `(B, features, h, w)`."""
        found: Tensor = self.last(self.decoder(self.encoder(x)))
        return found

    def load_pretrained(self) -> None:
        """Give the encoder the weights that its config names.

        Raises
        ------
        ModelError
            If they cannot be loaded, or are those of another encoder.
        """
        name = self.config.weights
        if name == "none" or self.mean.is_meta:
            return
        if name == "imagenet" or name.startswith(HUB):
            self._take(_downloaded(self.config), name)
        elif name.endswith(".safetensors"):
            self._take(_file(Path(name)), name)
        else:
            raise ModelError(
                f"{name!r} is no source of encoder weights; give none, imagenet, a .safetensors file (no pickle such "
                "as .pth is loaded), or hf-hub:OWNER/NAME."
            )

    def _take(self, weights: dict[str, Tensor], source: str) -> None:
        """Set the weights by their names in timm; a weight that the source lacks is an error."""
        own = self.encoder.state_dict()
        plain = {_plain(name): tensor for name, tensor in weights.items()}
        found = {name: plain[_plain(name)] for name in own if _plain(name) in plain}
        for name, tensor in found.items():
            wanted = own[name].shape
            if tensor.dim() == 4 and tensor.shape[1] == 3 and wanted[1] != 3 and tensor.shape[2:] == wanted[2:]:
                from timm.models import adapt_input_conv

                found[name] = adapt_input_conv(wanted[1], tensor)
        # older files lack these counters
        counters = {n for n in own if n.endswith("num_batches_tracked") and n not in found}
        wrong = sorted(n for n in own if n not in counters and (n not in found or found[n].shape != own[n].shape))
        if wrong:
            raise ModelError(
                f"The weights {source} are not those of the encoder {self.config.encoder}: {len(wrong)} of "
                f"{len(own)} are missing or have another shape, such as {wrong[0]}; give the weights of this encoder."
            )
        self.encoder.load_state_dict(found | {name: own[name] for name in counters})


def _plain(name: str) -> str:
    """A weight's name without the prefixes of wrappers, and with its levels written in one way."""
    for prefix in ("module.", "encoder.", "model.", "backbone."):
        name = name.removeprefix(prefix)
    return name.replace(".", "_")


def _package() -> Any:
    """The package segmentation_models_pytorch; `ModelError` with how to install it where it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import segmentation_models_pytorch
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"Branches of kind 'encoder' need segmentation-models-pytorch and torchvision, which cannot be imported "
            f"({error}): install napari-msunet[encoders], or take a network of another kind."
        ) from error
    return segmentation_models_pytorch


def _built(config: EncoderConfig, channels: int) -> tuple[Any, dict[str, tuple[float, ...]]]:
    """The network with random weights, and mean and std of the images on which its encoder was trained."""
    package = _package()
    import timm

    known = timm.get_pretrained_cfg(config.encoder, allow_unregistered=True)
    if not timm.is_model(config.encoder):
        near = ", ".join(timm.list_models(f"*{config.encoder[:6]}*")[:6])
        raise ModelError(
            f"timm has no encoder {config.encoder!r}{f' (it has {near})' if near else ''}; give the name of one."
        )
    try:
        whole = getattr(package, CLASSES[config.decoder])(
            encoder_name=f"tu-{config.encoder}",
            encoder_depth=config.depth,
            encoder_weights=None,
            in_channels=channels,
            classes=config.width,
            **_channels(config),
        )
    except (ValueError, KeyError, RuntimeError, TypeError, NotImplementedError, AssertionError) as error:
        raise ModelError(
            f"The encoder {config.encoder} cannot be used with decoder={config.decoder!r} and depth={config.depth} "
            f"({error}); give another encoder, decoder or depth."
        ) from error
    mean = getattr(known, "mean", None) or (0.485, 0.456, 0.406)
    std = getattr(known, "std", None) or (0.229, 0.224, 0.225)
    return whole, {"mean": tuple(mean), "std": tuple(std)}


def _channels(config: EncoderConfig) -> dict[str, Any]:
    """The options for the width of the decoder; the default width is that of its authors."""
    if config.decoder == "linknet":
        return {}  # as wide as the encoder
    if config.decoder == "fpn":
        pyramid, found = 16 * config.width, 8 * config.width
        upsampling = 2 ** (config.depth - 3)
        return {"decoder_pyramid_channels": pyramid, "decoder_segmentation_channels": found, "upsampling": upsampling}
    if config.decoder == "deeplabv3plus":
        return {"decoder_channels": 16 * config.width}
    return {"decoder_channels": tuple(config.width * 2**level for level in reversed(range(config.depth)))}


def _file(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The encoder weights {path} cannot be read ({error}); give a .safetensors file (no pickle is loaded)."
        ) from error


def _downloaded(config: EncoderConfig) -> dict[str, Tensor]:
    """The weights that timm knows for the encoder, or those of a repository of the hub; only safetensors is read."""
    import timm
    from huggingface_hub import hf_hub_download

    known = timm.get_pretrained_cfg(config.encoder)
    repository = config.weights.removeprefix(HUB) if config.weights.startswith(HUB) else getattr(known, "hf_hub_id", "")
    if not repository:
        raise ModelError(f"timm knows no weights for {config.encoder}; give a .safetensors file, or weights='none'.")
    if repository.endswith("/"):
        repository += f"{known.architecture}.{known.tag}" if known.tag else str(known.architecture)
    try:
        file = hf_hub_download(repository, "model.safetensors")
    except Exception as error:  # any error of the hub or the connection
        raise ModelError(
            f"The weights {config.weights!r} of {config.encoder} cannot be had from {repository} ({error}); look at "
            "the name and the connection, or give a .safetensors file."
        ) from error
    return _file(Path(file))
