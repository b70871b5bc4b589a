"""The fast engine: runs a ConvMixer's own modules channel-major, through the fused operations of ``kernels``.

Nothing here holds parameters. A network is read as *units*, each convolution, activation, batch normalisation; between
two 1×1 convolutions, which are matrix products, everything is one fused operation. What is not recognised, be it a
block, a branch or a layer that somebody exchanged, runs as the module it is.

Layout: activations are (h, N·H'·W'), see :mod:`convmixer.kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from convmixer.kernels import dispatch, layout, ops
from convmixer.models.blocks import Residual

if TYPE_CHECKING:
    from convmixer.models.convmixer import ConvMixer

T = TypeVar("T")

STORAGE_DTYPES = {
    "cpu": (torch.float32, torch.bfloat16, torch.float64),
    "cuda": (torch.float32, torch.bfloat16, torch.float16, torch.float64),
}
"""What activations may be kept in, by kind of device."""


@dataclass(frozen=True)
class Unit:
    """Convolution, activation and batch normalisation that the fused operations know."""

    conv: nn.Conv2d
    activation: str
    norm: nn.BatchNorm2d

    @property
    def is_pointwise(self) -> bool:
        """A 1×1 convolution over all channels."""
        return self.conv.groups == 1 and self.conv.kernel_size == (1, 1) and self.conv.stride == (1, 1)

    @property
    def is_depthwise(self) -> bool:
        """A convolution of each channel with itself that keeps the size."""
        conv = self.conv
        side = conv.kernel_size[0]
        own = conv.groups == conv.in_channels == conv.out_channels
        square = conv.kernel_size == (side, side) and side % 2 == 1 and conv.padding == (side // 2, side // 2)
        return own and square and conv.stride == (1, 1)

    @property
    def is_patches(self) -> bool:
        """A convolution of separate square patches."""
        side = self.conv.kernel_size[0]
        return self.conv.groups == 1 and self.conv.kernel_size == self.conv.stride == (side, side)


@dataclass(frozen=True)
class Pending:
    """A convolution's result without its bias; activation and normalisation of its unit are still to come."""

    u: Tensor
    unit: Unit


def as_unit(modules: Iterable[nn.Module]) -> Unit | None:
    """The unit that these modules are, None if they are something else."""
    parts = list(modules)
    if [type(part) for part in parts[::2]] != [nn.Conv2d, nn.BatchNorm2d] or len(parts) != 3:
        return None
    conv, activation, norm = cast(nn.Conv2d, parts[0]), parts[1], cast(nn.BatchNorm2d, parts[2])
    name = "relu" if type(activation) is nn.ReLU else "gelu"
    known = type(activation) is nn.ReLU or (type(activation) is nn.GELU and activation.approximate == "none")
    plain = conv.bias is not None and conv.dilation == (1, 1) and conv.padding_mode == "zeros" and norm.affine
    return Unit(conv, name, norm) if known and plain else None


def as_units(module: nn.Module) -> list[Unit]:
    """The units that a branch consists of, each pointwise or depthwise; empty if it is something else."""
    parts = list(module) if type(module) is nn.Sequential else []
    units = [as_unit(parts[i : i + 3]) for i in range(0, len(parts), 3)]
    known = [unit for unit in units if unit is not None and (unit.is_pointwise or unit.is_depthwise)]
    return known if len(known) == len(units) else []


def storage_dtype(model: ConvMixer, x: Tensor) -> torch.dtype:
    """The dtype activations are kept in: autocast's where it is on, else the weights'."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return next(model.stem.parameters()).dtype


def can_run(model: ConvMixer, x: Tensor) -> bool:
    """Whether the fast engine may run this model on these images; the plain one has to where it returns False.

    It may not where hooks on inner modules (pruning and visualisation use them) expect these modules to be called, or
    where the images are such that the plain modules raise an error.
    """
    stem = as_unit(model.stem)
    if stem is None or not stem.is_patches or x.dim() != 4 or min(x.shape) == 0 or x.shape[1] != stem.conv.in_channels:
        return False
    side = stem.conv.kernel_size[0]
    if x.shape[2] < side or x.shape[3] < side or storage_dtype(model, x) not in STORAGE_DTYPES.get(x.device.type, ()):
        return False
    if x.device != stem.conv.weight.device or (
        x.dtype != stem.conv.weight.dtype and not torch.is_autocast_enabled(x.device.type)
    ):
        return False
    inner = (module for child in model.children() for module in child.modules())
    return not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in inner)


def features(model: ConvMixer, x: Tensor, constants: Constants | None = None) -> tuple[Tensor, tuple[int, int, int]]:
    """Images (N, C, H, W) → (h, N·H'·W') in the storage dtype, and (N, H', W'). Only where :func:`can_run`."""
    dtype = storage_dtype(model, x)
    stem = as_unit(model.stem)
    assert stem is not None
    side = stem.conv.kernel_size[0]
    shape = (x.shape[0], x.shape[2] // side, x.shape[3] // side)
    with torch.autocast(x.device.type, enabled=False):  # the dtypes are chosen here
        run = _Run(shape, constants or Constants(), ops.forms(x))
        value: Pending | Tensor = run.pointwise(stem, layout.patches(x.to(dtype), side))
        for block in model.blocks:
            value = run.block(value, block)
        result = run.finished(value)
        update_running_statistics(run.seen, shape[0] * shape[1] * shape[2])
        return result, shape


def pools_by_mean(pooling: nn.Module) -> bool:
    """Whether :func:`pooled` does what this module does."""
    parts = list(pooling) if type(pooling) is nn.Sequential else []
    known = [type(part) for part in parts] == [nn.AdaptiveAvgPool2d, nn.Flatten]
    return known and cast(nn.AdaptiveAvgPool2d, parts[0]).output_size in (1, (1, 1))


def pooled(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(h, N·H'·W') → means (N, h) in the same dtype."""
    maps = x.view(x.shape[0], shape[0], -1)
    # Not mean(2), whose gradient divides every position on a CPU.
    means = (maps.sum(2, dtype=torch.promote_types(x.dtype, torch.float32)) / maps.shape[2]).to(x.dtype)
    return means.t().contiguous()  # contiguous: dropout draws its mask in the order of memory


