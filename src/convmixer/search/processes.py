"""The processes of a search: which are active in its directory, and worker processes that share the work."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from convmixer.errors import InputError, Interrupted, refusal
from convmixer.files import file_lock, is_locked
from convmixer.runtime.signals import Interruption

_CHECK_SECONDS = 0.2
_BAD_INPUT = 2  # exit status of a worker whose message is in the queue
_GPUS = "CUDA_VISIBLE_DEVICES"


class ActiveProcesses:
    """The processes that search in one directory: each holds a lock for as long as it lives.

    To be used under a lock that all of them share.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = secrets.token_hex(8)
        self._own = file_lock(folder / self.name)

    def join(self) -> bool:
        """Adds this process; returns whether it is alone."""
        others = [path for path in self.folder.iterdir() if is_locked(path)]
        for path in self.folder.iterdir():
            if path not in others:
                path.unlink()
        self._own.acquire()
        return not others

    def is_alive(self, name: str) -> bool:
        """Whether the process that joined as ``name`` still is."""
        return bool(name) and is_locked(self.folder / name)

    def leave(self) -> None:
        """Removes this process."""
        self._own.release()


def run_workers(count: int, work: Callable[..., None], arguments: Sequence[Any]) -> list[int]:
    """Has ``count`` processes call ``work``, each on a GPU of its own if there are several; returns bad exit statuses.

    They are spawned, not forked: a process that has used a GPU cannot be forked. They end with this process.

    Raises:
        InputError: that of a worker.
        Interrupted: SIGINT or SIGTERM arrived; the workers were asked to stop, and have.
    """
    context = multiprocessing.get_context("spawn")
    complaints: SimpleQueue[str] = context.SimpleQueue()
    gpus = assigned_gpus(count, os.environ)
    processes = [context.Process(target=_worker, args=(gpu, complaints, work, arguments)) for gpu in gpus]
    with Interruption.watched() as interruption:
        try:
            for process in processes:
                process.start()
            while running := [process for process in processes if process.is_alive()]:
                multiprocessing.connection.wait([process.sentinel for process in running], timeout=_CHECK_SECONDS)
                interruption.check()
                if any(process.exitcode == _BAD_INPUT for process in processes):
                    raise InputError(complaints.get())
        finally:
            _stop(processes)
    return [process.exitcode for process in processes if process.exitcode]


def assigned_gpus(count: int, environment: Mapping[str, str]) -> list[str | None]:
    """The GPU of each of ``count`` workers, in turns, as CUDA_VISIBLE_DEVICES names it; None leaves all visible."""
    import torch

    visible = environment.get(_GPUS)
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return [names[i % len(names)] if len(names) > 1 else None for i in range(count)]


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Has the processes write their checkpoints, and waits for that."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        if process.pid is not None:
            process.join()


def _worker(gpu: str | None, complaints: SimpleQueue[str], work: Callable[..., None], arguments: Sequence[Any]) -> None:
    """The main function of a worker process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if gpu is not None:
        os.environ[_GPUS] = gpu  # CUDA reads it when it is first used
    try:
        work(*arguments)
    except (InputError, OSError) as error:
        sentence = refusal(error) if isinstance(error, OSError) else str(error)
        if not sentence:
            raise
        complaints.put(sentence)
        sys.exit(_BAD_INPUT)
    except Interrupted as stop:
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _end_with_parent() -> None:
    """Sends this process a SIGTERM when its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
