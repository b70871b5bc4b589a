"""The console for messages, and what several commands print."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

ERRORS = Console(stderr=True, soft_wrap=True)
"""Progress and messages, on stderr: stdout is for figures."""


def print_json(values: Any) -> None:
    """Prints values as indented JSON on stdout."""
    print(json.dumps(values, indent=2))


def percent(value: float | None) -> str:
    """A share as a percentage with two decimals; a dash for a figure that does not exist."""
    return "–" if value is None else f"{value:.2%}"
