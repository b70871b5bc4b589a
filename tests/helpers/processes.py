"""Processes of the command line that begin at once: forked from a server that has imported everything.

Most of what a short command takes is starting Python and importing PyTorch. A forked process is one of its own all the
same: memory, files, locks, signals and its end are as real. What imports do is tested with `python -m convmixer`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    "convmixer.__main__",
    "convmixer.cli.defaults",
    "convmixer.experiments",
    "convmixer.inference",
    "convmixer.report",
    "convmixer.search",
    "convmixer.training",
    "matplotlib.backends.backend_agg",
    "sklearn.datasets",
    "sklearn.metrics",
    "torch._dynamo",
    "torch.utils.tensorboard",
)


class Process:
    """What :class:`subprocess.Popen` offers of a running command, as far as tests ask for it."""

    def __init__(self, pid: int, end: int, outputs: tuple[int, int]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._end, self._texts = end, ("", "")
        self._outputs: tuple[int, ...] = outputs

    def poll(self) -> int | None:
        """The exit status, or minus the signal that ended it; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        """Waits for its end."""
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self.returncode = int(os.read(self._end, 16))
            os.close(self._end)
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What it has written to stdout and stderr, once it has ended; kills one that takes too long."""
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        for fd in self._outputs:
            self._texts = (self._texts[1], os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace"))
            os.close(fd)
        self._outputs = ()
        return self._texts

    def send_signal(self, signum: int) -> None:
        """Sends a signal, if it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None, code: str = "", stdin: str = os.devnull
) -> Process:
    """Starts ``convmixer`` with arguments, or ``python -c CODE`` with them."""
    outputs = _file(), _file()
    read, write = os.pipe()
    order: dict[str, Any] = {
        "arguments": arguments,
        "cwd": str(cwd or Path.cwd()),
        "env": dict(env if env is not None else os.environ),
        "code": code,
    }
    server = _server()
    body = json.dumps(order).encode()
    with (Path(order["cwd"]) / stdin).open("rb") as given:
        fds = [given.fileno(), *outputs, write]
        socket.send_fds(server, [len(body).to_bytes(8, "big")], fds)
        server.sendall(body)
        pid = int.from_bytes(_exactly(server, 8), "big")
    os.close(write)
    return Process(pid, read, outputs)


def run(*arguments: str, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs ``convmixer`` with arguments to its end; see :func:`start`."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(arguments, process.wait(), out, err)


def run_line(line: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a shell's line to its end; one of ``convmixer`` without a shell, but for what it reads from a file."""
    words = shlex.split(line)
    if words[:1] == ["convmixer"] and not set(line) & set("|>$`;&*~"):
        stdin = os.devnull
        if "<" in words:
            place = words.index("<")
            stdin = words[place + 1]
            del words[place : place + 2]
        return run(*words[1:], cwd=cwd, env=env, stdin=stdin)
    return subprocess.run(["bash", "-c", line], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def _file() -> int:
    """A file without a name."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tests.helpers.processes", str(theirs.fileno())]
    with theirs:
        server = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def stop() -> None:
        ours.close()
        server.wait(30)

    atexit.register(stop)
    return ours


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (part := connection.recv(size - len(data))):
            raise ConnectionError("the server of processes has ended")
        data += part
    return data


# The server


def serve(connection: socket.socket) -> None:
    """Forks a process for every order, tells its number, and writes how it ended into the pipe that came along."""
    import importlib

    for name in PRELOADED:
        importlib.import_module(name)
    if threading.active_count() > 1:
        raise RuntimeError("a library has started a thread while it was imported; that is not safe to fork")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for whoever runs the tests
    ends: dict[int, int] = {}
    while True:
        ready = select.select([connection], [], [], 0.005 if ends else None)[0]
        for pid in list(ends):
            done, code = os.waitpid(pid, os.WNOHANG)
            if done:
                _tell(ends.pop(pid), os.waitstatus_to_exitcode(code))
        if ready:
            try:
                head, fds, _, _ = socket.recv_fds(connection, 8, 4)
                if not head:
                    break
                order = json.loads(_exactly(connection, int.from_bytes(head, "big")))
            except ConnectionError:
                break
            pid = os.fork()
            if pid == 0:
                connection.close()
                for end in ends.values():
                    os.close(end)
                _live(order, fds)
            for fd in fds[:3]:
                os.close(fd)
            ends[pid] = fds[3]
            connection.sendall(pid.to_bytes(8, "big"))
    for pid in ends:
        os.kill(pid, signal.SIGKILL)


def _tell(end: int, status: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(end, str(status).encode())
    os.close(end)


def _live(order: dict[str, Any], fds: Sequence[int]) -> None:
    """The life of a process, as ``python -m convmixer`` or ``python -c`` would have it."""
    status = 1
    try:
        for target, fd in enumerate(fds[:3]):
            os.dup2(fd, target)
        for fd in fds:
            os.close(fd)
        for signum in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(signum, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        if "TZ" in os.environ:
            time.tzset()
        sys.path[0] = order["cwd"]
        import convmixer.__main__ as program

        sys.modules["__main__"] = program
        sys.argv = ["-c" if order["code"] else str(program.__file__), *order["arguments"]]
        status = _status(order["code"], program.main)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _status(code: str, main: Any) -> int:
    try:
        if code:
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
            return 0
        result = main()
        return result if isinstance(result, int) else 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
            return 1
        return stop.code or 0
    except KeyboardInterrupt:
        traceback.print_exc()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))


_WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from convmixer.cli import main
main(sys.argv[1:])
"""


def without_torch(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a Python that cannot import PyTorch."""
    command = [sys.executable, "-c", _WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
