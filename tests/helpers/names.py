"""Names that are code, or something else than they look, to a terminal, a page, a table or a picture."""

from __future__ import annotations

NAMES = (
    "[bold]",
    "x[#red]",
    ":smile:",
    "e\x1b]0;owned\x07",
    "c\x9b31m",
    "line\nbreak",
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "<script>alert(1)",
    "<img src=x onerror=alert(1)>",
    "`tick`",
    "$\\frac{1}{2}$",
    "a|b",
    "*b* _i_ ~~s~~",
    "猫",
    "🐱",
    "\u202egnp",
    "{0} %s",
    "\"quoted' &amp;",
    "e\u0301",
    "x" * 120,
)
"""Of files, so without slashes; all are UTF-8."""
