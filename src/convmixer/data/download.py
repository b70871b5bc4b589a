"""Downloads that resume after an interruption, are verified, and give up quickly without a network."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, url2pathname

import requests
from filelock import Timeout
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from convmixer.errors import InputError
from convmixer.files import file_lock
from convmixer.runtime.progress import progress

if TYPE_CHECKING:
    from rich.console import Console

_TIMEOUT = 10.0  # seconds without an answer
_PAUSE = 0.5  # seconds before the second attempt, longer for each further one
_FRUITLESS = 3  # attempts in a row without new data before a source is given up
_CHUNK_BYTES = 2**18
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP statuses


@dataclass(frozen=True)
class Remote:
    """A file at ``url``, the name it gets here, and the MD5 of its content."""

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
    """Downloads the first available one of ``remotes`` into ``folder``, verified; returns its path.

    An interrupted download leaves ``<file>.part``, which the next one completes. Of several processes at once, one
    downloads and the others wait for it.

    Raises:
        Unavailable: none is available.
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
    if getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(urlsplit(url).hostname, None))
    except socket.gaierror:
        return False


@contextmanager
def _alone(path: Path, console: Console | None) -> Iterator[None]:
    """Waits until no other process holds the lock, which ends with its process."""
    lock = file_lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if console is not None:
            console.print("Waiting for another process that downloads the same.", highlight=False, markup=False)
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
    part = folder / f"{remote.file}.part"
    while True:
        resumed = part.exists()
        with progress(console, f"downloading {remote.file}", None, in_bytes=True) as advance:
            _download(remote.url, part, advance)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found == remote.md5:
            return part.replace(folder / remote.file)
        part.unlink()
        if not resumed:  # else perhaps just because of what was there before
            raise _Failed("it gave a file with another checksum")


def _download(url: str, part: Path, advance: Callable[[int, int | None], None]) -> None:
    """Completes ``part``, in several attempts if need be; raises _Failed."""
    if url.startswith("file:"):
        return _copy(url, part)
    fruitless = 0
    with requests.Session() as session:
        # It repeats requests without an answer, and temporary errors of servers. Connecting is tried once.
        retry = Retry(
            _FRUITLESS - 1, connect=0, status_forcelist=_TEMPORARY, backoff_factor=_PAUSE, raise_on_status=False
        )
        session.mount(f"{urlsplit(url).scheme}://", requests.adapters.HTTPAdapter(max_retries=retry))
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                return _read_rest(session, url, part, before, advance)
            except requests.RequestException as error:
                cause = _innermost(error)
                offline = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
                raise _Failed(str(getattr(cause, "strerror", None) or cause), offline) from None
            except HTTPError as error:  # the connection broke off
                fruitless = 0 if part.exists() and part.stat().st_size > before else fruitless + 1
                if fruitless == _FRUITLESS:
                    raise _Failed(str(error)) from None
            time.sleep(_PAUSE * fruitless)


def _read_rest(
    session: requests.Session, url: str, part: Path, have: int, advance: Callable[[int, int | None], None]
) -> None:
    """Appends to ``part`` what is missing, or writes it anew where the server cannot continue."""
    headers = {"User-Agent": "convmixer-lab", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={have}-"} if have else {}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        given = response.headers.get("Content-Range", "")
        if response.status_code == 416 and have:  # there is nothing behind what we have
            if given == f"bytes */{have}":
                return
            part.unlink()
            raise HTTPError("it has another file")
        if not response.ok:
            raise _Failed(f"HTTP {response.status_code} {response.reason}")
        if response.status_code != 206:
            have = 0
        elif not given.startswith(f"bytes {have}-"):
            part.unlink()
            raise HTTPError("it continued at the wrong place")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with _errors_of(part):
            file = part.open("ab" if have else "wb", buffering=0)
        with file:
            while chunk := response.raw.read1(_CHUNK_BYTES):  # unlike iter_content: what arrived before a break counts
                with _errors_of(part):
                    file.write(chunk)
                have += len(chunk)
                advance(have, total)


def _copy(url: str, part: Path) -> None:
    try:
        content = Path(url2pathname(urlsplit(url).path)).read_bytes()
    except OSError as error:
        raise _Failed(str(error.strerror)) from None
    with _errors_of(part):
        part.write_bytes(content)


def _innermost(error: BaseException) -> BaseException:
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error
