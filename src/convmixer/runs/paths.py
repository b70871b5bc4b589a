"""Names: of checkpoints within a run directory, and of runs that were given none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from convmixer.config import RunConfig

CURRENT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
"""The one before, which is kept until the newest is known to be whole."""


def default_path(config: RunConfig, *, root: Path = Path("results/runs")) -> Path:
    """A name that says what the run is: model, data, recipe, seed, and the first digits of its identity hash."""
    dataset = Path(config.data.dataset.removeprefix("folder:")).name or "folder"
    return root / f"{config.model}-{dataset}-{config.recipe}-s{config.seed}-{config.identity_hash()[:6]}"


def unused_path(path: Path) -> Path:
    """``path``, or the first of path-2, path-3, … that does not exist."""
    return next(candidate for candidate in _numbered(path) if not candidate.exists())


def newest_path(path: Path) -> Path:
    """The last of path, path-2, path-3, … that exists, or ``path``."""
    existing = list(itertools.takewhile(Path.exists, _numbered(path)))
    return existing[-1] if existing else path


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
