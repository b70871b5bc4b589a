"""Keeping freed memory for the next tensor, instead of giving it back to the operating system each time.

glibc maps every large block afresh and returns it when it is freed. A training step allocates the same hundreds of
megabytes again and again, and the kernel clears them page by page each time: element-wise operations take several times
as long. With the settings here large blocks come from the heap, which is not trimmed. The process then keeps its peak
memory until it ends.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

logger = logging.getLogger("convmixer.models")

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 64 << 20  # the heap grows in steps of this many bytes


@functools.cache
def tune_allocator() -> bool:
    """Makes this process keep its memory; only the first call has an effect.

    Returns:
        Whether it is in effect: on Linux with glibc. Elsewhere nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - musl has no such function, nor these settings
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    never = ctypes.c_int(-1)  # as an unsigned threshold: larger than any heap
    return all((mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, never), mallopt(_M_TOP_PAD, _TOP_PAD)))


@functools.cache
def tune_for_training() -> None:
    """:func:`tune_allocator` for who does not know of it: the fast engine calls this before it trains on a CPU.

    ``CONVMIXER_ALLOCATOR=system`` in the environment turns it off.
    """
    if os.environ.get("CONVMIXER_ALLOCATOR") != "system" and tune_allocator():
        logger.info(
            "the fast engine makes this process keep freed memory, or a large part of a training step would go into "
            "getting it back; CONVMIXER_ALLOCATOR=system turns it off"
        )


@contextmanager
def prepared_cpu() -> Iterator[None]:
    """Has denormal numbers treated as zero in the block, and freed memory kept for reuse, in the block and after it.

    As weights and moments shrink during training they become denormal, and processors take many times longer for those.
    To be entered before the first parallel operation: threads take the setting over when they are started, and keep it.
    """
    tune_allocator()
    smallest = torch.tensor(torch.finfo(torch.float32).smallest_normal)
    before = bool((smallest / 2 == 0).item())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
