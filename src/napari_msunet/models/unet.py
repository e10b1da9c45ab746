"""Where the U-Net was before there were other networks."""

from napari_msunet.models.networks.unet import UNet

__all__ = ["UNet"]
