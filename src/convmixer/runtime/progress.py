"""Progress bars of work that is no training."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def draws_bars(console: Console) -> bool:
    """Whether a progress bar can be redrawn there: on terminals, and in notebooks that have ipywidgets."""
    return console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)


@contextmanager
def progress(
    console: Console | None, text: str, total: int | None, *, in_bytes: bool = False
) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar, drawn on terminals and in notebooks only.

    Yields a function of the amount done so far and of the total, None while that is unknown.
    """
    if console is None or not draws_bars(console):
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)
