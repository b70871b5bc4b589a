"""Trained models side by side: what ``convmixer bench --files`` wrote, as rows and as a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convmixer.errors import InputError
from convmixer.records import build
from convmixer.report.records import FileRow, FilesRecord
from convmixer.report.tables import Cell, Table
from convmixer.utils.comparisons import pareto_front
from convmixer.utils.formatting import NOTHING, accuracy, count, half_width, points

FILES = "bench_files.json"
"""Name of the files that a report takes up."""
COLUMNS = ("Multiply-adds", "Parameters", "Runtime", "p99", "Memory", "Against the first")
"""Headers of what a narrow terminal may leave out, in this order."""


@dataclass(frozen=True)
class _Rows:
    rows: tuple[FileRow, ...]


def files_of(folder: str, values: Any, where: str) -> FilesRecord:
    """The rows of a record in ``folder``, a path below the report's own folder; ``where`` is the file's name.

    Raises:
        InputError: they are not such rows.
    """
    rows = build(_Rows, {"rows": values}, where, others=True).rows
    if not rows:
        raise InputError(f"{where}: has no rows; convmixer bench --files writes it anew.")
    front = set(pareto_front([(row.latency_p50, row.accuracy) for row in rows]))
    title = "Models side by side" + (f" ({folder})" if folder not in ("", ".") else "")
    rows = tuple(replace(row, on_front=i in front) for i, row in enumerate(rows))
    return FilesRecord(name=(Path(folder) / Path(FILES).stem).as_posix(), title=title, rows=rows)


def files_conditions(record: FilesRecord) -> str:
    """On what they were measured, and what the marks in the table mean."""
    first = record.rows[0]
    return (
        f"{first.data}, {count(first.images)} test images. Latency: one image, one thread; throughput: batches of "
        f"{first.batch_size}, {first.threads} threads; {first.device_name}. × is the ratio to {first.file}, * the "
        "Pareto front of accuracy and latency."
    )


def files_table(record: FilesRecord) -> Table:
    """What each is worth and costs."""
    first = record.rows[0]
    headers = ("Model", "Accuracy", "Against the first", "Size", "Latency", "p99", "Images in a second", "Memory",
               "Runtime", "Parameters", "Multiply-adds")  # fmt: skip
    return Table(record.title, headers, tuple(_row(row, first) for row in record.rows), details=COLUMNS)


def _row(row: FileRow, first: FileRow) -> tuple[Cell, ...]:
    compared = NOTHING
    if row is not first:
        compared = f"{points(row.difference)}{half_width(row.difference_half_width)}, p = {row.p_value:.2g}"
    runtime = row.runtime if row.precision == "float32" else f"{row.runtime}, {row.precision}"
    memory = None if row.peak_memory is None else row.peak_memory / 1e6
    return (
        Cell(row.file + " *" * row.on_front, value=row.file),
        Cell(accuracy(row.accuracy, row.images), value=row.accuracy),
        Cell(compared, value=row.difference),
        Cell(f"{row.bytes / 1e6:.2f} MB", _times(row.bytes, first.bytes), row.bytes),
        Cell(_milliseconds(row.latency_p50), f"× {row.latency_ratio:.2f}", row.latency_p50),
        Cell(_milliseconds(row.latency_p99), value=row.latency_p99),
        Cell(f"{row.images_per_second:,.0f}", f"× {row.speed_ratio:.2f}", row.images_per_second),
        Cell(NOTHING if memory is None else f"{memory:.0f} MB", value=memory),
        Cell(runtime, value=runtime),
        Cell(count(row.parameters), value=row.parameters),
        Cell(f"{row.multiply_adds / 1e6:,.1f} M", value=row.multiply_adds),
    )


def _times(value: float, first: float) -> str:
    return f"× {value / first:.2f}" if first else ""


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
