"""Compact records of benchmarks and of ended runs, for the repository; runs can be restored from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convmixer import manifest
from convmixer.files import write_atomic


def run_records(folder: Path) -> list[dict[str, Any]]:
    """The ended runs below a folder: their files, epochs as columns; and what says which runs belong together."""
    records = []
    for path in sorted(folder.rglob("summary.json")):
        run = path.parent
        files = {name: read(run / name, {}) for name in ("config.json", "dataset.json", "summary.json")}
        epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        columns = {key: [rounded(epoch[key]) for epoch in epochs] for key in (epochs[0] if epochs else {})}
        records.append({"run": run.relative_to(folder).as_posix(), **files, "metrics.jsonl": columns})
    for path in sorted({*folder.glob("experiments/*.json"), *folder.glob("grid_search.json")}):
        if path.name == manifest.NAME:  # sums of files that are not among the records
            continue
        records.append({"file": path.relative_to(folder).as_posix(), "content": read(path, {})})
    return records


def rounded(value: Any) -> Any:
    """Six significant digits of a number with a fraction."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def restore(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Makes again what :func:`run_records` has read, where it is missing: ended runs are not repeated then.

    Weights are not among it, so a grid search that was stopped before it tested its winner needs raw/ as it was.
    """
    for record in records:
        if "file" in record:
            write_missing(folder / record["file"], json.dumps(record["content"]))
            continue
        run, columns = folder / record["run"], record["metrics.jsonl"]
        epochs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        write_missing(run / "metrics.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in epochs))
        for name in ("config.json", "dataset.json", "summary.json"):  # the mark of an ended run comes last
            write_missing(run / name, json.dumps(record[name]))


def write_missing(path: Path, text: str) -> None:
    """Writes a file that is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)


def read(path: Path, default: Any) -> Any:
    """A JSON file's content, or ``default`` if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def merge(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Adds records to a file, each in the place of an older one of the same thing; a line for each."""
    merged = {identity(record): record for record in [*read(path, []), *records]}
    lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in merged.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f"[\n{lines}\n]\n")


def identity(record: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two records records of the same thing: all words and sizes in them that no measuring changes."""
    keys = ("run", "file", "slice", "what", "model", "setting", "batch_size", "image_size", "epoch")
    return (*(record.get(key) for key in keys), record.get("axis"), record.get("value"), record.get("precision"))
