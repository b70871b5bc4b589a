"""The fast engine: runs a network's own modules channel-major, through the fused operations of ``kernels``.

Nothing here holds parameters. The network is read as units (:mod:`convmixer.models.engines.units`); what lies between
two 1×1 convolutions, which are matrix products, is one fused operation. What is not recognised, be it a block, a
branch, an activation or a normalisation, runs as the module it is.

Layout: activations are (h, N·H'·W'), see :mod:`convmixer.kernels`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from convmixer.kernels import dispatch, layout, ops
from convmixer.kernels.backend import ActNormDepthwise, Maps
from convmixer.models.blocks import Residual
from convmixer.models.engines.prepared import PreparedWeights, uses_batch_statistics
from convmixer.models.engines.recompute import recomputed
from convmixer.models.engines.statistics import update_running_statistics
from convmixer.models.engines.units import Network, Unit, as_unit
from convmixer.runtime.allocator import tune_for_training

logger = logging.getLogger("convmixer.models")

Shape = tuple[int, int, int]

STORAGE_DTYPES = {
    "cpu": (torch.float32, torch.bfloat16, torch.float64),
    "cuda": (torch.float32, torch.bfloat16, torch.float16, torch.float64),
}
"""What activations may be kept in, by kind of device."""


class PreActivation(NamedTuple):
    """A convolution's result without its bias; activation and normalisation of its unit are still to come."""

    u: Tensor
    unit: Unit


