"""Which learning rate, weight decay and batch size are best for the base?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convmixer.experiments.definition import PublishedResult, Search

EXPERIMENT = Search(
    name="grid_search",
    question="Which learning rate, weight decay and batch size are best for the base, chosen on held-out images?",
    published=PublishedResult(test_accuracy=0.9274, train_accuracy=0.9402, epoch_seconds=24.19),
)

_PUBLISHED = {  # best test accuracy in % for weight decay 1e-4, 1e-3, 1e-2, by learning rate and batch size
    0.001: {64: (91.81, 92.04, 91.10), 128: (92.22, 92.28, 92.19), 256: (92.50, 92.41, 92.23)},
    0.01: {64: (91.97, 92.25, 91.33), 128: (92.28, 92.26, 92.20), 256: (92.74, 92.39, 92.52)},
    0.1: {64: (91.97, 92.03, 91.35), 128: (92.34, 92.21, 92.16), 256: (92.72, 92.33, 92.43)},
}
_DECAYS = (0.0001, 0.001, 0.01)


def published_result(values: Mapping[str, Any]) -> PublishedResult | None:
    """What the first study published for a point of its grid of lr, weight_decay and batch_size; None for any other.

    Its schedule overwrote the searched learning rate: results with equal weight decay and batch size are repeats.
    """
    if values.keys() != {"lr", "weight_decay", "batch_size"} or values["weight_decay"] not in _DECAYS:
        return None
    row = _PUBLISHED.get(values["lr"], {}).get(values["batch_size"])
    return PublishedResult(test_accuracy=round(row[_DECAYS.index(values["weight_decay"])] / 100, 4)) if row else None
