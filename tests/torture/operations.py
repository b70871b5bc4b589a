"""Every file operation of a process as a point at which something can go wrong."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

React = Callable[[int, str, str], None]
"""Is told an operation's number from 1, its kind (open, write, fsync, replace, unlink, mkdir, rmdir) and its path."""


def watch(folder: Path, react: React) -> None:
    """From now on, ``react`` is called before each operation of this process that changes what lies below ``folder``.

    In the middle of a write it is called after half of the content. For child processes: nothing is put back.
    """
    place, count = str(folder.resolve()), 0

    def reached(kind: str, path: object) -> None:
        nonlocal count
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        name = os.path.abspath(os.fsdecode(path))
        if name.startswith(place):
            count += 1
            react(count, kind, name)

    def patch(owner: Any, name: str, kind: str, matters: Callable[..., bool] = lambda *_, **__: True) -> None:
        original = getattr(owner, name)

        def patched(path: Any, *arguments: Any, **options: Any) -> Any:
            if matters(path, *arguments, **options):
                reached(kind, path)
            return original(path, *arguments, **options)

        setattr(owner, name, patched)

    for name in ("fsync", "unlink", "remove", "mkdir", "rmdir"):
        patch(os, name, name)
    for name in ("replace", "rename"):
        patch(os, name, "replace")
    patch(
        io,
        "open",
        "open",
        lambda path, mode="r", *_, **__: not isinstance(path, int) and set(mode) & set("wax+") != set(),
    )
    patch(os, "open", "open", lambda path, flags=0, *_, **__: bool(flags & (os.O_CREAT | os.O_TRUNC)))
    whole = Path.write_bytes

    def write_bytes(self: Path, data: bytes) -> int:
        content = memoryview(data)
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            reached("write", self)
            return file.write(content[len(content) // 2 :]) + len(content) // 2

    assert whole is not write_bytes
    Path.write_bytes = write_bytes  # type: ignore[method-assign, assignment]


def killing_at(number: int) -> React:
    """Kills the process before its operation of that number."""

    def react(count: int, kind: str, path: str) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return react


def refusing(errno_: int, kinds: tuple[str, ...], number: int, *, for_good: bool) -> React:
    """Lets operations of some kinds fail, from the one of that number on: as a full disk does, or once."""
    seen = 0

    def react(count: int, kind: str, path: str) -> None:
        nonlocal seen
        if kind in kinds and not path.endswith((".lock",)):
            seen += 1
            if seen == number or (for_good and seen > number):
                raise OSError(errno_, os.strerror(errno_), path)

    return react
