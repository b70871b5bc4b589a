"""The processes that train one model together. There is one so far.

What the loop asks of a world is what several processes need: every rank draws the same whole batches and takes its
slice; the sums of gradients and losses are those of the whole batch, so that W ranks compute what one computes that
accumulates W parts; whatever depends on a clock, a signal or an observer is agreed on, so that no rank waits for one
that has gone another way; and rank 0 alone has observers, among them the writer of the run directory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class World(Protocol):
    """A process's place among those that train together. Every rank has to make the same calls in the same order."""

    rank: int
    """Of this process, from 0."""
    size: int
    """Number of processes."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which owns all files."""

    def shard(self, batch: Tensor) -> Tensor:
        """This rank's part, a view, of a tensor (B, ...) that every rank has whole."""

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its sum over the ranks, in place, and without waiting for the device."""

    def agree(self, value: T | None) -> T | None:
        """On all ranks the value of the lowest rank that has one, None if none has."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank, the same answer on all."""

    def barrier(self) -> None:
        """Returns when all ranks are here."""


class SingleProcess:
    """The world of a process that trains alone: nothing is exchanged."""

    rank, size, is_main = 0, 1, True

    def shard(self, batch: Tensor) -> Tensor:
        """The whole batch."""
        return batch

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Leaves the tensors as they are."""

    def agree(self, value: T | None) -> T | None:
        """The value itself."""
        return value

    def any(self, flag: bool) -> bool:
        """The flag itself."""
        return flag

    def barrier(self) -> None:
        """Returns at once."""
