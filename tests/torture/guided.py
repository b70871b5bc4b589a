"""Inputs that a coverage-guided fuzzer chooses, where atheris is installed: it keeps those that reach new code.

An input of :mod:`tests.torture.hostile` is made from random numbers. Here the fuzzer's bytes are these numbers, so that
every kind of input is its to shape.
"""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import random
import struct
import sys
import types
import zlib
from functools import partial
from pathlib import Path
from typing import Any

from tests.torture.areas import Result
from tests.torture.hostile import KINDS, Kind
from tests.torture.inputs import Inputs, recorder, taken, watched
from tests.torture.judge import Judgement, last_lines
from tests.torture.sandbox import Child

_BATCH = 2000
_LONGEST = 512  # bytes that shape an input
_MOST_FAILURES = 20  # of a batch
_CHOSEN = ("configurations", "search spaces", "records, listed", "records, reported", "weights", "images")
_FOLLOWED = ("config", "records", "manifest", "runs", "report", "search", "data", "models.weights", "cli.defaults")
"""Modules of the program whose branches the fuzzer sees."""


class Bytes(random.Random):
    """Random numbers that are a fuzzer's bytes; after the last of them, such as follow from all of them."""

    def __new__(cls, content: bytes) -> Bytes:
        return super().__new__(cls, 0)  # type: ignore[call-arg]

    def __init__(self, content: bytes) -> None:
        super().__init__(zlib.crc32(content))
        self._content, self._place = content, 0

    def getrandbits(self, k: int, /) -> int:
        """``k`` bits; of one byte where these suffice."""
        count = (k + 7) // 8
        if self._place + count > len(self._content):
            return super().getrandbits(k)
        taken = self._content[self._place : self._place + count]
        self._place += count
        return int.from_bytes(taken, "little") & ((1 << k) - 1)

    def random(self) -> float:
        """A number in [0, 1), of two bytes."""
        return self.getrandbits(16) / 65536 if self._place + 2 <= len(self._content) else super().random()


class Guided(Inputs):
    """See the module."""

    name, goal, share = "guided", 10_000, 0.02

    @property
    def missing(self) -> str:
        """Why no trial can be made; empty if nothing is missing."""
        return "" if importlib.util.find_spec("atheris") else "atheris is not installed"

    def prepare(self, folder: Path) -> None:
        """Also makes the program's branches visible, in this process: no other area may come after this one."""
        import atheris

        super().prepare(folder)
        for function in _functions():
            atheris.instrument_func(function)

    def trial(self, index: int, random_: random.Random, folder: Path) -> Result | None:
        """A batch of one kind, in one child."""
        kinds = [kind for kind in KINDS if kind.name in _CHOSEN]
        kind = kinds[index % len(kinds)]
        place = self.furnish(folder)
        position = mmap.mmap(-1, 8)
        child = Child(partial(_fuzzed, kind, index, position), place, memory=3 << 30)
        hung, last = watched(child, position)
        ended = child.wait(0)
        what, judgements = f"{kind.name}, guided", []
        lines = folder / "place" / "failures.jsonl"
        for line in lines.read_text().splitlines() if lines.exists() else ():
            judgements.append((what, Judgement(*json.loads(line))))
        if hung or ended.signum is not None or ended.status != 0:
            detail = f"input {last}, signal {ended.signum}, status {ended.status}: {last_lines(ended.err)}"
            judgements.append((what, Judgement("hang" if hung else "signal", detail)))
        return Result(what, last, (*judgements, *self.outside(folder, kind)))


def _fuzzed(kind: Kind, index: int, position: mmap.mmap) -> None:
    """Lets the fuzzer run; failures are written as they occur, as it ends the process itself."""
    import atheris

    events: list[tuple[str, str]] = []
    prepared, count, found = kind.prepare(), 0, 0
    sys.addaudithook(recorder(str(Path.cwd()), events))
    failures = os.open("failures.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def attempt(content: bytes) -> None:
        nonlocal count, found
        count += 1
        position[:8] = struct.pack("q", count)
        events.clear()
        verdict = taken(lambda: kind.attempt(Bytes(content), prepared))
        verdict = events[0] if events else verdict
        if verdict is not None and found < _MOST_FAILURES:
            found += 1
            name, detail = verdict
            os.write(failures, json.dumps([name, f"{detail} (bytes {content[:60].hex()})"]).encode() + b"\n")

    limits = [f"-runs={_BATCH}", f"-seed={index + 1}", f"-max_len={_LONGEST}", "-len_control=0", "-rss_limit_mb=0"]
    atheris.Setup(["guided", *limits, "-timeout=60", "-verbosity=0"], attempt)
    atheris.Fuzz()


def _functions() -> list[Any]:
    """The functions and methods of the modules that are followed."""
    found: list[Any] = []
    for name, module in sorted(sys.modules.items()):
        if not name.startswith(tuple(f"convmixer.{part}" for part in _FOLLOWED)):
            continue
        for owner in (module, *(value for value in vars(module).values() if isinstance(value, type))):
            own = [value for value in vars(owner).values() if isinstance(value, types.FunctionType)]
            found += [value for value in own if value.__module__ == name]
    return list(dict.fromkeys(found))
