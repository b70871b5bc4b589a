"""Text of anybody's in Markdown."""

from __future__ import annotations

import re

from convmixer.runtime.terminal import printable


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in a paragraph as in a table's cell."""
    for mark in "\\`*_{}[]<>|$&~":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(printable(text).split())


def code(text: str) -> str:
    """Text in a span of code, between more backticks than it has in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{' '.join(printable(text).split())}{space}{fence}"
