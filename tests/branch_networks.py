"""Small branch networks, one for each option: what all tests of networks go through."""

from napari_msunet.config import HRNetConfig, LinkNetConfig, UNetConfig


def unet(**options) -> UNetConfig:
    """A small U-Net."""
    return UNetConfig(**{"depth": 2, "width": 8, **options})


NETWORKS = {
    "plain": unet(),
    "stride": unet(down="stride"),
    "resize": unet(up="resize"),
    "space to depth": unet(stem="space_to_depth"),
    "valid": unet(padding="valid"),
    "mirror": unet(padding="mirror"),
    "renorm": unet(norm="renorm"),
    "no norm": unet(norm="none", block_dropout=0.1),
    "slide": unet(norm="slide"),
    "residual": unet(residual=True),
    "separable": unet(separable=True),
    "gates": unet(gates=True),
    "light attention": unet(attention="light"),
    "self-attention": unet(attention="self", window=4),
    "dense": unet(dense=True),
    "pyramid": unet(pyramid=True),
    "context": unet(context=True),
    "in parts": unet(
        down="stride",
        up="resize",
        stem="space_to_depth",
        norm="renorm",
        residual=True,
        separable=True,
        gates=True,
        attention="light",
        context=True,
    ),
    "whole": unet(
        stem="space_to_depth", norm="slide", gates=True, attention="self", window=2, dense=True, pyramid=True
    ),
    "linknet": LinkNetConfig(depth=2, width=8),
    "linknet published": LinkNetConfig(depth=3, width=8, layout="published"),
    "hrnet": HRNetConfig(depth=1, width=8),
    "hrnet plain": HRNetConfig(depth=2, width=8, stem="plain"),
}
