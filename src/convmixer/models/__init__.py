"""The ConvMixer family: ``create_model(name)``, its classes, and loading of weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from convmixer.config import ModelConfig
from convmixer.errors import InputError, nearest
from convmixer.models.convmixer import ConvMixer, Engine
from convmixer.models.variants import ConvMixerBN, ConvMixerLC, ConvMixerRH
from convmixer.models.weights import load_weights
from convmixer.presets import MODELS, model_preset

__all__ = [
    "ConvMixer",
    "ConvMixerBN",
    "ConvMixerLC",
    "ConvMixerRH",
    "Engine",
    "ModelRow",
    "build_model",
    "count_multiply_adds",
    "count_parameters",
    "create_model",
    "describe_models",
    "list_models",
    "load_weights",
]

_CLASSES: dict[str, type[ConvMixer]] = {"base": ConvMixer, "rh": ConvMixerRH, "lc": ConvMixerLC, "bn": ConvMixerBN}


def list_models() -> list[str]:
    """Names that :func:`create_model` knows."""
    return list(MODELS)


@dataclass(frozen=True)
class ModelRow:
    """A line of the list of models."""

    model: str
    variant: str
    dim: int
    depth: int
    kernel_size: int
    patch_size: int
    image_size: int
    n_classes: int
    parameters: int
    multiply_adds: int
    """For one image; a multiplication and an addition count as one."""
    source: str


def describe_models() -> list[ModelRow]:
    """What each preset is and costs."""
    rows = []
    for name, preset in MODELS.items():
        config = preset.architecture
        with torch.device("meta"):  # shapes only
            parameters = count_parameters(create_model(name))
        rows.append(
            ModelRow(
                model=name,
                variant=config.variant,
                dim=config.dim,
                depth=config.depth,
                kernel_size=config.kernel_size,
                patch_size=config.patch_size,
                image_size=preset.image_size,
                n_classes=preset.n_classes,
                parameters=parameters,
                multiply_adds=count_multiply_adds(config, preset.image_size, preset.n_classes),
                source=preset.source,
            )
        )
    return rows


def create_model(
    name: str,
    *,
    n_classes: int | None = None,
    in_channels: int = 3,
    weights: str | Path | None = None,
    engine: Engine = "auto",
    **overrides: Any,
) -> ConvMixer:
    """A model from the preset table.

    Args:
        name: one of :func:`list_models`.
        n_classes: outputs; the preset's own number by default, 0 for pooled features instead of logits.
        in_channels: channels of the images.
        weights: file to load weights from, see :func:`load_weights`.
        engine: how the model is executed, see :meth:`ConvMixer.set_engine`; not part of what the model is.
        overrides: fields of :class:`convmixer.config.ModelConfig` that differ from the preset, such as ``dim=128``.

    Raises:
        InputError: unknown name or field (with the nearest known one), impossible value, weights that do not fit.
    """
    preset = model_preset(name)
    fields = [field.name for field in dataclasses.fields(ModelConfig)]
    for key in overrides:
        if key not in fields:
            raise InputError(f"create_model: {key!r} is not a field of a model; {nearest(key, fields)}")
    config = dataclasses.replace(preset.architecture, **overrides)
    model = build_model(config, preset.n_classes if n_classes is None else n_classes, in_channels, engine)
    if weights is not None:
        load_weights(model, weights)
    return model


def build_model(config: ModelConfig, n_classes: int, in_channels: int, engine: Engine = "auto") -> ConvMixer:
    """The network that ``config`` describes, with fresh weights from PyTorch's global random generator."""
    arguments = dataclasses.asdict(config)
    variant = arguments.pop("variant")
    if variant != "bn":
        del arguments["bottleneck_factor"]
    return _CLASSES[variant](**arguments, n_classes=n_classes, in_channels=in_channels, engine=engine)


def count_parameters(model: torch.nn.Module) -> int:
    """Number of trainable weights."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_multiply_adds(config: ModelConfig, image_size: int, n_classes: int, in_channels: int = 3) -> int:
    """Multiply-adds of convolutions and linear layers for one image of ``image_size`` × ``image_size`` pixels."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):  # shapes only: nothing is computed
        model = build_model(config, n_classes, in_channels, "plain").eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, in_channels, image_size, image_size))
    return int(counter.get_total_flops()) // 2
