"""Activation checkpointing: keeping a block's input only, and running the block again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, *modules: nn.Module) -> Tensor:
    """``function(x)``, which runs these modules; for the backward pass only ``x`` is kept.

    The second pass draws the same random numbers, and leaves the running statistics of normalisations alone.
    """
    y: Tensor = checkpoint(
        function, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(modules))
    )
    return y


@contextlib.contextmanager
def _statistics_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Running statistics are updated with momentum 0, which leaves them; as many tensors are kept as without."""
    inner = dict.fromkeys(m for module in modules for m in module.modules())
    norms = [m for m in inner if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, counter in before:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if counter is None else counter.clone()
    try:
        yield
    finally:
        for norm, momentum, counter in before:
            norm.momentum, norm.num_batches_tracked = momentum, counter