class Constants:
    """Weights, parameters and running statistics in the form that the operations want.

    Made anew for each pass, or kept by :meth:`ConvMixer.fuse`: then they are computed once for each dtype.
    """

    def __init__(self, keep: bool = False) -> None:
        self.keep = keep
        self._kept: dict[tuple[object, ...], Any] = {}
        self._stamp: tuple[object, ...] = ()

    def __reduce__(self) -> tuple[type[Constants], tuple[bool]]:
        return Constants, (self.keep,)  # copies and pickles begin empty: the keys are this model's modules

    def refresh(self, model: nn.Module) -> Constants:
        """Forgets everything if a parameter or buffer has changed since the last call."""
        tensors = (*model.parameters(), *model.buffers())
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

    def stage(self, unit: Unit, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bias, gamma and beta."""
        bias = cast(Tensor, unit.conv.bias)
        parts = (bias, unit.norm.weight, unit.norm.bias)
        return self.get(("stage", unit.norm, u.dtype), lambda: tuple(_parameter(part, u) for part in parts))  # type: ignore[return-value]

    def statistics(self, units: Sequence[Unit], u: Tensor) -> Tensor | None:
        """(2·len, C): running means and variances where these are to be used, None for the batch's."""
        norms = [unit.norm for unit in units]
        if any(norm.training or norm.running_mean is None for norm in norms):
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


class _Run:
    """One forward pass for images of one shape (N, H', W')."""

    def __init__(self, shape: tuple[int, int, int], constants: Constants, forms: ops.Forms) -> None:
        self.shape = shape
        self.constants = constants
        self.forms = forms
        self.seen: list[tuple[nn.BatchNorm2d, Tensor]] = []  # statistics (2, C) of this batch, by normalisation

    def block(self, state: Pending | Tensor, block: nn.Module) -> Pending | Tensor:
        parts = list(block) if type(block) is nn.Sequential else []
        unit = self.constants.unit(block, parts[1:])
        if unit is None or not unit.is_pointwise or type(parts[0]) is not Residual:
            dispatch.note("block", "plain")
            return self.plain(self.finished(state), block)
        return self.pointwise(unit, self.residual(state, parts[0]))

    def pointwise(self, unit: Unit, x: Tensor) -> Pending:
        return Pending(ops.multiply(self.constants.matrix(unit.conv, x.dtype), x), unit)

    def residual(self, state: Pending | Tensor, residual: Residual) -> Tensor:
        units = self.constants.units(residual.fn)
        scale = self.image_scale(state, residual)
        if len(units) == 1 and units[0].is_depthwise and isinstance(state, Pending) and same_mode(state.unit, units[0]):
            return self.mix(state, units[0], scale, add_input=True)
        x = self.finished(state)
        if not units:
            dispatch.note("branch", "plain")
            branch = self.plain(x, residual.fn)
            return x + (branch if scale is None else branch.view(len(x), self.shape[0], -1) * scale[:, None]).view_as(x)
        value: Pending | Tensor = x
        for unit in units:
            value = self.unit(value, unit)
        if isinstance(value, Pending):
            return self.normalize(value, residual=x, scale=scale)
        return x + (value if scale is None else (value.view(len(x), self.shape[0], -1) * scale[:, None]).view_as(x))

    def unit(self, state: Pending | Tensor, unit: Unit) -> Pending | Tensor:
        """One unit of a branch; its own activation and normalisation stay pending where that helps."""
        if unit.is_pointwise:
            return self.pointwise(unit, self.finished(state))
        if isinstance(state, Pending) and same_mode(state.unit, unit):
            return self.mix(state, unit, None, add_input=False)
        x = self.finished(state)
        return Pending(self.forms.depthwise(x, self.constants.kernels(unit.conv, x), self.shape, False), unit)

    def finished(self, state: Pending | Tensor) -> Tensor:
        return self.normalize(state) if isinstance(state, Pending) else state

    def normalize(self, state: Pending, residual: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        unit, u = state.unit, state.u
        own = self.constants.statistics([unit], u)
        bias, gamma, beta = self.constants.stage(unit, u)
        y, used = self.forms.normalize(
            u, bias, gamma, beta, own, residual, scale, self.shape, unit.activation, unit.norm.eps
        )
        if own is None:
            self.seen.append((unit.norm, used))
        return y

    def mix(self, state: Pending, unit: Unit, scale: Tensor | None, add_input: bool) -> Tensor:
        u = state.u
        norms = state.unit.norm, unit.norm
        given = self.constants.statistics([state.unit, unit], u)
        y, _, used = self.forms.mix(
            u,
            *self.constants.stage(state.unit, u),
            self.constants.kernels(unit.conv, u),
            *self.constants.stage(unit, u),
            given,
            scale,
            self.shape,
            unit.activation,
            [norm.eps for norm in norms],
            add_input,
            torch.is_grad_enabled(),
        )
        if given is None:
            self.seen += zip(norms, used.split(2), strict=True)
        return y

    def image_scale(self, state: Pending | Tensor, residual: Residual) -> Tensor | None:
        """The factors (N,) of stochastic depth, drawn as :class:`DropPath` draws them."""
        drop = residual.drop_path
        if not drop.training or drop.probability == 0.0:
            return None
        keep = 1.0 - drop.probability
        like = state.u if isinstance(state, Pending) else state
        mask = like.new_empty((self.shape[0], 1, 1, 1)).bernoulli_(keep).flatten()
        return mask.to(torch.promote_types(like.dtype, torch.float32)) / keep

    def plain(self, x: Tensor, module: nn.Module) -> Tensor:
        """Any module of feature maps, by itself; as under autocast if that is what the storage dtype comes from."""
        weight = next(module.parameters(), x)
        with torch.autocast(x.device.type, dtype=x.dtype, enabled=weight.dtype != x.dtype):
            maps: Tensor = module(layout.to_maps(x, self.shape))
        return layout.from_maps(maps).to(x.dtype)


def same_mode(first: Unit, second: Unit) -> bool:
    """Whether the fused operation can take both: one activation, and both norms on the same kind of statistics."""
    modes = {norm.training or norm.running_mean is None for norm in (first.norm, second.norm)}
    return first.activation == second.activation and len(modes) == 1


def update_running_statistics(seen: Sequence[tuple[nn.BatchNorm2d, Tensor]], count: int) -> None:
    """What ``nn.BatchNorm2d`` does in training: the unbiased variance, its momentum or a cumulative average.

    All at once, since on a GPU each operation on a few hundred numbers costs as much as one on thousands.

    Args:
        seen: normalisations, changed if they track statistics, and (2, C) mean and biased variance of the batch.
        count: values in each channel.
    """
    now: dict[nn.BatchNorm2d, Tensor] = {}
    for index, (norm, statistics) in enumerate(seen):
        if norm in now:  # used twice: one update after the other
            update_running_statistics(seen[index:], count)
            break
        if norm.training and norm.running_mean is not None:
            now[norm] = statistics
    counters = [norm.num_batches_tracked for norm in now if norm.num_batches_tracked is not None]
    groups: dict[float, list[tuple[Any, Tensor]]] = {}
    with torch.no_grad():
        if counters:
            torch._foreach_add_(counters, 1)
        for norm, statistics in now.items():
            factor = norm.momentum or 0.0
            if norm.momentum is None and norm.num_batches_tracked is not None:
                factor = 1.0 / float(norm.num_batches_tracked)
            pairs = zip((norm.running_mean, norm.running_var), statistics, strict=True)
            groups.setdefault(factor, []).extend(pairs)
        for factor, group in groups.items():
            running, values = ([pair[side] for pair in group] for side in (0, 1))
            torch._foreach_mul_(running, 1.0 - factor)
            torch._foreach_add_(running[::2], values[::2], alpha=factor)
            torch._foreach_add_(running[1::2], values[1::2], alpha=factor * count / (count - 1))


def _parameter(parameter: Tensor, u: Tensor) -> Tensor:
    """A parameter as the operations want it: in the arithmetic dtype, contiguous."""
    return parameter.to(torch.promote_types(u.dtype, torch.float32)).contiguous()
