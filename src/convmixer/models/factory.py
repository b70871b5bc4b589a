"""Models by name: the presets with what they cost, and networks from a configuration."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from convmixer.config import Engine, ModelConfig, PerBlock
from convmixer.errors import InputError, nearest
from convmixer.models.convmixer import ConvMixer
from convmixer.models.weights import describe_mismatch, load_weights, read_state_dict, to_own_layout
from convmixer.presets import MODELS, model_preset

TIMM_NAMES = {
    "num_classes": "n_classes",
    "in_chans": "in_channels",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
}
"""timm's names of arguments, which :func:`create_model` takes as well."""

_ELSEWHERE = {
    "pretrained": "give `weights` a file, or start a run with `init_from` timm:NAME",
    "features_only": "call forward_intermediates of the model",
}
"""What timm's users may ask :func:`create_model` for, and where it is found here; False asks for nothing."""


def list_models() -> list[str]:
    """Names that :func:`create_model` knows."""
    return list(MODELS)


@dataclass(frozen=True)
class ModelRow:
    """A line of the list of models."""

    model: str
    head: str
    branch: str
    dim: int
    depth: int
    kernel_size: PerBlock
    patch_size: int
    image_size: int
    n_classes: int
    parameters: int
    multiply_adds: int
    """For one image; a multiplication and an addition count as one."""
    source: str
    purpose: str


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
                head=config.head,
                branch=config.branch,
                dim=config.dim,
                depth=config.depth,
                kernel_size=config.kernel_size,
                patch_size=config.patch_size,
                image_size=preset.image_size,
                n_classes=preset.n_classes,
                parameters=parameters,
                multiply_adds=count_multiply_adds(config, preset.image_size, preset.n_classes),
                source=preset.source,
                purpose=preset.purpose,
            )
        )
    return rows


def create_model(
    name: str, *, weights: str | Path | None = None, engine: Engine = "auto", **arguments: Any
) -> ConvMixer:
    """A model from the preset table.

    Args:
        name: one of :func:`list_models`.
        weights: file to load weights from, see :func:`load_weights`.
        engine: how the model is executed, see :meth:`ConvMixer.set_engine`; not part of what the model is.
        arguments: ``n_classes`` (outputs; the preset's own number by default, 0 for pooled features instead of logits),
            ``in_channels`` (of the images; 3 by default), and fields of :class:`convmixer.config.ModelConfig` that
            differ from the preset, such as ``dim=128``. timm's names are valid too: ``num_classes``, ``in_chans``,
            ``drop_rate``, ``drop_path_rate``.

    Raises:
        InputError: unknown name or argument (with the nearest known one), an argument given by both of its names,
            impossible value, weights that do not fit.
    """
    preset = model_preset(name)
    known = [field.name for field in dataclasses.fields(ModelConfig)] + ["n_classes", "in_channels", *TIMM_NAMES]
    given: dict[str, Any] = {}
    for key, value in arguments.items():
        if key in _ELSEWHERE:
            if not value:
                continue
            raise InputError(f"create_model: {key!r} is not an argument of a model; {_ELSEWHERE[key]}.")
        if key not in known:
            raise InputError(f"create_model: {key!r} is not an argument of a model; {nearest(key, known)}")
        own = TIMM_NAMES.get(key, key)
        if own in given:
            raise InputError(f"create_model: `{own}` is given twice, by timm's name for it as well; give it once.")
        given[own] = value
    n_classes = given.pop("n_classes", preset.n_classes)
    in_channels = given.pop("in_channels", 3)
    model = build_model(dataclasses.replace(preset.architecture, **given), n_classes, in_channels, engine)
    model.default_cfg |= {"architecture": name, "input_size": (in_channels, preset.image_size, preset.image_size)}
    if in_channels == 3:
        model.default_cfg |= {"mean": preset.mean, "std": preset.std}
    if weights is not None:
        load_weights(model, weights)
    return model


def build_model(config: ModelConfig, n_classes: int, in_channels: int, engine: Engine = "auto") -> ConvMixer:
    """The network that ``config`` describes, with fresh weights from PyTorch's global random generator."""
    return ConvMixer(**dataclasses.asdict(config), n_classes=n_classes, in_channels=in_channels, engine=engine)


def require_fit(path: Path, config: ModelConfig, n_classes: int, in_channels: int) -> None:
    """Raises InputError if weights do not fit the network described beside them, before any memory is taken for it."""
    state, problem = to_own_layout(read_state_dict(path)), f"{config.depth} blocks are described"
    if config.depth <= len(state):
        try:
            with torch.device("meta"):
                network = build_model(config, n_classes, in_channels, "plain")
            own = network.state_dict()
            counted = {name: value for name, value in own.items() if name.endswith(".num_batches_tracked")}
            problem = describe_mismatch(own, counted | state)
        except RuntimeError as error:  # sizes that cannot be counted
            problem = str(error).splitlines()[0]
    if problem:
        raise InputError(f"{path}: the weights do not fit the file's own description: {problem}.")


def count_parameters(model: torch.nn.Module) -> int:
    """Number of weights, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(config: ModelConfig, image_size: int, n_classes: int, in_channels: int = 3) -> int:
    """Multiply-adds of convolutions and linear layers for one image of ``image_size`` × ``image_size`` pixels."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):  # shapes only: nothing is computed
        model = build_model(config, n_classes, in_channels, "plain").eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, in_channels, image_size, image_size))
    return int(counter.get_total_flops()) // 2
