"""What a run directory records of the machine and the code."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from convmixer.runtime.device import device_name
from convmixer.version import __version__


def describe_environment(device: torch.device) -> dict[str, Any]:
    """What ``environment.json`` holds."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": without_passwords(sys.argv),
        "process": os.getpid(),
        "convmixer": __version__,
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
