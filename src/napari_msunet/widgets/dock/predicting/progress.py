"""What a prediction says while it runs and when it has ended, in words."""

from __future__ import annotations

from napari_msunet.events import Progress, Result


def left_words(event: Progress) -> str:
    """What is left and how fast it goes; nothing before the first tile."""
    if event.total is None or event.rate is None:
        return ""
    left = int(event.total - event.done)
    if not left:
        return "All tiles are computed; finishing."
    return f"{'1 tile' if left == 1 else f'{left} tiles'} left · {rate_words(event.rate)}"


def rate_words(rate: float) -> str:
    """Target pixels per second, in Mpx/s."""
    return f"{rate / 1e6:.2g} Mpx/s" if rate < 1e7 else f"{rate / 1e6:.0f} Mpx/s"


def result_words(result: Result, layer: str, seconds: float, exact: bool = True) -> str:
    """What a prediction has left, and how much its tiles show where they do; `exact`: the margin that was asked for."""
    failed = int(result.values.get("failed") or 0)
    words = f'Done in {seconds:.0f} s: the labels are in the layer "{layer}", ready to be corrected.'
    if failed:
        words = f'{"1 tile" if failed == 1 else f"{failed} tiles"} could not be read; the rest is in "{layer}".'
    seam = result.values.get("seam")
    return words if seam is None else f"{words} {seam_words(seam, exact)}"


def seam_words(seam: dict[str, float], exact: bool = False) -> str:
    """The seam meter in a sentence; with the exact margin only a network that no margin makes exact has one."""
    near, elsewhere = (_percent(seam[name]) for name in ("near", "elsewhere"))
    cure = "a layer of this network looks at whole tiles, so no margin" if exact else "the exact margin"
    return (
        f"Seam meter: with other tiles {near} of the labels near the tiles' borders would be others, {elsewhere} "
        f"elsewhere; {cure} makes it none."
    )


def _percent(share: float) -> str:
    return "none" if share == 0 else "less than 0.01 %" if share < 1e-4 else f"{100 * share:.2g} %"