def storage_dtype(network: Network, x: Tensor) -> torch.dtype:
    """The dtype activations are kept in: autocast's where it is on, else the weights'."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return next(network.stem.parameters(), x).dtype


def can_run(network: Network, x: Tensor) -> bool:
    """Whether the fast engine may run this network on these images; the plain one has to where it returns False.

    It may not where hooks on inner modules (pruning and visualisation use them) expect these modules to be called, or
    where the images are such that the plain modules raise an error.
    """
    if x.dim() != 4 or min(x.shape) == 0 or storage_dtype(network, x) not in STORAGE_DTYPES.get(x.device.type, ()):
        return False
    weight = next(network.stem.parameters(), x)
    if x.device != weight.device or (x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type)):
        return False
    stem = as_patches(network.stem)
    if stem is not None and (x.shape[1] != stem.conv.in_channels or min(x.shape[2:]) < stem.conv.kernel_size[0]):
        return False
    inner = (module for part in (network.stem, network.blocks, network.pooling) for module in part.modules())
    return not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in inner)


def as_patches(stem: nn.Module) -> Unit | None:
    """The unit that a patch embedding is, None if the stem is something else."""
    unit = as_unit(stem) if isinstance(stem, nn.Sequential) else None
    return unit if unit is not None and unit.is_patches else None


def feature_maps(
    network: Network, x: Tensor, prepared: PreparedWeights | None = None, recompute: bool = False
) -> Tensor:
    """Images (N, C, H, W) → feature maps (N, h, H', W') in the storage dtype. Only where :func:`can_run`.

    With ``recompute`` the backward pass runs blocks again, instead of keeping what they computed.
    """
    return layout.to_maps(*_features(network, x, prepared, recompute)).contiguous()


def pooled(network: Network, x: Tensor, prepared: PreparedWeights | None = None, recompute: bool = False) -> Tensor:
    """Images (N, C, H, W) → pooled features (N, h) in the storage dtype. Only where :func:`can_run`."""
    if pools_by_mean(network.pooling):
        return _means(*_features(network, x, prepared, recompute))
    features: Tensor = network.pooling(feature_maps(network, x, prepared, recompute))
    return features


def pools_by_mean(pooling: nn.Module) -> bool:
    """Whether :func:`_means` does what this module does."""
    parts = list(pooling) if type(pooling) is nn.Sequential else []
    known = [type(part) for part in parts] == [nn.AdaptiveAvgPool2d, nn.Flatten]
    return known and cast(nn.AdaptiveAvgPool2d, parts[0]).output_size in (1, (1, 1))


def _means(x: Tensor, shape: Shape) -> Tensor:
    """(h, N·H'·W') → means (N, h) in the same dtype."""
    maps = x.view(x.shape[0], shape[0], -1)
    # Not mean(2), whose gradient divides every position on a CPU.
    means = (maps.sum(2, dtype=torch.promote_types(x.dtype, torch.float32)) / maps.shape[2]).to(x.dtype)
    return means.t().contiguous()  # contiguous: dropout draws its mask in the order of memory


def _features(network: Network, x: Tensor, prepared: PreparedWeights | None, recompute: bool) -> tuple[Tensor, Shape]:
    """Images (N, C, H, W) → (h, N·H'·W') in the storage dtype, and (N, H', W')."""
    if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        tune_for_training()
    dtype = storage_dtype(network, x)
    is_autocast = torch.is_autocast_enabled(x.device.type)
    with torch.autocast(x.device.type, enabled=False):  # the dtypes are chosen here
        run = _Pass(dtype, is_autocast, prepared or PreparedWeights(), ops.bindings(x))
        value = run.stem(x, network.stem)
        for block in network.blocks:
            value = run.recomputed_block(value, block) if recompute else run.block(value, block)
        result = run.finished(value)
        run.update_running_statistics()
        if run.plain_modules and not torch.compiler.is_compiling() and logger.isEnabledFor(logging.INFO):
            _log_plain_modules(network, run.plain_modules)
        return result, run.shape


class _Pass:
    """One forward pass."""

    def __init__(
        self, dtype: torch.dtype, is_autocast: bool, prepared: PreparedWeights, bindings: ops.Bindings
    ) -> None:
        self.dtype = dtype
        self.is_autocast = is_autocast
        self.prepared = prepared
        self.bindings = bindings
        self.shape: Shape = (0, 0, 0)
        self.seen: list[tuple[nn.BatchNorm2d, Tensor]] = []  # statistics (2, C) of this batch, by normalisation
        self.plain_modules: list[nn.Module] = []

    def stem(self, x: Tensor, stem: nn.Module) -> PreActivation | Tensor:
        unit = as_patches(stem)
        if unit is None:
            dispatch.note("stem", "plain")
            return self.from_maps(self.plain(x, stem))
        side = unit.conv.kernel_size[0]
        self.shape = (x.shape[0], x.shape[2] // side, x.shape[3] // side)
        return self.pointwise(unit, layout.patches(x.to(self.dtype), side))

    def block(self, state: PreActivation | Tensor, block: nn.Module) -> PreActivation | Tensor:
        parts = list(block) if type(block) is nn.Sequential else []
        unit = self.prepared.unit(block, parts[1:])
        if unit is None or not unit.is_pointwise or type(parts[0]) is not Residual:
            dispatch.note("block", "plain")
            return self.from_maps(self.plain(layout.to_maps(self.finished(state), self.shape), block))
        return self.pointwise(unit, self.residual(state, parts[0]))

    def recomputed_block(self, state: PreActivation | Tensor, block: nn.Module) -> PreActivation | Tensor:
        """As :meth:`block`; for the backward pass only the input is kept."""
        before, u = (state.unit, state.u) if isinstance(state, PreActivation) else (None, state)
        passes: list[tuple[_Pass, Unit | None]] = []
        shape = self.shape

        def run(u: Tensor) -> Tensor:
            part = _Pass(self.dtype, self.is_autocast, self.prepared, self.bindings)
            part.shape = shape
            result = part.block(PreActivation(u, before) if before else u, block)
            after, y = (result.unit, result.u) if isinstance(result, PreActivation) else (None, result)
            passes.append((part, after))
            return y

        y = recomputed(run, u, block, *([before.norm] if before else []))
        part, after = passes[0]
        self.shape = part.shape
        self.seen += part.seen
        self.plain_modules += part.plain_modules
        return PreActivation(y, after) if after else y

    def pointwise(self, unit: Unit, x: Tensor) -> PreActivation:
        return PreActivation(ops.multiply(self.prepared.matrix(unit.conv, x.dtype), x), unit)

    def residual(self, state: PreActivation | Tensor, residual: Residual) -> Tensor:
        units = self.prepared.units(residual.fn)
        if not units:
            dispatch.note("branch", "plain")
            return self.from_maps(self.plain(layout.to_maps(self.finished(state), self.shape), residual))
        scale = self.image_scale(state, residual)
        if len(units) == 1 and can_fuse(state, units[0]):
            return self.act_norm_depthwise(cast(PreActivation, state), units[0], scale, add_input=True)
        x = self.finished(state)
        value: PreActivation | Tensor = x
        for unit in units:
            value = self.unit(value, unit)
        if isinstance(value, PreActivation) and value.unit.is_fused:
            return self.act_norm(value, residual=x, scale=scale)
        branch = self.finished(value)
        return x + (branch if scale is None else (branch.view(len(x), self.shape[0], -1) * scale[:, None]).view_as(x))

    def unit(self, state: PreActivation | Tensor, unit: Unit) -> PreActivation | Tensor:
        """One unit of a branch; its own activation and normalisation stay pending where that helps."""
        if unit.is_pointwise:
            return self.pointwise(unit, self.finished(state))
        if can_fuse(state, unit):
            return self.act_norm_depthwise(cast(PreActivation, state), unit, None, add_input=False)
        x = self.finished(state)
        return PreActivation(self.bindings.depthwise(x, self.prepared.kernels(unit.conv, x), self.shape, False), unit)

    def finished(self, state: PreActivation | Tensor) -> Tensor:
        if not isinstance(state, PreActivation):
            return state
        if state.unit.is_fused:
            return self.act_norm(state)
        dispatch.note("act_norm", "plain")
        unit, u = state.unit, state.u
        v = u + cast(Tensor, unit.conv.bias).to(u.dtype)[:, None]
        return self.from_maps(self.plain(layout.to_maps(v, self.shape), unit.activation, unit.norm))

    def act_norm(self, state: PreActivation, residual: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        unit, u, norm = state.unit, state.u, _batch_norm(state.unit)
        own = self.prepared.statistics([norm], u)
        maps = Maps(self.shape, cast(str, unit.activation_name), scale)
        y, used = self.bindings.act_norm(u, self.prepared.act_norm(unit, norm, u), own, residual, maps)
        if own is None:
            self.seen.append((norm, used))
        return y

    def act_norm_depthwise(self, state: PreActivation, unit: Unit, scale: Tensor | None, add_input: bool) -> Tensor:
        u = state.u
        norms = _batch_norm(state.unit), _batch_norm(unit)
        own = self.prepared.statistics(norms, u)
        first, second = (self.prepared.act_norm(*pair, u) for pair in zip((state.unit, unit), norms, strict=True))
        layers = ActNormDepthwise(first, self.prepared.kernels(unit.conv, u), second, add_input)
        maps = Maps(self.shape, cast(str, unit.activation_name), scale)
        y, _, used = self.bindings.act_norm_depthwise(u, layers, own, maps, torch.is_grad_enabled())
        if own is None:
            self.seen += zip(norms, used.split(2), strict=True)
        return y

    def image_scale(self, state: PreActivation | Tensor, residual: Residual) -> Tensor | None:
        """The factors (N,) of stochastic depth, drawn as :class:`DropPath` draws them."""
        drop = residual.drop_path
        if not drop.training or drop.probability == 0.0:
            return None
        keep = 1.0 - drop.probability
        like = state.u if isinstance(state, PreActivation) else state
        mask = like.new_empty((self.shape[0], 1, 1, 1)).bernoulli_(keep).flatten()
        return mask.to(torch.promote_types(like.dtype, torch.float32)) / keep

    def plain(self, maps: Tensor, *modules: nn.Module) -> Tensor:
        """Modules of feature maps, one after the other, under autocast if the pass is."""
        self.plain_modules += modules
        with torch.autocast(maps.device.type, dtype=self.dtype, enabled=self.is_autocast):
            for module in modules:
                maps = module(maps)
        return maps

    def from_maps(self, maps: Tensor) -> Tensor:
        shape = (maps.shape[0], maps.shape[2], maps.shape[3])
        if shape != self.shape:
            self.update_running_statistics()  # those seen so far are of another number of values
            self.shape = shape
        return layout.from_maps(maps).to(self.dtype)

    def update_running_statistics(self) -> None:
        update_running_statistics(self.seen, self.shape[0] * self.shape[1] * self.shape[2])
        self.seen = []


def can_fuse(state: PreActivation | Tensor, unit: Unit) -> bool:
    """Whether one operation can take the rest of the state's unit and this one.

    That needs a depthwise convolution, one activation, and both normalisations on the same kind of statistics.
    """
    if not isinstance(state, PreActivation) or not (unit.is_depthwise and unit.is_fused and state.unit.is_fused):
        return False
    first, second = _batch_norm(state.unit), _batch_norm(unit)
    same_statistics = uses_batch_statistics(first) == uses_batch_statistics(second)
    return same_statistics and state.unit.activation_name == unit.activation_name


def _batch_norm(unit: Unit) -> nn.BatchNorm2d:
    return cast(nn.BatchNorm2d, unit.norm)


def _log_plain_modules(network: Network, modules: Sequence[nn.Module]) -> None:
    parts = {"stem": network.stem, "blocks": network.blocks}
    names = {m: name for prefix, part in parts.items() for name, m in part.named_modules(prefix=prefix)}
    _log_once("; ".join(f"{names[module]} ({type(module).__name__})" for module in dict.fromkeys(modules)))


@functools.lru_cache(maxsize=256)
def _log_once(modules: str) -> None:
    logger.info("the fast engine has no kernels for these modules and runs them as they are: %s", modules)
