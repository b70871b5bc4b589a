"""The machine that a run happens on: device, number format, signals, and a record of all that."""

from __future__ import annotations

import functools
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import convmixer
from convmixer.config import Device, Precision
from convmixer.errors import InputError, Interrupted
from convmixer.kernels.allocator import tune_allocator


class Interruption:
    """Whether SIGINT or SIGTERM has arrived. A second SIGINT stops at once, as if nothing watched for it."""

    signum: int | None = None

    def check(self) -> None:
        """Raises Interrupted if a signal has arrived."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _arrived(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            signal.default_int_handler(signum, frame)
        self.signum = signum

    @classmethod
    @contextmanager
    def watched(cls) -> Iterator[Interruption]:
        """Watches for both signals in the block; only a program's main thread can, elsewhere nothing is changed."""
        watch = cls()
        previous = {}
        try:
            for signum in (signal.SIGINT, signal.SIGTERM):
                previous[signum] = signal.signal(signum, watch._arrived)
        except ValueError:
            pass  # not the main thread
        try:
            yield watch
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)


def choose_device(name: Device) -> torch.device:
    """The device called ``name``; auto takes the first of cuda, mps and cpu. Raises InputError if it is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available[name]:
        found = ", ".join(kind for kind, there in available.items() if there)
        raise InputError(f"--device: no {name} device is available here; choose from auto, {found}.")
    return torch.device(name)


def choose_precision(name: Precision, device: torch.device) -> torch.dtype:
    """Number format of convolutions and matrix products; float32 where the device is not faster with fewer bits."""
    if name == "auto" and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name == "auto" or (name == "float16" and device.type == "cpu"):
        return torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def has_bfloat16(device: torch.device) -> bool:
    """Whether this is a CPU with instructions for bfloat16; without them it is slower than float32."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch has no such function
    return device.type == "cpu" and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """A context in which convolutions and matrix products are computed in ``precision``."""
    return torch.autocast(device.type, precision, enabled=precision is not torch.float32)


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` rather than ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


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


def describe_environment(device: torch.device) -> dict[str, Any]:
    """What ``environment.json`` holds."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": without_passwords(sys.argv),
        "process": os.getpid(),
        "convmixer": convmixer.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
    }


def without_passwords(arguments: Sequence[str]) -> list[str]:
    """A command line without the passwords of the URLs in it."""
    return [re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", argument) for argument in arguments]


def device_name(device: torch.device) -> str:
    """The name that the device's maker gave it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def _commit() -> str | None:
    """The git commit of the checkout that this code lies in, with ``-dirty`` if files were changed; None elsewhere."""
    root = Path(__file__).parents[3]
    if not ((root / ".git").exists() and (root / "src" / "convmixer").exists()):
        return None  # installed: a repository around it would be somebody else's
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
