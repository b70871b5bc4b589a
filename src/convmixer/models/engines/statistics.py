"""Running statistics of batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


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
