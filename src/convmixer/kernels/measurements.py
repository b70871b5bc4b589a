"""Timings that are worth keeping: measured once on a machine, read from disk afterwards."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from convmixer.files import cache_dir, make_cache_dir, read_bytes, write_atomic
from convmixer.kernels.build import SOURCES, instruction_set

logger = logging.getLogger("convmixer.kernels")

Timings = dict[str, float]


@functools.cache
def machine() -> str:
    """What timings depend on besides the work itself: CPU, instruction set and versions, but not the thread count."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith(("model name", "flags"))]
        cpu = " ".join(sorted(set(lines)))
    digest = hashlib.sha256(f"{cpu} {instruction_set()} {torch.__version__} {os.cpu_count()}".encode())
    for source in sorted((*SOURCES.iterdir(), *Path(__file__).parent.glob("*.py"))):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:20]


def recall(key: str) -> Timings | None:
    """The timings kept under ``key``, None if there are none."""
    return _read().get(key)


def keep(key: str, timings: Timings) -> None:
    """Keeps timings for later processes. A cache that cannot be written is no error: they are measured again."""
    path = _path()
    try:
        make_cache_dir()
        known = {**_read(), key: timings}
        write_atomic(path, json.dumps({"timings": known, "sha256": _digest(known)}, indent=1))
    except OSError as error:
        logger.debug("timings cannot be kept in %s: %s", path, error)


def interleaved(candidates: dict[str, Callable[[], object]], rounds: int, seconds: float) -> Timings:
    """Best time in seconds of every candidate, measured in turns: a busy machine is busy for all of them.

    Args:
        candidates: what to run, by name. Each is run once before the first measurement.
        rounds: measurements of each, at most.
        seconds: no further round begins after this time. Two are always made: in the first, memory may still be
            fetched from the system.
    """
    for run in candidates.values():
        run()
    end = time.perf_counter() + seconds
    best = dict.fromkeys(candidates, float("inf"))
    for done in range(rounds):
        if done > 1 and time.perf_counter() > end:
            break
        for name, run in candidates.items():
            begin = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def _path() -> Path:
    return cache_dir() / f"timings-{machine()}.json"


def _read() -> dict[str, Timings]:
    """All timings on disk; none if the file is not as :func:`keep` left it, so that they are measured again."""
    try:
        content = json.loads(read_bytes(_path()))
        timings: dict[str, Timings] = content["timings"]
        return timings if content["sha256"] == _digest(timings) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _digest(timings: dict[str, Timings]) -> str:
    return hashlib.sha256(json.dumps(timings, sort_keys=True).encode()).hexdigest()
