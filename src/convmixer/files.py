"""Files that are either whole or not there, whatever interrupts the writer; locks; where caches are."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from convmixer.errors import InputError

if TYPE_CHECKING:
    from io import BufferedReader

    from filelock import FileLock

_LOCK_POLL_SECONDS = 0.01
_LARGEST_FILE = 2**28  # bytes of a record
_IN_USE = ".lock"  # in a temporary folder
_STALE_SECONDS = 60.0  # more than it takes from making such a folder to locking it


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    The content reaches the disk before the name does, so that a crash leaves the old file or the new one.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say where
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes ``content`` to ``path`` as :func:`atomic_path` does; text as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder in ``parent`` for parts of ``name`` that are moved out of it when they are whole.

    It goes with the block, and so do those that killed processes left there for the same ``name``.
    """
    for left in parent.glob(f".{glob.escape(name)}.*.tmp"):
        if left.is_dir() and time.time() - left.stat().st_mtime > _STALE_SECONDS and not is_locked(left / _IN_USE):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", suffix=".tmp", dir=parent) as folder:
        content = Path(folder) / "content"
        content.mkdir()
        with file_lock(Path(folder) / _IN_USE):
            yield content


def read_bytes(path: Path) -> bytes:
    """The content of a regular file of at most 256 MiB: devices and pipes have no end.

    Raises:
        InputError: it is missing, cannot be read or is not such a file.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: is not a regular file.")
        if found.st_size > _LARGEST_FILE:
            raise InputError(f"{path}: has {found.st_size / 2**20:,.0f} MiB, more than a record can have.")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None


class NotRegularError(OSError):
    """A folder, pipe or device is where a file should be."""


def open_regular(path: Path) -> BufferedReader:
    """A regular file of any size, open for reading.

    Raises:
        OSError: it is missing, cannot be opened or is something else; a pipe is not waited for.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegularError(errno.EINVAL, "is not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def sync(path: Path) -> None:
    """Forces a file's content, or a folder's names, to the disk."""
    if path.is_dir() and os.name != "posix":
        return  # only POSIX systems open folders
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_lock(path: Path) -> FileLock:
    """A lock that one process holds at a time, entered with ``with``; it ends with that process, even a killed one.

    Acquiring it raises OSError where ``path`` cannot be written, or on a file system without locks.
    """
    from filelock import FileLock

    return FileLock(path, poll_interval=_LOCK_POLL_SECONDS, fallback_to_soft=False)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at ``path``. No file is created or changed; reading permission is enough.

    The question itself takes the lock for an instant: whoever acquires it should try for longer than that.
    """
    from filelock import lock_descriptor

    try:
        # Network file systems lock only what may be written.
        access = os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY
        descriptor = os.open(path, access | getattr(os, "O_NONBLOCK", 0))  # a pipe would be waited for
    except OSError:
        return False
    try:
        for _ in range(3):  # another one may be asking at this instant
            if lock_descriptor(descriptor, blocking=False):
                return False
            time.sleep(_LOCK_POLL_SECONDS)
        return True
    except OSError:
        return False  # no locks here
    finally:
        os.close(descriptor)


def cache_dir() -> Path:
    """Where what can be made again is kept, for this user: ``CONVMIXER_CACHE``, else the platform's cache folder."""
    if chosen := os.environ.get("CONVMIXER_CACHE"):
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("convmixer-lab", appauthor=False)


def make_cache_dir() -> Path:
    """:func:`cache_dir`, made if it is not there, for its owner alone. Raises OSError if it cannot be made."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def others_can_change(folder: Path) -> bool:
    """Whether a folder belongs to another user than this one and root, or may be written by everybody."""
    if os.name != "posix":
        return False
    found = folder.stat()
    return found.st_uid not in (0, os.getuid()) or bool(found.st_mode & stat.S_IWOTH)
