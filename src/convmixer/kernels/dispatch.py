"""The one place that decides which implementation runs an operation, and that can say what it decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor

from convmixer.kernels import native, triton_ops

Implementation = Literal["native", "triton", "reference"]

_forced: Implementation | None = None
_record: Counter[tuple[str, str]] | None = None


def choose(operation: str, tensor: Tensor, kernel_size: int = 1, width: int = 1) -> Implementation:
    """The implementation of ``operation`` for this tensor, depthwise kernel size and width of the maps."""
    chosen: Implementation = "reference"
    if _forced != "reference":
        if triton_ops.covers(tensor, kernel_size, width):
            chosen = "triton"
        elif native.covers(tensor, kernel_size):
            chosen = "native"
    note(operation, chosen)
    return chosen


def note(operation: str, implementation: str) -> None:
    """Counts that ``operation`` ran as ``implementation``, if someone records."""
    if _record is not None:
        _record[operation, implementation] += 1


@contextmanager
def reference_only() -> Iterator[None]:
    """Within it, every operation runs as its plain reference."""
    global _forced
    before, _forced = _forced, "reference"
    try:
        yield
    finally:
        _forced = before


@contextmanager
def record() -> Iterator[Counter[tuple[str, str]]]:
    """Within it, counts (operation, implementation) pairs; what ``convmixer bench --explain`` shows."""
    global _record
    before, _record = _record, Counter()
    try:
        yield _record
    finally:
        _record = before
