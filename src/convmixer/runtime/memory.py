"""Running out of memory, told apart from other errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from convmixer.errors import InputError

_WORDS = re.compile(
    r"can't allocate memory|out of memory|not enough memory|can't start new thread|storage size calculation overflowed",
    re.IGNORECASE,
)


@contextmanager
def enough_memory(what: str, advice: str) -> Iterator[None]:
    """Within the block, running out of memory is an InputError: ``what`` needs more than there is; ``advice``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or _WORDS.search(str(error))):  # PyTorch's are RuntimeErrors
            raise
        raise InputError(f"{what} needs more memory than there is; {advice}.") from error
