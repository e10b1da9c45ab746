"""Areas and lengths as people write them."""

from __future__ import annotations

from napari_msunet.annotation.objects import FoundObject
from napari_msunet.labels import LabelStore
from napari_msunet.labels.metadata import ANNOTATED_BACKGROUND

SQUARE_MILLIMETRE = 1e6
_LARGE = 1e5


def area_text(area: float, known: bool = True) -> str:
    """An area in µm², in mm² when it is large; in pixels where the µm per pixel are not known."""
    if not known:
        return f"{area:,.0f} px"
    if area >= _LARGE:
        return f"{area / SQUARE_MILLIMETRE:,.3g} mm²"
    return f"{area:,.0f} µm²" if area >= 10 else f"{area:.1f} µm²"


def length_text(length: float, known: bool = True) -> str:
    """A length in µm, in mm when it is long; in pixels where the µm per pixel are not known."""
    if not known:
        return f"{length:,.0f} px"
    return f"{length / 1000:,.3g} mm" if length >= 10_000 else f"{length:,.0f} µm"


def kind_name(store: LabelStore, kind: int) -> str:
    """What a value of a store stands for."""
    if store.info.instances:
        return f"object {kind}"
    if kind == ANNOTATED_BACKGROUND and store.kind == "annotation":
        return "background"
    return store.classes[kind - 1] if 0 < kind <= len(store.classes) else f"class {kind}"


def object_text(store: LabelStore, found: FoundObject) -> str:
    """An object in one line."""
    known = store.mpp is not None
    area, length = area_text(found.area, known), length_text(found.perimeter, known)
    name, about = kind_name(store, found.kind), f"{found.about} " if found.about else ""
    if found.about == "more than":  # its outline there is partly where one stopped looking
        return f"{name}: more than {area}"
    return f"{name}: {about}{area}, outline {about}{length}"
