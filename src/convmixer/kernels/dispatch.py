"""The one place that decides which implementation runs an operation, and that can say what it decided.

The operations here take the arguments of :class:`Backend`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from convmixer.kernels import native, reference, triton_ops
from convmixer.kernels.backend import ActNorm, ActNormDepthwise, Backend, Maps

_BACKENDS: Sequence[Backend] = (triton_ops, native, reference)  # by preference; the last one covers everything

_allowed = _BACKENDS
_record: Counter[tuple[str, str]] | None = None


def choose(operation: str, x: Tensor, kernel_size: int = 1, width: int = 1) -> Backend:
    """The implementation of ``operation`` for this tensor, depthwise kernel size and width of the maps."""
    for backend in _allowed:
        if backend.covers(x, kernel_size, width):
            break
    note(operation, backend.NAME)
    return backend


def act_norm(
    u: Tensor, norm: ActNorm, statistics: Tensor | None, residual: Tensor | None, maps: Maps
) -> tuple[Tensor, Tensor]:
    """See :meth:`Backend.act_norm`."""
    return choose("act_norm", u).act_norm(u, norm, statistics, residual, maps)


def act_norm_backward(
    d: Tensor, u: Tensor, norm: ActNorm, statistics: Tensor, of_batch: bool, maps: Maps
) -> tuple[Tensor, Tensor]:
    """See :meth:`Backend.act_norm_backward`."""
    return choose("act_norm_backward", u).act_norm_backward(d, u, norm, statistics, of_batch, maps)


def act_norm_depthwise(
    u: Tensor, layers: ActNormDepthwise, statistics: Tensor | None, maps: Maps, keep_hidden: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """See :meth:`Backend.act_norm_depthwise`."""
    backend = choose("act_norm_depthwise", u, layers.weight.shape[-1], maps.shape[2])
    return backend.act_norm_depthwise(u, layers, statistics, maps, keep_hidden)


def act_norm_depthwise_backward(
    d: Tensor, u: Tensor, hidden: Tensor, layers: ActNormDepthwise, statistics: Tensor, of_batch: bool, maps: Maps
) -> tuple[Tensor, Tensor, Tensor]:
    """See :meth:`Backend.act_norm_depthwise_backward`."""
    backend = choose("act_norm_depthwise_backward", u, layers.weight.shape[-1], maps.shape[2])
    return backend.act_norm_depthwise_backward(d, u, hidden, layers, statistics, of_batch, maps)


def depthwise(x: Tensor, weight: Tensor, shape: Sequence[int], turn: bool) -> Tensor:
    """See :meth:`Backend.depthwise`."""
    return choose("depthwise", x, weight.shape[-1], shape[2]).depthwise(x, weight, shape, turn)


def depthwise_weight_gradient(x: Tensor, d: Tensor, kernel_size: int, shape: Sequence[int]) -> Tensor:
    """See :meth:`Backend.depthwise_weight_gradient`."""
    backend = choose("depthwise_weight_gradient", x, kernel_size, shape[2])
    return backend.depthwise_weight_gradient(x, d, kernel_size, shape)


def note(operation: str, implementation: str) -> None:
    """Counts that ``operation`` ran as ``implementation``, if someone records."""
    if _record is not None:
        _record[operation, implementation] += 1


@contextmanager
def reference_only() -> Iterator[None]:
    """Within it, every operation runs as its plain reference."""
    global _allowed
    before, _allowed = _allowed, (reference,)
    try:
        yield
    finally:
        _allowed = before


@contextmanager
def record() -> Iterator[Counter[tuple[str, str]]]:
    """Within it, counts (operation, implementation) pairs; what ``convmixer bench --explain`` shows."""
    global _record
    before, _record = _record, Counter()
    try:
        yield _record
    finally:
        _record = before
