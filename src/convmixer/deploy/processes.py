"""The processes that runs and model files are measured in, seen from the one that asks them."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from convmixer.deploy.worker import Opened
from convmixer.errors import InputError

_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from convmixer.deploy.worker import main; main()"
"""Nothing of the program that asks is in such a process, so that it imports no more than its runtime needs."""


class Worker:
    """The process of one run or model file; see :mod:`convmixer.deploy.worker`."""

    def __init__(self, name: str) -> None:
        self.name = name
        command = [sys.executable, "-c", _CODE, json.dumps(sys.path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def open(self, threads: int) -> Opened:
        """Loads the model. Raises InputError if it cannot be."""
        opened: Opened = self.ask("open", self.name, threads)
        return opened

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of :class:`convmixer.deploy.worker.Subject` returns there.

        Raises:
            InputError: it did, there, or the system ended the process.
            RuntimeError: anything else went wrong there.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            pickle.dump((method, arguments), self.process.stdin)
            self.process.stdin.flush()
            kind, value = pickle.load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            status = self.process.wait()
            if status == -signal.SIGKILL:
                raise InputError(
                    f"{self.name}: the system ended the process that measured it, as it does where memory is short; "
                    "close other programs, or give fewer files at once."
                ) from None
            raise RuntimeError(f"{self.name}: the process that measured it ended with status {status}.") from None
        if kind == "refused":
            raise InputError(value)
        if kind == "failed":
            raise RuntimeError(f"{self.name}: {value}")
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):  # it has ended
                pipe.close()
        self.process.wait()
