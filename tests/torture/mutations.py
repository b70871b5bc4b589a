"""Values that are rarely right, and changes of right ones: what the inputs are made of."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.helpers.names import NAMES


def value(random_: random.Random, depth: int = 3) -> Any:
    """A JSON value that is rarely the right one."""
    odd: list[Any] = [
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        2**64,
        10**400,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
    ]
    odd += ["", "x", "0", "nan", "../../../x", "/etc/passwd", "a\0b", "\ud800", "x" * 5000, "e\x1b]0;t\x07", *NAMES]
    if depth and random_.random() < 0.3:
        if random_.random() < 0.5:
            return [value(random_, depth - 1) for _ in range(random_.randrange(4))]
        return {str(value(random_, 0))[:40]: value(random_, depth - 1) for _ in range(random_.randrange(4))}
    return random_.choice(odd)


def changed(random_: random.Random, values: Any) -> Any:
    """A copy of JSON values with one to three of them replaced, removed, renamed or added."""
    copy = json.loads(json.dumps(values))
    for _ in range(random_.randint(1, 3)):
        owner = copy
        while isinstance(owner, (dict, list)) and owner:
            key = random_.choice(list(owner)) if isinstance(owner, dict) else random_.randrange(len(owner))
            inner = owner[key]
            if isinstance(inner, (dict, list)) and inner and random_.random() < 0.8:
                owner = inner
                continue
            how = random_.random()
            if how < 0.7:
                owner[key] = value(random_)
            elif how < 0.85:
                del owner[key]
            elif isinstance(owner, dict):
                owner[str(value(random_, 0))[:40]] = inner
            break
    return copy


def text_of(random_: random.Random, values: Any) -> bytes:
    """JSON, whole or with damage in its bytes, or nested beyond reason."""
    how = random_.random()
    if how < 0.02:
        return b"[" * 100_000
    content = json.dumps(values).encode()
    return mutated(random_, content) if how < 0.25 else content


def mutated(random_: random.Random, content: bytes) -> bytes:
    """Bytes with some of them changed, moved, doubled or cut off."""
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 2, 4, 16))):
        place, length = random_.randrange(len(data) + 1), random_.randrange(1, 9)
        how = random_.randrange(6)
        if how == 0 and place < len(data):
            data[place] ^= 1 << random_.randrange(8)
        elif how == 1:
            data[place : place + length] = random_.randbytes(length)
        elif how == 2:
            del data[place : place + length]
        elif how == 3:
            data[place:place] = data[random_.randrange(len(data) + 1) :][:length]
        elif how == 4 and random_.random() < 0.3:
            del data[place:]
        else:
            data[place : place + 4] = random_.choice(
                (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1")
            )
    return bytes(data)
