"""How much memory is free; running out of it, told apart from other errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from convmixer.errors import InputError

if TYPE_CHECKING:
    import torch

_WORDS = re.compile(
    r"can't allocate memory|out of memory|not enough memory|can't start new thread|storage size calculation overflowed",
    re.IGNORECASE,
)


@contextmanager
def enough_memory(what: str, advice: str | Callable[[], str]) -> Iterator[None]:
    """Within the block, running out of memory is an InputError: ``what`` needs more than there is; ``advice``.

    An ``advice`` that is called and has nothing to say leaves the error to another block around this one.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or _WORDS.search(str(error))):  # PyTorch's are RuntimeErrors
            raise
        if not (told := advice if isinstance(advice, str) else advice()):
            raise
        raise InputError(f"{what} needs more memory than there is; {told}.") from error


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take on a device: of the machine, a container and ``ulimit -v`` the least.

    None where the system does not say.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    limits = []
    with suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        limits.append(1024 * int(lines["MemAvailable"].split()[0]))
        group = Path("/sys/fs/cgroup")
        if (group / "memory.current").is_file() and (limit := (group / "memory.max").read_text().strip()) != "max":
            limits.append(int(limit) - int((group / "memory.current").read_text()))
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limits
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize())
    return max(0, min(limits)) if limits and device.type == "cpu" else None


def bytes_of_process(field: str) -> int:
    """A line of Linux's account of this process, such as VmRSS or VmHWM; 0 where the system does not say.

    Unlike with ``getrusage``, no part of what its parent took is in it.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
