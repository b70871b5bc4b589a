"""SIGINT and SIGTERM as a flag that a loop looks at where it can stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from convmixer.errors import Interrupted

T = TypeVar("T")


def command(work: Callable[[], T]) -> T:
    """Runs what a signal may interrupt with an exception; see :func:`interrupt_commands_only`."""
    return work()


def interrupt_commands_only() -> None:
    """For programs: within :func:`command`, SIGINT raises KeyboardInterrupt and SIGTERM SystemExit, with status 143.

    At any other moment they end the process at once, with status 130 or 143. Then there is nothing to tidy up: modules
    are being imported, also within a command, whose libraries answer exceptions in their midst with errors of all
    kinds; or the interpreter is shutting down, or calls a finalizer, and would print a traceback.
    """
    with contextlib.suppress(ValueError):  # not the main thread
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, _interrupt)
        report, sys.unraisablehook = sys.unraisablehook, lambda raised: _ignored(raised, report)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    in_command = False
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os._exit(128 + signum)
        in_command |= frame.f_code is command.__code__
        frame = frame.f_back
    if not in_command:
        os._exit(128 + signum)
    raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)


def _ignored(raised: sys.UnraisableHookArgs, report: Callable[[sys.UnraisableHookArgs], object]) -> None:
    """Ends the process with an interruption that came in a finalizer, where Python ignores exceptions."""
    if raised.exc_type is KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)
    if isinstance(raised.exc_value, SystemExit):
        os._exit(128 + signal.SIGTERM)
    report(raised)


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
