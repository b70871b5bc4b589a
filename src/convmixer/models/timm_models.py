"""Our networks by name in timm."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from convmixer.errors import InputError
from convmixer.models.convmixer import ConvMixer
from convmixer.models.factory import create_model
from convmixer.models.pretrained import GENERIC
from convmixer.presets import MODELS, OF_TIMM, ModelPreset

__all__ = ["register_with_timm"]


def register_with_timm() -> list[str]:
    """Makes our presets known to ``timm.create_model``, and ``convmixer_lab``, which takes any architecture.

    timm's own ConvMixers stay what they are. Calling it again changes nothing.

    Returns:
        The names.

    Raises:
        InputError: timm is not installed.
    """
    try:
        from timm.models import generate_default_cfgs, is_model, register_model
    except ImportError:
        raise InputError("timm: is not installed; pip install 'convmixer-lab[hub]'.") from None
    presets = {GENERIC: "convmixer"} | {name: name for name in MODELS if name not in OF_TIMM}
    module = sys.modules[__name__]
    cfgs = generate_default_cfgs({name: _description(MODELS[preset]) for name, preset in presets.items()})
    vars(module)["default_cfgs"] = cfgs  # where timm looks for them
    for name, preset in presets.items():
        if not is_model(name):
            register_model(_entry(name, preset))
    return list(presets)


def _description(preset: ModelPreset) -> dict[str, Any]:
    side = preset.image_size
    own = {"input_size": (3, side, side), "num_classes": preset.n_classes, "mean": preset.mean, "std": preset.std}
    return own | {"interpolation": "bicubic", "crop_pct": 1.0, "first_conv": "stem.0", "classifier": "head"}


def _entry(name: str, preset: str) -> Callable[..., Any]:
    """The function that timm calls for a model: ``num_classes``, ``in_chans`` and our own arguments are valid."""

    def entry(pretrained: bool = False, **arguments: Any) -> ConvMixer:
        from timm.models import build_model_with_cfg

        model: ConvMixer = build_model_with_cfg(
            partial(_built, preset), name, pretrained, kwargs_filter=("global_pool",), **arguments
        )
        return model

    entry.__name__ = entry.__qualname__ = name
    entry.__module__ = __name__
    entry.__doc__ = MODELS[preset].purpose
    vars(sys.modules[__name__])[name] = entry
    return entry


def _built(preset: str, **arguments: Any) -> ConvMixer:
    if isinstance(arguments.get("kernel_size"), list):  # from JSON
        arguments["kernel_size"] = tuple(arguments["kernel_size"])
    return create_model(preset, **arguments)
