"""The console for messages, and what several commands print."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from convmixer.errors import InputError
from convmixer.runtime.terminal import Terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERRORS = Terminal(stderr=True, soft_wrap=True)
"""Progress and messages, on stderr: stdout is for figures."""


def print_json(values: Any) -> None:
    """Prints values as indented JSON on stdout."""
    print(json.dumps(values, indent=2))


def save_picture(figure: Figure, path: Path) -> None:
    """Writes a figure to a file that the user named, .png or .svg; folders that are missing are made."""
    from convmixer.utils.visualization import save_figure

    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)


def print_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    optional: Sequence[str] = (),
) -> None:
    """Prints a table on stdout. Its first column, which names the rows, is never cut or wrapped.

    Args:
        headers: of the columns.
        rows: a text for each column.
        title: above the table.
        optional: columns that a terminal too narrow for all of them leaves out, in this order. Pipes and files always
            get everything, a line for each row.
    """
    console, kept, rows = Terminal(), list(headers), list(rows)
    left_out = []
    for name in ("", *optional):
        if name:
            kept.remove(name)
            left_out.append(name)
        table = _table(kept, [[row[headers.index(name)] for name in kept] for row in rows])
        width = console.measure(table, options=console.options.update(width=10_000)).maximum
        if width <= console.width or not console.is_terminal:
            break
    if not console.is_terminal:
        console.width = max(width, console.width)
    if title:
        console.print(Text(title, style="italic"), soft_wrap=not console.is_terminal)
    console.print(table)
    if left_out:
        console.print(f"A wider terminal or a pipe also shows: {', '.join(left_out)}.", style="dim")


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table()
    for i, header in enumerate(headers):
        first = max((cell_len(row[0]) for row in rows), default=0) if i == 0 else None
        table.add_column(Text(header), no_wrap=i == 0, min_width=first, overflow="fold")
    for row in rows:
        table.add_row(*(Text(" ".join(cell.split("\n"))) for cell in row))  # a name may have line ends
    return table


def check_figure_file(flag: str, path: Path | None) -> None:
    """Raises InputError if a figure cannot be written to a file of this name."""
    if path is not None and path.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"{flag}: {path} is neither a .png nor a .svg file; choose one of these suffixes.")
