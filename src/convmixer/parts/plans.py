"""Networks as layers of a :class:`convmixer.kernels.plan.Plan`, from weights by their names: without PyTorch.

Batch normalisation becomes a factor and a summand of each channel, which is exact in evaluation mode. A branch or head
that is not listed here has no plan, and runs as the module it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from convmixer.kernels.plan import LARGEST_KERNEL, Floats, Kind, Layer
from convmixer.parts.branches import Activation, Block

State = Mapping[str, Floats]
"""Weights and statistics by their names in the module, as in ``model.safetensors``."""
_NORM_EPS = 1e-5  # PyTorch's default, of both kinds of normalisation


def network_layers(
    blocks: Sequence[Block],
    branch: str,
    head: str,
    state: State,
    pixels: tuple[Sequence[float], Sequence[float]] | None = None,
) -> list[Layer] | None:
    """The layers of a network, None where a part of it has no plan.

    Args:
        blocks: sizes.
        branch: name of the residual branch.
        head: name of the head; "" for none.
        state: the network's.
        pixels: mean and deviation for each channel of images in [0, 1], where the plan takes pixels (0 to 255) that
            are not normalised; None where it takes normalised images.
    """
    if branch not in _BRANCHES or head not in _HEADS or any(block.kernel_size > LARGEST_KERNEL for block in blocks):
        return None
    layers = [_patches(state, blocks[0].activation, pixels)]
    for number, block in enumerate(blocks):
        part = _below(state, f"blocks.{number}.")
        layers += _BRANCHES[branch](block, part)
        layers.append(_unit(part, "1", "3", "pointwise", block.activation, source=layers[-1].target))
    layers.append(Layer(kind="means", width=blocks[0].dim))
    return layers + _HEADS[head](_below(state, "head."))


def _below(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): values for name, values in state.items() if name.startswith(prefix)}


def _patches(state: State, activation: Activation, pixels: tuple[Sequence[float], Sequence[float]] | None) -> Layer:
    scale, shift = _batch_norm(state, "stem.2")
    weight, bias = state["stem.0.weight"].astype(np.float64), state["stem.0.bias"].astype(np.float64)
    if pixels is not None:
        mean, std = (np.array(values, np.float64)[:, None, None] for values in pixels)
        bias = bias - (weight * (mean / std)).sum((1, 2, 3))
        weight = weight / (255 * std)
    return Layer(
        kind="patches",
        width=len(weight),
        weight=weight.reshape(len(weight), -1).astype(np.float32),
        bias=bias.astype(np.float32),
        activation=activation,
        scale=scale,
        shift=shift,
    )


def _unit(
    state: State,
    conv: str,
    norm: str,
    kind: Kind,
    activation: Activation,
    *,
    source: int = 0,
    target: int = 0,
    add: bool = False,
) -> Layer:
    """A convolution of maps, its activation and its normalisation."""
    weight = state[f"{conv}.weight"]
    scale, shift = _batch_norm(state, norm)
    return Layer(
        kind=kind,
        width=len(weight),
        weight=weight[:, 0] if kind == "depthwise" else weight[:, :, 0, 0],
        bias=state[f"{conv}.bias"],
        activation=activation,
        scale=scale,
        shift=shift,
        source=source,
        target=target,
        add=add,
    )


def _batch_norm(state: State, name: str) -> tuple[Floats, Floats]:
    """Factor and summand of each channel."""
    gamma, beta, mean, variance = (
        state[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + _NORM_EPS)
    return scale.astype(np.float32), (beta - mean * scale).astype(np.float32)


def _depthwise(block: Block, state: State) -> list[Layer]:
    return [_unit(state, "0.fn.0", "0.fn.2", "depthwise", block.activation, target=1, add=True)]


def _bottleneck(block: Block, state: State) -> list[Layer]:
    return [
        _unit(state, "0.fn.0", "0.fn.2", "pointwise", block.activation, target=1),
        _unit(state, "0.fn.3", "0.fn.5", "depthwise", block.activation, source=1, target=2),
        _unit(state, "0.fn.6", "0.fn.8", "pointwise", block.activation, source=2, add=True),
    ]


def _dense(state: State, name: str, activation: Activation | None = None) -> Layer:
    weight = state[f"{name}weight"]
    return Layer(
        kind="dense", width=len(weight), weight=weight, bias=state[f"{name}bias"], activation=activation or "none"
    )


def _layer_norm(state: State, name: str) -> Layer:
    scale = state[f"{name}.weight"]
    return Layer(kind="layer_norm", width=len(scale), scale=scale, shift=state[f"{name}.bias"], eps=_NORM_EPS)


def _linear(state: State) -> list[Layer]:
    return [_dense(state, "")]


def _representation(state: State) -> list[Layer]:
    return [
        _layer_norm(state, "0"),
        _dense(state, "1.", "gelu"),
        _dense(state, "3."),
        _layer_norm(state, "4"),
        _dense(state, "5."),
    ]


def _linear_classifier(state: State) -> list[Layer]:
    scale, shift = _batch_norm(state, "0")
    weight = state["2.weight"].astype(np.float64)
    bias = state["2.bias"] + weight @ shift.astype(np.float64)
    folded = (weight * scale).astype(np.float32)
    return [Layer(kind="dense", width=len(weight), weight=folded, bias=bias.astype(np.float32))]


_BRANCHES: dict[str, Callable[[Block, State], list[Layer]]] = {"depthwise": _depthwise, "bottleneck": _bottleneck}
_HEADS: dict[str, Callable[[State], list[Layer]]] = {
    "": lambda state: [],
    "linear": _linear,
    "rh": _representation,
    "lc": _linear_classifier,
}
