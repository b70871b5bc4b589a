"""The ConvMixer family: ``create_model(name)``, its classes, and loading of weights."""

from convmixer.models.convmixer import ConvMixer
from convmixer.models.engines.executor import set_default_engine
from convmixer.models.factory import (
    ModelRow,
    build_model,
    count_multiply_adds,
    count_parameters,
    create_model,
    describe_models,
    list_models,
    require_fit,
)
from convmixer.models.variants import ConvMixerBN, ConvMixerLC, ConvMixerRH
from convmixer.models.weights import load_weights

__all__ = [
    "ConvMixer",
    "ConvMixerBN",
    "ConvMixerLC",
    "ConvMixerRH",
    "ModelRow",
    "build_model",
    "count_multiply_adds",
    "count_parameters",
    "create_model",
    "describe_models",
    "list_models",
    "load_weights",
    "require_fit",
    "set_default_engine",
]
