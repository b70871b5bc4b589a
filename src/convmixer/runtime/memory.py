"""Running out of memory, told apart from other errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from convmixer.errors import InputError

_WORDS = re.compile(r"can't allocate memory|out of memory|not enough memory|storage size calculation overflowed", re.I)


@contextmanager
def enough_memory(what: str, advice: str) -> Iterator[None]:
    """Within the block, running out of memory is an InputError: ``what`` needs more than there is; ``advice``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not (known or _WORDS.search(str(error))):
            raise
        raise InputError(f"{what} needs more memory than there is; {advice}.") from error
