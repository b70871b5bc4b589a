"""Weights and statistics in the form that the fused operations take, made for each pass or kept between passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from convmixer.kernels.backend import ActNorm
from convmixer.models.engines.units import Unit, as_unit, as_units

T = TypeVar("T")


class PreparedWeights:
    """Weights, parameters and running statistics as the operations take them.

    Made anew for each pass, or with ``keep``, which :meth:`ConvMixer.fuse` sets, once for each dtype.
    """

    def __init__(self, keep: bool = False) -> None:
        self.keep = keep
        self._kept: dict[tuple[object, ...], Any] = {}
        self._stamp: tuple[object, ...] = ()

    def __reduce__(self) -> tuple[type[PreparedWeights], tuple[bool]]:
        return PreparedWeights, (self.keep,)  # copies and pickles begin empty: the keys are this model's modules

    def refresh(self, modules: Iterable[nn.Module]) -> PreparedWeights:
        """Forgets everything if a parameter or buffer of these modules has changed since the last call."""
        tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        # Tensors made in inference mode count no versions.
        stamp = tuple((id(t), t.dtype, 0 if t.is_inference() else t._version) for t in tensors)
        if stamp != self._stamp:
            self._kept, self._stamp = {}, stamp
        return self

    def get(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """What ``make`` returns, or what it returned for this key before."""
        if not self.keep:
            return make()
        if key not in self._kept:
            self._kept[key] = make()
        return cast(T, self._kept[key])

    def matrix(self, conv: nn.Conv2d, dtype: torch.dtype) -> Tensor:
        """The weight as a matrix in the storage dtype."""
        return self.get(("matrix", conv, dtype), lambda: conv.weight.flatten(1).to(dtype).contiguous())

    def kernels(self, conv: nn.Conv2d, u: Tensor) -> Tensor:
        """The depthwise kernels (C, k, k)."""
        return self.get(("kernels", conv, u.dtype), lambda: _parameter(conv.weight.squeeze(1), u))

    def act_norm(self, unit: Unit, norm: nn.BatchNorm2d, u: Tensor) -> ActNorm:
        """Parameters of the unit's activation and normalisation."""
        parts = (cast(Tensor, unit.conv.bias), norm.weight, norm.bias)
        bias, gamma, beta = self.get(("act_norm", norm, u.dtype), lambda: [_parameter(part, u) for part in parts])
        return ActNorm(bias, gamma, beta, norm.eps)

    def statistics(self, norms: Sequence[nn.BatchNorm2d], u: Tensor) -> Tensor | None:
        """(2·len, C): running means and variances where these are to be used, None for the batch's."""
        if any(uses_batch_statistics(norm) for norm in norms):
            if u.shape[1] == 1:
                raise ValueError(f"Expected more than 1 value per channel when training, got {u.shape[1]} value")
            return None
        both = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
        return self.get(("statistics", *norms, u.dtype), lambda: _parameter(torch.stack(both), u))

    def units(self, module: nn.Module) -> list[Unit]:
        """As :func:`as_units`."""
        return self.get(("units", module), lambda: as_units(module))

    def unit(self, block: nn.Module, parts: Sequence[nn.Module]) -> Unit | None:
        """As :func:`as_unit`, for these modules of a block."""
        return self.get(("unit", block), lambda: as_unit(parts))


def uses_batch_statistics(norm: nn.BatchNorm2d) -> bool:
    """Whether the normalisation takes mean and variance from the batch, as PyTorch's module decides."""
    return norm.training or norm.running_mean is None


def _parameter(parameter: Tensor, u: Tensor) -> Tensor:
    """A parameter as the operations want it: in the arithmetic dtype, contiguous."""
    return parameter.to(torch.promote_types(u.dtype, torch.float32)).contiguous()
