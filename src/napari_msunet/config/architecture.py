"""What of a model's config decides what its weights mean, so that another model can go on from them."""

from __future__ import annotations

from typing import Any

from napari_msunet.config.model import ModelConfig

_FREE = {"schema_version", "classes", "mpp", "pixel", "channel_names", "field", "normalisation", "trained_on"}
"""Fields that a start may change: none of them changes what the weights compute."""

_TRAINING_ONLY = {"dropout"}
"""Likewise, of a branch."""


def architecture_differences(old: ModelConfig, new: ModelConfig) -> list[str]:
    """What of the architecture differs, in words such as "scales (1, 0.5) instead of (1)"; empty where nothing does.

    Classes, µm per pixel, the field of view in training, normalisation, what it was trained on and dropout may differ.
    """
    before, now = _architecture(old), _architecture(new)
    return [
        f"{name} {_short(before.get(name))} instead of {_short(now.get(name))}"
        for name in dict.fromkeys((*now, *before))
        if before.get(name) != now.get(name)
    ]


def _architecture(config: ModelConfig) -> dict[str, Any]:
    """What decides what the weights mean; branches one by one."""
    fields = {name: value for name, value in config.model_dump().items() if name not in _FREE | {"branch"}}
    for number, branch in enumerate(config.branches, 1):
        own = {name: value for name, value in branch.model_dump().items() if name not in _TRAINING_ONLY}
        fields |= {f"branch {number}'s {name}" if len(config.branches) > 1 else name: v for name, v in own.items()}
    return fields


def _short(value: Any) -> str:
    if isinstance(value, tuple) and all(isinstance(v, float) for v in value):
        return f"({', '.join(f'{v:g}' for v in value)})"
    return str(value)
