"""SIGINT and SIGTERM as a flag that a loop looks at where it can stop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from convmixer.errors import Interrupted


def leave_imports_at_once() -> None:
    """Makes SIGINT end the process at once, with status 130, while a module is being imported.

    Libraries answer a KeyboardInterrupt in the middle of their import with errors of all kinds, and there is nothing to
    tidy up yet. At any other moment SIGINT raises KeyboardInterrupt, as it always does.
    """
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os._exit(128 + signum)
        frame = frame.f_back
    raise KeyboardInterrupt


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
