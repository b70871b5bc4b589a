"""The type of the fixture ``convmixer``."""

from __future__ import annotations

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]
"""Arguments of a command line to its status, stdout and stderr."""
