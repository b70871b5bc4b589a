"""Activation checkpointing: keeping a block's input only, and running the block again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, block: nn.Module) -> Tensor:
    """``function(x)``, which runs ``block``; for the backward pass only ``x`` is kept.

    The second pass draws the same random numbers, and leaves the running statistics of normalisations alone.
    """
    y: Tensor = checkpoint(
        function, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(block))
    )
    return y


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = not norm.training  # in training this means statistics that are not recorded
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
