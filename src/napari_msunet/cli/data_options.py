"""The options of `train` about windows: their changes, where they are taken, the sides of the split, normalisation."""

# No annotations as text here: cyclopts reads those of this class in the module of a class made from it.
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from napari_msunet.config import Augmentation, NormaliseBy, Sampling, TrainJob
from napari_msunet.errors import MsunetError

_TRAIN, _SAMPLING = TrainJob.model_fields, Sampling.model_fields


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Windows, and the sides of the split.

    Attributes
    ----------
    test : float
        Share (0..1) of the groups that is set aside to test.
    fold : str
        Instead of shares: 2/5 cuts the groups into five folds, of which the second validates.
    normalise : str
        What the first layer does with the channels, fitted to the training images.
    balance : float
        Share (0..1) of the windows taken where a class drawn at random is, each as often as the others.
    hard : float
        Share (0..1) of the windows taken again where the loss was high.
    augment : bool
        Change training windows at random; --no-augment leaves all changes out.
    augmentation : str
        Largest changes other than the usual ones, such as elastic=8,jpeg=0.5,rotate=0; the names are flip, rotate,
        scale, shift, shear, elastic, perspective, brightness, contrast, saturation, stain, blur, noise, jpeg, cutout,
        cutmix, mixup.
    """

    test: float = _TRAIN["test"].default
    fold: str | None = None
    normalise: NormaliseBy = _TRAIN["normalise"].default
    balance: float = _SAMPLING["balance"].default
    hard: float = _SAMPLING["hard"].default
    augment: Annotated[bool, Parameter(negative="--no-augment")] = True
    augmentation: str | None = None

    def fields(self) -> dict[str, Any]:
        """These fields of a `TrainJob`, as plain values; `MsunetError` where one cannot be read."""
        changes: dict[str, Any] = (Augmentation() if self.augment else Augmentation.none()).model_dump()
        return {
            "test": self.test,
            "fold": parse_fold(self.fold),
            "normalise": self.normalise,
            "sampling": {"balance": self.balance, "hard": self.hard},
            "augmentation": changes | parse_augmentation(self.augmentation),
        }


def parse_fold(text: str | None) -> tuple[int, int] | None:
    """A fold from ``"2/5"``; whether there is one, `TrainJob` says."""
    if text is None:
        return None
    try:
        number, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise MsunetError(f"--fold {text!r} cannot be read; give its number and how many, such as 2/5.") from None
    return number, count


def parse_augmentation(text: str | None) -> dict[str, Any]:
    """Changes from ``"elastic=8,flip=no"``."""
    found: dict[str, Any] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, equals, value = (p.strip() for p in part.partition("="))
        if name not in Augmentation.model_fields or not equals:
            raise MsunetError(
                f"--augmentation {part.strip()!r} cannot be used; give name=value with one of the names "
                f"{', '.join(Augmentation.model_fields)}."
            )
        found[name] = value
    return found
