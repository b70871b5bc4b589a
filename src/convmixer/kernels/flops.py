"""FLOPs of the registered operations, for PyTorch's counter: what it counts for the convolutions that they contain.

Activations and normalisations count for nothing there. The formulas are PyTorch's own, called with the shapes that the
plain modules would have: every engine gives the same number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

Size = Sequence[int]


def register() -> None:
    """Tells the formulas to the FLOP counters that are active; those to come find them in PyTorch's table.

    To be called when an operation is about to be counted: importing PyTorch's counter takes longer than this package.
    """
    counter = sys.modules.get("torch.utils.flop_counter")
    if counter is None:
        return
    if torch.ops.convmixer.depthwise not in counter.flop_registry:
        for name, formula in _FORMULAS.items():
            operation = getattr(torch.ops.convmixer, name)
            counter.register_flop_formula(operation)(_with_names(operation, formula))
    for mode in _get_current_dispatch_mode_stack():
        if isinstance(mode, counter._FlopCounterMode):  # it copied the table when it was made
            mode.counter.flop_registry = {**counter.flop_registry, **mode.counter.flop_registry}


def _with_names(operation: Any, formula: Callable[[dict[str, Any], Any], int]) -> Callable[..., int]:
    names = [argument.name for argument in operation.default._schema.arguments]
    return lambda *arguments, out_shape: formula(dict(zip(names, arguments, strict=True)), out_shape)


def _convolution(x: Size, weight: Size, shape: Sequence[int]) -> int:
    """A depthwise convolution of (C, N·H·W) with (C, k, k)."""
    maps = _maps(x, shape)
    return _ask("convolution", maps, _kernels(weight), None, [1, 1], [0, 0], [1, 1], False, [0, 0], x[0], out_val=maps)


def _gradients(x: Size, weight: Size, shape: Sequence[int], mask: Sequence[bool]) -> int:
    """Its gradients of input and weight, as far as ``mask`` wants them."""
    maps, kernels = _maps(x, shape), _kernels(weight)
    rest = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], x[0], mask)
    return _ask("convolution_backward", maps, maps, kernels, *rest, out_val=(maps, kernels, None))


def _maps(x: Size, shape: Sequence[int]) -> list[int]:
    return [shape[0], x[0], shape[1], shape[2]]


def _kernels(weight: Size) -> list[int]:
    return [weight[0], 1, *weight[1:]]


def _ask(name: str, *arguments: Any, out_val: Any) -> int:
    counter = sys.modules["torch.utils.flop_counter"]
    count: int = counter.flop_registry[getattr(torch.ops.aten, name)](*arguments, out_val=out_val)
    return count


# From the arguments by name and the result, tensors replaced by their shapes.
_FORMULAS: dict[str, Callable[[dict[str, Any], Any], int]] = {
    "act_norm_depthwise": lambda a, _: _convolution(a["u"], a["weight"], a["shape"]),
    "act_norm_depthwise_backward": lambda a, _: _gradients(a["u"], a["weight"], a["shape"], [True, True, False]),
    "depthwise": lambda a, _: _convolution(a["x"], a["weight"], a["shape"]),
    "depthwise_weight_gradient": lambda a, weight: _gradients(a["x"], weight, a["shape"], [False, True, False]),
    "pointwise": lambda a, _: _ask("mm", a["weight"], a["x"], out_val=None),
}
