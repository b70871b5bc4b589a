"""Downloads that go on where they broke off, end up verified or not at all, and give up quickly without a network."""

from __future__ import annotations

import http.client
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from convmixer.data.datasets import progress
from convmixer.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

_TIMEOUT = 10.0  # seconds without a sign of life
_PAUSE = 0.5  # seconds before the second attempt, doubled for each further one
_FRUITLESS = 3  # attempts in a row that bring nothing new before a source is given up
_MOST_ATTEMPTS = 100
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP statuses that may be gone at the next attempt


@dataclass(frozen=True)
class Remote:
    """A file to be had at ``url``: the name it gets here, and the MD5 of its content."""

    url: str
    file: str
    md5: str


class Unavailable(Exception):  # noqa: N818 - a state of the world
    """Why nothing could be downloaded: one clause for each source."""


class _Failed(Exception):  # noqa: N818
    def __init__(self, reason: str, offline: bool = False) -> None:
        super().__init__(reason)
        self.offline = offline


def fetch(remotes: Sequence[Remote], folder: Path, console: Console | None) -> Path:
    """Downloads the first of ``remotes`` that can be had into ``folder``, verified; returns where it is.

    An interrupted download leaves ``<file>.part``, from which the next one goes on. Of several processes at once, one
    downloads and the others wait for it.

    Raises:
        Unavailable: none can be had.
        InputError: ``folder`` cannot be written.
    """
    reasons = []
    with _errors_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f".{remotes[0].file}.lock", console):
            for remote in remotes:
                if (there := folder / remote.file).is_file():  # another process has brought it in the meantime
                    return there
            for remote in remotes:
                try:
                    return _retrieve(remote, folder, console)
                except _Failed as failure:
                    reasons.append(f"{urlsplit(remote.url).hostname or remote.url}: {failure}")
                    if failure.offline:
                        break
    raise Unavailable("; ".join(dict.fromkeys(reasons)))


def reachable(url: str) -> bool:
    """Whether the host of ``url`` has an address here, or is left to a proxy: False where there is no network."""
    if urllib.request.getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(urlsplit(url).hostname, None))
    except socket.gaierror:
        return False


@contextmanager
def _alone(path: Path, console: Console | None) -> Iterator[None]:
    """Waits until no other process holds the lock, which ends with its process."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if console is not None:
            console.print("Waiting for another process that downloads the same.", highlight=False)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turns errors of the file system into input errors (those of the network never get here)."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"--data-dir: {error.filename or path} cannot be written ({error.strerror or error}); "
            "make room or choose another folder."
        ) from None


def _retrieve(remote: Remote, folder: Path, console: Console | None) -> Path:
    """Downloads one file, checks its MD5 and puts it in its place."""
    import pooch

    part = folder / f"{remote.file}.part"
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # progress is shown, or not, by us
    try:
        while True:
            continues = part.exists()
            try:
                with progress(console, f"downloading {remote.file}", None, in_bytes=True) as advance:

                    def download(url: str, output: str, _: object) -> None:
                        _download(url, part, advance)
                        part.replace(output)

                    found = pooch.retrieve(remote.url, f"md5:{remote.md5}", remote.file, folder, downloader=download)
                return Path(found)
            except InputError:
                raise
            except ValueError:  # the MD5 differs; perhaps just because of what was there before
                if not continues:
                    raise _Failed("it gave a file with another checksum") from None
    finally:
        logger.setLevel(level)


def _download(url: str, part: Path, advance: Callable[[int, int | None], None]) -> None:
    """Completes ``part``, in several attempts if need be; raises _Failed."""
    fruitless = 0
    for _ in range(_MOST_ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            return _read_rest(url, part, before, advance)
        except HTTPError as error:
            error.close()
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == 416 and before:  # there is nothing behind what we have
                if error.headers.get("Content-Range") == f"bytes */{before}":
                    return None
                part.unlink()
            elif error.code not in _PASSING:
                raise _Failed(reason) from None
        except URLError as error:  # not even a connection: trying again would only take time
            cause = error.reason
            offline = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
            raise _Failed(str(getattr(cause, "strerror", None) or cause), offline) from None
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        after = part.stat().st_size if part.exists() else 0
        fruitless = 0 if after > before else fruitless + 1
        if fruitless == _FRUITLESS:
            break
        time.sleep(_PAUSE * 2**fruitless)
    raise _Failed(reason)


def _read_rest(url: str, part: Path, have: int, advance: Callable[[int, int | None], None]) -> None:
    """Appends to ``part`` what is missing, or writes it anew where the server cannot continue."""
    headers = {"User-Agent": "convmixer-lab"} | ({"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as response:
        if response.status != 206:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionError("it continued at the wrong place")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with _errors_of(part):
            file = part.open("ab" if have else "wb", buffering=0)
        with file:
            while chunk := response.read(2**18):
                with _errors_of(part):
                    file.write(chunk)
                have += len(chunk)
                advance(have, total)
    if total is not None and have < total:
        raise ConnectionError("the connection broke off")
