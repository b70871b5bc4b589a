"""What becomes of a file: bits, ends, contents, other files, folders, links and pipes."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, Path, random.Random], None]
"""Damages the first path; the second one is the same file of another run, if that has one."""


def _flipped(count: int) -> Damage:
    def damage(path: Path, other: Path, random_: random.Random) -> None:
        content = bytearray(path.read_bytes())
        for _ in range(count if content else 0):
            content[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
        path.write_bytes(content)

    return damage


def _truncated(path: Path, other: Path, random_: random.Random) -> None:
    os.truncate(path, random_.randrange(max(1, path.stat().st_size)))


def _last_byte(path: Path, other: Path, random_: random.Random) -> None:
    os.truncate(path, max(0, path.stat().st_size - 1))


def _emptied(path: Path, other: Path, random_: random.Random) -> None:
    path.write_bytes(b"")


def _garbage(path: Path, other: Path, random_: random.Random) -> None:
    path.write_bytes(random_.randbytes(path.stat().st_size))


def _zeros(path: Path, other: Path, random_: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _longer(path: Path, other: Path, random_: random.Random) -> None:
    path.write_bytes(path.read_bytes() + random_.randbytes(random_.randrange(1, 99)))


def _deleted(path: Path, other: Path, random_: random.Random) -> None:
    path.unlink()


def _swapped(path: Path, other: Path, random_: random.Random) -> None:
    if other.is_file():
        shutil.copyfile(other, path)
    else:
        _garbage(path, other, random_)


def _digit(path: Path, other: Path, random_: random.Random) -> None:
    """Another digit, as in a file that somebody has edited: the file stays well-formed."""
    content = path.read_bytes()
    places = [match.start() for match in re.finditer(rb"(?<=[0-9.])[0-9](?=[0-9])", content)]
    if not places:
        return _flipped(1)(path, other, random_)
    place = random_.choice(places)
    digit = random_.choice([d for d in b"123456789" if d != content[place]])
    path.write_bytes(content[:place] + bytes([digit]) + content[place + 1 :])
    return None


def _folder(path: Path, other: Path, random_: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path, other: Path, random_: random.Random) -> None:
    path.unlink()
    path.symlink_to(other if other.exists() else path)


def _loop(path: Path, other: Path, random_: random.Random) -> None:
    path.unlink()
    path.symlink_to(path)


def _pipe(path: Path, other: Path, random_: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _endless(path: Path, other: Path, random_: random.Random) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGES: dict[str, Damage] = {
    "one bit": _flipped(1),
    "one bit, elsewhere": _flipped(1),
    "eight bits": _flipped(8),
    "truncated": _truncated,
    "last byte missing": _last_byte,
    "emptied": _emptied,
    "garbage": _garbage,
    "zeros": _zeros,
    "longer": _longer,
    "deleted": _deleted,
    "another run's": _swapped,
    "another digit": _digit,
    "a folder": _folder,
    "a link to another run's": _link,
    "a link to itself": _loop,
    "a pipe": _pipe,
    "/dev/zero": _endless,
}
