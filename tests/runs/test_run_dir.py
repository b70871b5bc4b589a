"""Who may write into a run directory, and what a reader sees of that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from convmixer.errors import InputError
from convmixer.files import file_lock, is_locked
from convmixer.runs import RunBusyError, RunDir
from tests.helpers.runs import tiny_config

HOLD = """
import pathlib, sys, time
from convmixer.files import file_lock
with file_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of the run directory ``tmp_path``."""
    (tmp_path / "config.json").write_text("{}")
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_kept_out_until_it_ends(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    run = RunDir(tmp_path)
    assert run.status() == "running"
    with pytest.raises(RunBusyError, match="another process is training into it"), run.locked():
        pass
    assert run.status() == "running"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert run.status() == "interrupted"
    with run.locked():
        assert is_locked(tmp_path / ".lock")
    assert not is_locked(tmp_path / ".lock")


def test_asking_needs_no_right_to_write(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def read_only(path: Path, flags: int, *arguments: int) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *arguments)

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert is_locked(tmp_path / ".lock")
    holder.kill()
    holder.wait()
    assert not is_locked(tmp_path / ".lock")


def test_asking_creates_nothing(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / ".lock")
    assert RunDir(tmp_path).status() == "new"
    assert not list(tmp_path.iterdir())


def test_many_who_ask_do_not_see_each_other(tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock"):
        pass
    ask = f"""
import pathlib
from convmixer.files import is_locked
print(any(is_locked(pathlib.Path({str(tmp_path / "lock")!r})) for _ in range(2000)))
"""
    asking = [subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in asking] == ["False\n", "False\n"]


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock._unix

    def no_locks(descriptor: int) -> bool:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(filelock._unix, "lock_fd_nonblocking", no_locks)
    refusal = pytest.raises(InputError, match=r"locked \(Function not implemented\); choose another --out")
    with refusal, RunDir(tmp_path / "run").locked():
        pass


def test_a_refused_run_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), RunDir(tmp_path / "run").locked():
        raise ValueError("refused")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_json("config.json", tiny_config().to_dict())
    (tmp_path / ".metrics.jsonl.0123abcd.tmp").write_text("half a li")
    with run.locked():
        assert {path.name for path in tmp_path.iterdir()} == {
            ".lock",
            ".manifest.lock",
            "config.json",
            "manifest.json",
        }
