"""Areas found in the image or in a model's probabilities: the two wands, and snap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_msunet.errors import StoreError
from napari_msunet.objects.edits import Edit, Mask, checked, checked_value, edited

Cost = npt.NDArray[np.float32]
_EDGES = 0.5

RIM = 2
"""The blur makes an area narrower by so many pixels along an edge: they are added again where they cost little more."""

RIM_COST = 0.2


def wand_cost(image: npt.ArrayLike, seed: tuple[int, int]) -> Cost:
    """How unlike each pixel is to the one at the seed: difference in colour, and half of the edges' strength.

    Parameters
    ----------
    image : (h, w, c) or (h, w)
        Any dtype. Slightly blurred (a Gaussian of one pixel), counted in the range from its 1st to its 99th percentile.
    seed : (y, x)
        Pixel of the image.

    Returns
    -------
    (h, w) float32
        0 at the seed's colour on even ground; about 1 from the darkest to the brightest.

    Raises
    ------
    StoreError
        If the image has no such pixel.
    """
    pixels = np.atleast_3d(np.asarray(image)).astype(np.float32)
    _check_seed(pixels.shape[:2], seed)
    low, high = np.percentile(pixels[::2, ::2], (1, 99))
    pixels = (pixels - np.float32(low)) / np.float32(max(high - low, 1e-6))
    soft = np.stack([ndimage.gaussian_filter(pixels[..., c], 1.0) for c in range(pixels.shape[2])])
    y, x = seed
    around = soft[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].mean(axis=(1, 2))
    difference = np.sqrt(np.square(soft - around[:, None, None]).mean(axis=0))
    edges = np.sqrt(sum(np.square(np.gradient(plane, axis=a)) for plane in soft for a in (0, 1)) / len(soft))
    result: Cost = (difference + _EDGES * edges).astype(np.float32)
    return result


def wand_area(cost: Cost, seed: tuple[int, int], tolerance: float, rim: int = 0) -> Mask:
    """The pixels that are connected with the seed and cost at most `tolerance`, with their small holes filled.

    The seed and its neighbours always belong to it, and of `rim` pixels around it what costs up to `RIM_COST` more.
    """
    _check_seed(cost.shape, seed)
    cheap = cost <= tolerance
    y, x = seed
    cheap[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = True
    parts, _ = ndimage.label(cheap)
    area: Mask = parts == parts[seed]
    if rim:
        area |= _widened(area, rim) & (cost <= tolerance + RIM_COST)
    holes, count = ndimage.label(~area)
    sizes = np.bincount(holes.ravel(), minlength=count + 1)
    small = sizes <= max(9, area.sum() // 100)
    small[0] = False
    whole: Mask = area | small[holes]
    return whole


def image_wand(
    labels: npt.ArrayLike, image: npt.ArrayLike, seed: tuple[int, int], tolerance: float, value: int
) -> Edit:
    """Paint the pixels that look like the one at the seed and are connected with it; needs no model.

    Parameters
    ----------
    labels : (h, w) uint8 or uint32
    image : (h, w, c) or (h, w)
        The same window, at the labels' resolution.
    seed : (y, x)
        Pixel of the window.
    tolerance : float
        0 (nothing else) to about 1 (everything); 0.15 is a good start.
    value : int
        What is painted.

    Raises
    ------
    StoreError
        If shapes, seed or value do not fit.
    """
    array = checked(labels)
    if np.shape(image)[:2] != array.shape:
        raise StoreError(f"The image {np.shape(image)} and the labels {array.shape} must be of the same window.")
    return edited(array, wand_area(wand_cost(image, seed), seed, tolerance, RIM), checked_value(array, value))


def probability_wand(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    seed: tuple[int, int],
    tolerance: float,
    channel: int | None = None,
    value: int | None = None,
) -> Edit:
    """Paint the pixels connected with the seed that the model finds as probable as the seed, less `tolerance`.

    Parameters
    ----------
    labels : (h, w) uint8 or uint32
    probabilities : (K+1, h, w)
        0..1, background first.
    seed : (y, x)
    tolerance : float
        0 to 1: how much less probable than the seed a pixel may be.
    channel : int, optional
        Whose probability; None: of the most probable at the seed.
    value : int, optional
        What is painted; None: the channel's number.
    """
    array = checked(labels)
    planes = _planes(probabilities, array.shape)
    _check_seed(array.shape, seed)
    chosen = int(planes[:, seed[0], seed[1]].argmax()) if channel is None else channel
    plane = _plane(planes, chosen)
    area = wand_area((plane[seed] - plane).astype(np.float32), seed, tolerance)
    return edited(array, area, checked_value(array, chosen if value is None else value))


def snap(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    lasso: Mask,
    value: int,
    threshold: float = 0.5,
) -> Edit:
    """Decide about a class again inside a lasso: where its probability reaches the threshold, it is set; where it was
    set and does not reach the threshold, the most probable other class takes its place.

    Parameters
    ----------
    labels : (h, w) uint8
    probabilities : (K+1, h, w)
        0..1, background first.
    lasso : (h, w) bool
    value : int
        The class, 1..K.
    threshold : float
        0..1.

    Raises
    ------
    StoreError
        If shapes do not fit or there is no such class.
    """
    array = checked(labels, lasso)
    planes = _planes(probabilities, array.shape)
    if value == 0:
        raise StoreError("Snap decides about a class again; choose one that is not background.")
    plane = _plane(planes, value)
    reached = lasso & (plane >= threshold)
    missed = lasso & ~reached & (array == value)
    others = planes[:, missed]
    others[value] = -1
    new = array.copy()
    new[reached] = value
    new[missed] = others.argmax(axis=0)
    return Edit(new, new != array)


def _planes(probabilities: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    planes = np.asarray(probabilities)
    if planes.ndim != 3 or planes.shape[1:] != shape:
        raise StoreError(f"Probabilities must be (K+1, {shape[0]}, {shape[1]}), as the labels; got {planes.shape}.")
    return planes.astype(np.float32)


def _plane(planes: npt.NDArray[np.float32], number: int) -> npt.NDArray[np.float32]:
    if not 0 <= number < len(planes):
        raise StoreError(f"The model knows the classes 0 to {len(planes) - 1}; got {number}.")
    plane: npt.NDArray[np.float32] = planes[number]
    return plane


def _widened(area: Mask, steps: int) -> Mask:
    """An area and the pixels at most so many steps by their sides away."""
    for _ in range(steps):
        wide = area.copy()
        wide[1:] |= area[:-1]
        wide[:-1] |= area[1:]
        wide[:, 1:] |= area[:, :-1]
        wide[:, :-1] |= area[:, 1:]
        area = wide
    return area


def _check_seed(shape: tuple[int, ...], seed: tuple[int, int]) -> None:
    if not (0 <= seed[0] < shape[0] and 0 <= seed[1] < shape[1]):
        raise StoreError(f"The place {seed} is not in the window of {shape[0]} x {shape[1]} pixels.")
