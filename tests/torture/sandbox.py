"""Trials in child processes: forked from a parent that has imported everything and computes nothing."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import io
import os
import pickle
import pkgutil
import resource
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_MEMORY = 6 << 30
"""Address space of a trial beyond its parent's, in bytes: a bomb ends the trial and not the machine."""
_PR_SET_PDEATHSIG = 1
_QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "agg"}


def prepare_process() -> None:
    """Imports all that a trial could want; to be called once, before the first fork.

    Raises:
        RuntimeError: a library has started threads, with which forking is not safe.
    """
    os.environ.update(_QUIET)
    import convmixer

    skipped = ("__main__", "triton", "mlflow", "wandb")
    for module in pkgutil.walk_packages(convmixer.__path__, "convmixer."):
        if not any(part in module.name for part in skipped):
            importlib.import_module(module.name)
    names = (
        "seaborn",
        "sklearn.datasets",
        "sklearn.metrics",
        "torch.utils.flop_counter",
        "typeguard",
        "optuna",
        "scipy.stats",
        "yaml",
        "tensorboard.compat.proto.event_pb2",
    )
    for name in (
        *names,
        "torch._dynamo",
        "torch.utils.tensorboard",
        "PIL.ImageFont",
        "tyro",
        "matplotlib.backends.backend_agg",
    ):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    if threading.active_count() > 1:
        raise RuntimeError("a library has started a thread while it was imported; the trials cannot be forked")
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    status: int | None
    """Exit status; None if a signal ended it."""
    signum: int | None
    hung: bool
    """Whether it was still running at its time limit, and was killed for it."""
    out: str
    err: str
    seconds: float
    value: Any = None
    """What the function returned, if it did."""


class Child:
    """A function in a forked process, with its output in memory; killed when this process dies.

    Args:
        function: what to run. SystemExit becomes the exit status, any other exception a traceback and status 1.
        folder: working directory; also HOME and the place of temporary files.
        stdin: what it reads there.
        environment: variables to set.
        memory: bytes of address space beyond the parent's.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        folder: Path,
        *,
        stdin: bytes = b"",
        environment: dict[str, str] | None = None,
        memory: int = MOST_MEMORY,
    ) -> None:
        self._files = [os.memfd_create(name, 0) for name in ("in", "out", "err", "value")]
        os.write(self._files[0], stdin)
        os.lseek(self._files[0], 0, os.SEEK_SET)
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(function, folder, environment or {}, memory)
        self._ended = os.pidfd_open(self.pid)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Sends a signal, if it is still running."""
        if self.is_running():
            os.kill(self.pid, signum)

    def is_running(self, seconds: float = 0) -> bool:
        """Whether it is still running after so many seconds."""
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        return not poll.poll(seconds * 1000)

    def wait(self, timeout: float) -> Ended:
        """Waits for its end; kills it, and all that it started, after ``timeout`` seconds."""
        hung = self.is_running(max(0.0, timeout))
        with contextlib.suppress(ProcessLookupError):  # what it started may outlive it
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            if hung:
                os.kill(self.pid, signal.SIGKILL)
        _, code = os.waitpid(self.pid, 0)
        seconds = time.monotonic() - self.started
        _, out, err, value = (_content(file) for file in self._files)
        for file in (*self._files, self._ended):
            os.close(file)
        return Ended(
            status=os.waitstatus_to_exitcode(code) if os.WIFEXITED(code) else None,
            signum=os.WTERMSIG(code) if os.WIFSIGNALED(code) else None,
            hung=hung,
            out=out.decode(errors="replace"),
            err=err.decode(errors="replace"),
            seconds=seconds,
            value=pickle.loads(value) if value else None,
        )

    def _run(self, function: Callable[[], Any], folder: Path, environment: dict[str, str], memory: int) -> None:
        """The child's whole life."""
        status = 1
        try:
            os.setpgid(0, 0)
            faulthandler.disable()
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            for target, file in enumerate(self._files[:3]):
                os.dup2(file, target)
            sys.stdin = io.TextIOWrapper(os.fdopen(0, "rb", closefd=False), encoding="utf-8")
            sys.stdout, sys.stderr = (open(fd, "w", encoding="utf-8", closefd=False, buffering=1) for fd in (1, 2))
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
            os.chdir(folder)
            place = {name: str(folder) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
            os.environ.update({**place, "COLUMNS": "200", "CONVMIXER_CACHE": str(folder / "cache"), **environment})
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            limit = _address_space() + memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            status = self._outcome(function)
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _outcome(self, function: Callable[[], Any]) -> int:
        try:
            value = function()
            if value is not None:
                os.write(self._files[3], pickle.dumps(value))
            return 0
        except SystemExit as stop:
            if isinstance(stop.code, str):
                sys.stderr.write(stop.code)
                return 1
            return stop.code or 0
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except BaseException:
            traceback.print_exc()
            return 1


def run(function: Callable[[], Any], folder: Path, timeout: float = 60, **options: Any) -> Ended:
    """Runs a function in a child to its end; see :class:`Child`."""
    return Child(function, folder, **options).wait(timeout)


def command(*arguments: str) -> Callable[[], None]:
    """The command line of the program, as a function for a child."""

    def execute() -> None:
        from convmixer.__main__ import main

        sys.argv = ["convmixer", *arguments]
        main(arguments)

    return execute


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """An empty folder in memory, where there is such a file system; removed afterwards."""
    root = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path("/tmp")
    folder = root / f"convmixer-torture-{os.getpid()}-{name}"
    folder.mkdir()
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Removes a folder with whatever a trial has made of it."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _content(file: int) -> bytes:
    size = os.fstat(file).st_size
    return os.pread(file, min(size, 4 << 20), 0)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
