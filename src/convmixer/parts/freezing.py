"""Which modules the configuration's ``freeze`` names."""

from __future__ import annotations

import re

from convmixer.errors import InputError, nearest

_PARTS = ("stem", "blocks", "head", "features")


def frozen_modules(parts: str, depth: int | None = None) -> tuple[str, ...]:
    """The modules that ``freeze`` names, such as ("stem", "blocks.0", "blocks.1"); ``depth`` is the number of blocks.

    Raises:
        InputError: an unknown part, or, if ``depth`` is given, a block that does not exist.
    """
    names: list[str] = []
    for part in filter(None, map(str.strip, parts.split(","))):
        if part in ("stem", "head", "blocks"):
            names.append(part)
        elif part == "features":
            names += ["stem", "blocks"]
        elif match := re.fullmatch(r"blocks\.(\d{1,6})(?:-(\d{1,6}))?", part):
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first or (depth is not None and last >= depth):
                known = "" if depth is None else f"; the blocks are 0 to {depth - 1}"
                raise InputError(f"`freeze`: {part} names blocks that do not exist{known}.")
            names += [f"blocks.{i}" for i in range(first, last + 1)]
        else:
            raise InputError(f"`freeze`: {part!r} is no part; {nearest(part, (*_PARTS, 'blocks.0-3'))}")
    return tuple(dict.fromkeys(names))
