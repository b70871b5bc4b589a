"""ConvMixer Lab: the ConvMixer model family, its training and evaluation, and a study of its variants.

The names below are loaded when first used, so that ``import convmixer`` and ``convmixer --help`` stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from convmixer.version import __version__ as __version__

if TYPE_CHECKING:
    from convmixer.config import RunConfig as RunConfig
    from convmixer.data import load_dataset as load_dataset
    from convmixer.deploy.export import export_run
    from convmixer.errors import InputError as InputError
    from convmixer.inference import evaluate_run
    from convmixer.inference import load as load
    from convmixer.models import ConvMixer as ConvMixer
    from convmixer.models import ConvMixerBN as ConvMixerBN
    from convmixer.models import ConvMixerLC as ConvMixerLC
    from convmixer.models import ConvMixerRH as ConvMixerRH
    from convmixer.models import create_model as create_model
    from convmixer.models import list_models as list_models
    from convmixer.models import load_weights as load_weights
    from convmixer.models import set_default_engine as set_default_engine
    from convmixer.models.timm_models import register_with_timm as register_with_timm
    from convmixer.presets import run_config as run_config
    from convmixer.training import train as train

    evaluate = evaluate_run
    export = export_run

_HOME = {
    "ConvMixer": "convmixer.models",
    "ConvMixerBN": "convmixer.models",
    "ConvMixerLC": "convmixer.models",
    "ConvMixerRH": "convmixer.models",
    "InputError": "convmixer.errors",
    "RunConfig": "convmixer.config",
    "create_model": "convmixer.models",
    "evaluate": "convmixer.inference",
    "export": "convmixer.deploy.export",
    "list_models": "convmixer.models",
    "load": "convmixer.inference",
    "load_dataset": "convmixer.data",
    "load_weights": "convmixer.models",
    "register_with_timm": "convmixer.models.timm_models",
    "run_config": "convmixer.presets",
    "set_default_engine": "convmixer.models",
    "train": "convmixer.training",
}
_NAME_THERE = {"evaluate": "evaluate_run", "export": "export_run"}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), _NAME_THERE.get(name, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
