"""What a search has left."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from convmixer.search.search import RECORDS


def records(out: Path) -> dict[str, Any]:
    """``grid_search.json`` without timings."""
    content: dict[str, Any] = json.loads((out / RECORDS).read_text())
    for row in content["trials"]:
        row["epoch_seconds"] = row["epoch_seconds"] and 0
    del content["command"]
    return content


def starts(out: Path) -> Counter[str]:
    """How many times a process began to train each run."""
    counts: Counter[str] = Counter()
    for file in (out / "runs").glob("*/environment.json"):
        environment = json.loads(file.read_text())
        while environment:
            counts[file.parent.name] += 1
            (environment,) = environment.get("earlier", [None])
    return counts
